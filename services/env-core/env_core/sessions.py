"""The session store: when a session begins, goes on, is refused, ends and is forgotten."""

import asyncio
import time
import uuid
from collections.abc import Coroutine
from typing import Any, TypeVar

import orjson

from env_core.environment import Task
from env_core.errors import ServiceError, draining
from env_core.player import Player, ReplayDivergedError
from env_core.protocol import ResetRequest, StepRequest
from env_core.session import Session, begin, record, state

REMEMBERED_GONE = 10_000

T = TypeVar("T")


class SessionStore:
    """All sessions of a service. Replies are JSON, ready to be sent."""

    def __init__(self, player: Player, max_sessions: int, kept_sessions: int, idle_timeout_s: float) -> None:
        self.max_sessions = max_sessions
        self.draining = False
        self._player = player
        self._kept_sessions = kept_sessions
        self._idle_timeout_s = idle_timeout_s
        self._sessions: dict[str, Session] = {}
        self._gone: dict[str, str] = {}  # session id -> why
        self._opening = 0
        self._in_flight: set[asyncio.Task[Any]] = set()

    async def reset(self, request: ResetRequest, task: Task) -> tuple[str, bytes]:
        """Begin an episode in a new session, or in the one that is named; return its id and the reply."""
        self._refuse_while_draining()
        old = None if request.session_id is None else self._idle_session(request.session_id)
        opens = old is None or old.done
        if opens:
            self._refuse_over_cap()
        session = Session(
            session_id=old.session_id if old else uuid.uuid4().hex,
            episode_id=request.episode_id,
            task=task,
            seed=request.seed,
            max_steps=request.max_steps or task.max_steps,
        )
        self._opening += opens
        work = self._begin(session, old, list(request.include), opens)
        return session.session_id, await self._run(old or session, None, work)

    async def step(self, request: StepRequest) -> bytes:
        """Take one action, once for each request id."""
        session = self._session(request.session_id)
        if request.request_id is not None:
            if (stored := session.replies.get(request.request_id)) is not None:
                return stored
            if session.running is not None and session.running_request_id == request.request_id:
                return await asyncio.shield(session.running)
        self._idle_session(request.session_id)
        if session.done:
            raise ServiceError(
                409,
                "episode_done",
                f"An action was sent to session {session.session_id}, but its episode is over; "
                "reset, with this session_id or without, to play on.",
            )
        self._refuse_while_draining()
        return await self._run(session, request.request_id, self._step(session, request))

    def state(self, session_id: str) -> dict[str, Any]:
        """Return where a session stands."""
        return state(self._session(session_id))

    def states(self) -> list[dict[str, Any]]:
        """Return where all sessions stand."""
        return [state(session) for session in self._sessions.values()]

    def delete(self, session_id: str) -> None:
        """Forget a session."""
        session = self._idle_session(session_id)
        del self._sessions[session_id]
        self._player.leave(session)

    async def page(self, session_id: str) -> str:
        """Return a session's current page as HTML."""
        session = self._idle_session(session_id)
        self._refuse_while_draining()
        return await self._run(session, None, self._player.render(session))

    async def expire_forever(self) -> None:
        """End the sessions that nobody used for too long."""
        while True:
            await asyncio.sleep(min(self._idle_timeout_s / 4, 10))
            limit = time.monotonic() - self._idle_timeout_s
            for session in [s for s in self._sessions.values() if s.running is None and s.used_at < limit]:
                self._end(session, f"nobody used it for {self._idle_timeout_s:g} s")

    async def drain(self, timeout_s: float) -> None:
        """Refuse new work, and wait for what is under way."""
        self.draining = True
        if self._in_flight:
            await asyncio.wait(list(self._in_flight), timeout=timeout_s)

    async def _run(self, session: Session, request_id: str | None, work: Coroutine[None, None, T]) -> T:
        """Run to the end, even if the client goes away, and keep others out of the session meanwhile."""
        task = asyncio.create_task(work)
        self._in_flight.add(task)
        session.running, session.running_request_id = task, request_id

        def ended(task: asyncio.Task[T]) -> None:
            self._in_flight.discard(task)
            session.running = session.running_request_id = None
            session.used_at = time.monotonic()
            if not task.cancelled():
                task.exception()  # seen, also where the client is gone

        task.add_done_callback(ended)
        return await asyncio.shield(task)

    async def _begin(self, session: Session, old: Session | None, include: list[str], opens: bool) -> bytes:
        try:
            if old is not None:
                session.lease, old.lease = old.lease, None  # if this fails, the old episode is replayed when it goes on
            outcome = await self._player.load(session, include)
        finally:
            self._opening -= opens
        reply = orjson.dumps(begin(session, outcome))
        session.used_at = time.monotonic()
        self._sessions.pop(session.session_id, None)
        self._sessions[session.session_id] = session
        self._settle(session)
        return reply

    async def _step(self, session: Session, request: StepRequest) -> bytes:
        action = request.action if isinstance(request.action, str) else request.action.action
        try:
            outcome = await self._player.step(session, action, list(request.include), request.timeout_s)
        except ReplayDivergedError:
            self._end(session, "its replay in a new engine gave other observations")
            raise
        reply = orjson.dumps(record(session, action, outcome))
        if request.request_id is not None:
            session.replies[request.request_id] = reply
        if session.done:
            self._settle(session)
        return reply

    def _settle(self, session: Session) -> None:
        """Free the engine of an episode that is over; forget the oldest such episodes."""
        if not session.done:
            return
        self._player.leave(session)
        over = [s for s in self._sessions.values() if s.done and s.running is None]
        for oldest in over[: max(0, len(over) - self._kept_sessions)]:
            self._end(oldest, f"it was over, and only the last {self._kept_sessions} such sessions are kept")

    def _end(self, session: Session, reason: str) -> None:
        self._sessions.pop(session.session_id, None)
        self._gone[session.session_id] = reason
        while len(self._gone) > REMEMBERED_GONE:
            del self._gone[next(iter(self._gone))]
        self._player.leave(session)

    def _session(self, session_id: str) -> Session:
        session = self._sessions.get(session_id)
        if session is not None:
            session.used_at = time.monotonic()
            return session
        if (reason := self._gone.get(session_id)) is not None:
            raise ServiceError(
                404, "expired_session", f"Session {session_id} was asked for, but it was ended: {reason}; reset for a new one."
            )
        raise ServiceError(
            404, "unknown_session", f"Session {session_id} was asked for, but there is none of this id; reset for a new one."
        )

    def _idle_session(self, session_id: str) -> Session:
        session = self._session(session_id)
        if session.running is not None:
            raise ServiceError(
                409,
                "step_in_progress",
                f"Session {session_id} was asked for while an earlier request to it is still at work; wait for its reply.",
            )
        return session

    def _refuse_while_draining(self) -> None:
        if self.draining:
            raise draining()

    def _refuse_over_cap(self) -> None:
        live = sum(not session.done for session in self._sessions.values())
        if live + self._opening >= self.max_sessions:
            raise ServiceError(
                429,
                "too_many_sessions",
                f"A new episode was asked for, but {live + self._opening} are live and the cap is {self.max_sessions}; "
                "end or delete one, or start the service with a higher --max-sessions.",
                retry_after_s=1,
            )
