"""Plays a session on an engine: when the engine is lost or hangs, takes another, replays, compares and goes on."""

import logging
from typing import Any

from env_core.engine_process import EngineLostError, EngineProcess, EngineTimeoutError
from env_core.errors import ServiceError, engine_unavailable
from env_core.pool import EnginePool
from env_core.session import Session, chain

log = logging.getLogger(__name__)

TRIES_AFTER_LOSS = 3
TRIES_AFTER_TIMEOUT = 2


class ReplayDivergedError(ServiceError):
    """The session is over: its past cannot be brought back."""

    def __init__(self, session_id: str) -> None:
        super().__init__(
            502,
            "replay_diverged",
            f"Session {session_id} was to go on in a new engine after its own was lost, but the replay of its actions "
            "gave other observations; the session is over, reset to begin the task again.",
        )


class Player:
    """Asks engines on behalf of sessions. Each call to an engine has a deadline."""

    def __init__(self, pool: EnginePool, load_timeout_s: float, step_timeout_s: float) -> None:
        self._pool = pool
        self._load_timeout_s = load_timeout_s
        self._step_timeout_s = step_timeout_s

    async def load(self, session: Session, include: list[str]) -> dict[str, Any]:
        """Begin the session's episode."""
        return await self._ask(session, _load_request(session, include), self._load_timeout_s)

    async def step(self, session: Session, action: str, include: list[str], timeout_s: float | None = None) -> dict[str, Any]:
        """Take one action in the session's episode; `timeout_s` is for this action alone, not for a replay."""
        return await self._ask(session, _step_request(action, include), timeout_s or self._step_timeout_s)

    async def leave(self, session: Session) -> None:
        """Give the session's engine back."""
        if session.engine is not None:
            engine, session.engine = session.engine, None
            await self._pool.release(engine)

    async def _ask(self, session: Session, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        losses = timeouts = 0
        while True:
            try:
                if session.engine is None:
                    session.engine = await self._engine_for(session, request["call"])
                return await session.engine.call(request, timeout_s)
            except (EngineLostError, EngineTimeoutError) as error:
                log.warning("Session %s lost its engine: %s", session.session_id, error)
                await self._drop(session)
                losses += isinstance(error, EngineLostError)
                timeouts += isinstance(error, EngineTimeoutError)
                if timeouts >= TRIES_AFTER_TIMEOUT:
                    raise ServiceError(
                        504,
                        "step_timeout",
                        f"A {request['call']} in session {session.session_id} was given {timeout_s:g} s and passed it in "
                        "a fresh engine too; it was not taken: send another action, or a longer timeout_s.",
                    ) from error
                if losses >= TRIES_AFTER_LOSS:
                    raise engine_unavailable(f"{losses} of them ended while at work: {error}") from error
            except BaseException:  # cancelled in mid-call: the engine's answer would be taken for the next one's
                await self._drop(session)
                raise

    async def _drop(self, session: Session) -> None:
        if session.engine is not None:
            engine, session.engine = session.engine, None
            await self._pool.discard(engine)

    async def _engine_for(self, session: Session, call: str) -> EngineProcess:
        """Return an engine in which the session's past has been played, unless the call begins the episode anyway."""
        engine = await self._pool.acquire(self._load_timeout_s)
        if call == "load":
            return engine
        try:
            outcome = await engine.call(_load_request(session, []), self._load_timeout_s)
            digest = chain(b"", outcome)
            for action in session.actions:
                outcome = await engine.call(_step_request(action, []), self._step_timeout_s)
                digest = chain(digest, outcome)
        except BaseException:
            await self._pool.discard(engine)
            raise
        if digest != session.digest:
            await self._pool.release(engine)
            raise ReplayDivergedError(session.session_id)
        return engine


def _load_request(session: Session, include: list[str]) -> dict[str, Any]:
    return {"call": "load", "task_id": session.task.task_id, "seed": session.seed, "include": include}


def _step_request(action: str, include: list[str]) -> dict[str, Any]:
    return {"call": "step", "action": action, "include": include}
