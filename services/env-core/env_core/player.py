"""Plays a session on an engine: when the engine is lost or hangs, takes another, replays, compares and goes on."""

import asyncio
import logging
from typing import Any

from env_core.errors import ServiceError, engine_unavailable
from env_core.lease import Lease
from env_core.metrics import Metrics
from env_core.pool import EnginePool
from env_core.session import Session, chain
from env_core.worker_process import EngineLostError, EngineTimeoutError

log = logging.getLogger(__name__)

TRIES_AFTER_LOSS = 3
TRIES_AFTER_TIMEOUT = 2
TRIES_TO_RESTORE = 5
REASONS: dict[type[BaseException], str] = {EngineLostError: "lost", EngineTimeoutError: "timeout"}


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

    def __init__(self, pool: EnginePool, load_timeout_s: float, step_timeout_s: float, metrics: Metrics) -> None:
        self._pool = pool
        self._load_timeout_s = load_timeout_s
        self._step_timeout_s = step_timeout_s
        self._metrics = metrics

    async def load(self, session: Session, include: list[str]) -> dict[str, Any]:
        """Begin the session's episode."""
        return await self._ask(session, _load_request(session, include), self._load_timeout_s)

    async def step(self, session: Session, action: str, include: list[str], timeout_s: float | None = None) -> dict[str, Any]:
        """Take one action in the session's episode; `timeout_s` is for this action alone, not for a replay or a wait for an engine."""
        return await self._ask(session, _step_request(action, include), timeout_s or self._step_timeout_s)

    async def ask(self, session: Session, request: dict[str, Any]) -> dict[str, Any]:
        """Ask the session's engine what does not change the episode."""
        return await self._ask(session, request, self._step_timeout_s)

    def leave(self, session: Session) -> None:
        """Give the session's engine back."""
        if session.lease is not None:
            lease, session.lease = session.lease, None
            self._pool.release(lease)

    async def _ask(self, session: Session, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        losses = timeouts = 0
        while True:
            try:
                lease = session.lease = await self._lease_for(session, request["call"])
                answer, took_s = await lease.call(request, timeout_s)
            except (EngineLostError, EngineTimeoutError) as error:
                await self._drop(session, error)
                losses += isinstance(error, EngineLostError) and error.began  # else it was a neighbour in the worker that ended it
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
            except asyncio.CancelledError as error:  # in mid-call: nothing is known of the engine's state
                await self._drop(session, error)
                raise
            else:
                if request["call"] == "load":
                    session.replay_s = took_s
                elif request["call"] == "step":
                    session.replay_s += took_s
                self._pool.rest(lease, session.replay_s)
                return answer

    async def _lease_for(self, session: Session, call: str) -> Lease:
        """Return an engine in which the session's past has been played, unless the call begins the episode anyway."""
        if session.lease is not None and self._pool.resume(session.lease):
            return session.lease
        session.lease = None
        for _ in range(TRIES_TO_RESTORE):
            session.lease = await self._pool.acquire(self._load_timeout_s)
            if call == "load":
                return session.lease
            try:
                digest = await self._replay(session, session.lease)
            except (EngineLostError, EngineTimeoutError) as error:
                await self._drop(session, error)
                continue
            if digest != session.at.digest:
                self.leave(session)
                raise ReplayDivergedError(session.session_id)
            self._metrics.restore_s.observe(session.replay_s)
            return session.lease
        raise engine_unavailable(f"{TRIES_TO_RESTORE} of them were lost while they replayed session {session.session_id}")

    async def _replay(self, session: Session, lease: Lease) -> bytes:
        """Play the session's past in a fresh engine; return the digest of what was seen."""
        outcome, session.replay_s = await lease.call(_load_request(session, []), self._load_timeout_s)
        digest = chain(b"", outcome)
        for action in session.actions:
            outcome, took_s = await lease.call(_step_request(action, []), self._step_timeout_s)
            digest = chain(digest, outcome)
            session.replay_s += took_s
        return digest

    async def _drop(self, session: Session, error: BaseException) -> None:
        """Kill the session's engine, after an error that leaves its state unknown."""
        if session.lease is not None:
            log.warning("The session lost its engine: %s", error or type(error).__name__)
            lease, session.lease = session.lease, None
            await self._pool.discard(lease, REASONS.get(type(error), "broken_off"))


def _load_request(session: Session, include: list[str]) -> dict[str, Any]:
    return {"call": "load", "task_id": session.task.task_id, "seed": session.seed, "include": include}


def _step_request(action: str, include: list[str]) -> dict[str, Any]:
    return {"call": "step", "action": action, "include": include}
