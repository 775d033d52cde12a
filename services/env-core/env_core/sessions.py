"""The session store: when a session begins, goes on, is refused, ends and is forgotten."""

import asyncio
import time
import uuid
from collections.abc import Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

from env_core import logs
from env_core.environment import Task
from env_core.errors import (
    ServiceError,
    draining,
    episode_done,
    expired_session,
    reply_forgotten,
    step_in_progress,
    too_many_sessions,
    unknown_session,
)
from env_core.journal import Journal
from env_core.metrics import Metrics
from env_core.player import Player, ReplayDivergedError
from env_core.protocol import ForkRequest, ResetRequest, StepRequest
from env_core.session import Session, first_position, fork, next_position, state

REMEMBERED_GONE = 10_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """How many sessions there may be, and for how long nobody may use one."""

    max_sessions: int
    kept_sessions: int
    idle_timeout_s: float


class SessionStore:
    """All sessions of a service. Replies are JSON, ready to be sent."""

    def __init__(self, player: Player, limits: Limits, journal: Journal | None, metrics: Metrics) -> None:
        self.limits = limits
        self.draining = False
        self._player = player
        self._journal = journal
        self._metrics = metrics
        self._live: dict[str, Session] = {}
        self._over: dict[str, Session] = {}  # in the order in which they ended
        self._gone: dict[str, str] = {}  # session id -> why
        self._watched: dict[str, asyncio.Future[str]] = {}
        self._resets: dict[str, tuple[str, asyncio.Task[bytes] | None]] = {}  # request id -> session id, and the work while it is on
        self._opening: set[str] = set()  # ids of sessions in which an episode begins
        self._in_flight: set[asyncio.Task[Any]] = set()
        metrics.watch("eto_env_sessions", "Sessions, by state.", self.counts)

    def restore(self, session: Session) -> None:
        """Take in a session that a former process left."""
        session.used_at = time.monotonic()
        (self._over if session.done else self._live)[session.session_id] = session
        if session.reset_id is not None:
            self._resets[session.reset_id] = (session.session_id, None)

    @property
    def full(self) -> bool:
        """Whether the next new episode would be refused."""
        return self.live >= self.limits.max_sessions

    @property
    def live(self) -> int:
        """How many episodes are under way or begin."""
        return len(self._live) + len(self._opening)

    def too_many(self) -> ServiceError:
        """Return the error of a request over the cap."""
        return too_many_sessions(self.live, self.limits.max_sessions)

    def counts(self) -> Mapping[str, int]:
        """Return how many sessions are in each state."""
        running = sum(session.running is not None for session in self._live.values())
        return {"running": running, "idle": len(self._live) - running, "done": len(self._over)}

    async def reset(self, request: ResetRequest, task: Task, new_id: str | None = None) -> tuple[str, bytes]:
        """Begin an episode in a new session (named `new_id`), or in the one that is named; once for each request id.

        Return the session's id and the reply.
        """
        if request.request_id in self._resets:
            return await self._repeated(request.request_id)
        self._refuse_while_draining()
        old = None if request.session_id is None else self._idle_session(request.session_id)
        session_id = old.session_id if old else new_id or uuid.uuid4().hex
        if session_id in self._opening or (old is None and (session_id in self._live or session_id in self._over)):
            raise step_in_progress(session_id)
        opens = old is None or old.done
        if opens:
            self._refuse_over_cap()
            self._opening.add(session_id)
        session = Session(
            session_id=session_id,
            episode_id=request.episode_id,
            task=task,
            seed=request.seed,
            max_steps=request.max_steps or task.max_steps,
            reset_id=request.request_id,
        )
        work = self._start(old or session, None, self._begin(session, old, list(request.include)))
        if request.request_id is not None:
            self._resets[request.request_id] = (session.session_id, work)
        return session.session_id, await asyncio.shield(work)

    async def step(self, request: StepRequest) -> bytes:
        """Take one action, once for each request id."""
        session = self._session(request.session_id)
        if request.request_id is not None:
            if (stored := session.reply_to(request.request_id)) is not None:
                return self._kept(stored, request.request_id)
            if session.running is not None and session.running_request_id == request.request_id:
                reply: bytes = await asyncio.shield(session.running)
                return reply
        self._idle_session(request.session_id)
        if session.done:
            raise episode_done(session.session_id)
        self._refuse_while_draining()
        return await asyncio.shield(self._start(session, request.request_id, self._step(session, request)))

    def fork(self, session_id: str, request: ForkRequest) -> tuple[str, bytes]:
        """Open a new session in the same state; return its id and the reply."""
        session = self._idle_session(session_id)
        if session.done:
            raise episode_done(session_id)
        self._refuse_while_draining()
        self._refuse_over_cap()
        copy = fork(session, uuid.uuid4().hex, request.episode_id)
        if self._journal is not None:
            self._journal.fork(session, copy)
        self.restore(copy)
        return copy.session_id, copy.at.reply

    def state(self, session_id: str) -> dict[str, Any]:
        """Return where a session stands."""
        return state(self._session(session_id))

    def last_reply(self, session_id: str) -> bytes:
        """Return the last reply of a session."""
        return self._session(session_id).at.reply

    def states(self) -> list[dict[str, Any]]:
        """Return where all sessions stand."""
        return [state(session) for sessions in (self._over, self._live) for session in sessions.values()]

    async def ask(self, session_id: str, call: str, **fields: Any) -> Any:
        """Ask a session's engine something that does not change its episode."""
        session = self._idle_session(session_id)
        self._refuse_while_draining()
        return await asyncio.shield(self._start(session, None, self._ask(session, {"call": call, **fields})))

    def delete(self, session_id: str) -> None:
        """Forget a session."""
        self._forget(self._idle_session(session_id))

    def watch(self, session_id: str) -> "asyncio.Future[str]":
        """Return what will hold the reason when the service ends the session."""
        return self._watched.setdefault(session_id, asyncio.get_running_loop().create_future())

    async def expire_forever(self) -> None:
        """End the sessions that nobody used for too long."""
        while True:
            await asyncio.sleep(min(self.limits.idle_timeout_s / 4, 10))
            limit = time.monotonic() - self.limits.idle_timeout_s
            for session in [s for s in [*self._live.values(), *self._over.values()] if s.running is None and s.used_at < limit]:
                self._end(session, f"nobody used it for {self.limits.idle_timeout_s:g} s")

    async def drain(self, timeout_s: float) -> None:
        """Refuse new work, and wait for what is under way."""
        self.draining = True
        if self._in_flight:
            await asyncio.wait(list(self._in_flight), timeout=timeout_s)

    def _start(self, session: Session, request_id: str | None, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        """Run to the end, even if the client goes away, and keep others out of the session meanwhile."""
        logs.session_id.set(session.session_id)
        if request_id is not None:
            logs.request_id.set(request_id)
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
        return task

    async def _begin(self, session: Session, old: Session | None, include: list[str]) -> bytes:
        with ExitStack() as failed:
            failed.callback(self._resets.pop, session.reset_id or "", None)
            failed.callback(self._player.leave, session)
            if old is not None:
                session.lease, old.lease = old.lease, None  # if this fails, the old episode is replayed when it goes on
            started = time.monotonic()
            try:
                outcome = await self._player.load(session, include)
            finally:
                self._opening.discard(session.session_id)
            session.info = outcome["info"]
            position = first_position(session, outcome)
            if self._journal is not None:
                self._journal.begin(session, position)
            failed.pop_all()
        if old is not None:
            self._resets.pop(old.reset_id or "", None)
        self._metrics.reset_s.observe(time.monotonic() - started)
        session.move(session.reset_id, position)
        self._over.pop(session.session_id, None)
        self.restore(session)
        self._settle(session)
        return position.reply

    async def _step(self, session: Session, request: StepRequest) -> bytes:
        action = request.action if isinstance(request.action, str) else request.action.action
        started = time.monotonic()
        outcome = await self._played(session, self._player.step(session, action, list(request.include), request.timeout_s))
        position = next_position(session, outcome)
        if self._journal is not None:
            try:
                self._journal.step(session, action, request.request_id, position)
            except ServiceError:
                self._player.leave(session)  # its engine is one step ahead
                raise
        self._metrics.step_s.observe(time.monotonic() - started)
        session.move(request.request_id, position, action)
        self._settle(session)
        return position.reply

    async def _ask(self, session: Session, request: dict[str, Any]) -> Any:
        answer = await self._played(session, self._player.ask(session, request))
        self._settle(session)
        return answer

    async def _played(self, session: Session, work: Coroutine[None, None, T]) -> T:
        try:
            return await work
        except ReplayDivergedError:
            self._end(session, "its replay in a new engine gave other observations")
            raise

    def _settle(self, session: Session) -> None:
        """Free the engine of an episode that is over; forget the oldest such episodes."""
        if not session.done:
            return
        self._player.leave(session)
        self._live.pop(session.session_id, None)
        self._over[session.session_id] = session
        for oldest in [s for s in self._over.values() if s.running is None][: max(0, len(self._over) - self.limits.kept_sessions)]:
            self._end(oldest, f"it was over, and only the last {self.limits.kept_sessions} such sessions are kept")

    def _end(self, session: Session, reason: str) -> None:
        self._gone[session.session_id] = reason
        while len(self._gone) > REMEMBERED_GONE:
            del self._gone[next(iter(self._gone))]
        if (watcher := self._watched.get(session.session_id)) is not None and not watcher.done():
            watcher.set_result(reason)
        self._forget(session)

    def _forget(self, session: Session) -> None:
        self._live.pop(session.session_id, None)
        self._over.pop(session.session_id, None)
        self._watched.pop(session.session_id, None)
        self._resets.pop(session.reset_id or "", None)
        if self._journal is not None:
            self._journal.forget(session.session_id)
        self._player.leave(session)

    async def _repeated(self, request_id: str | None) -> tuple[str, bytes]:
        assert request_id is not None  # noqa: S101 - it is a key of _resets
        session_id, work = self._resets[request_id]
        if work is not None and not work.done():
            return session_id, await asyncio.shield(work)
        return session_id, self._kept(self._session(session_id).reply_to(request_id) or b"", request_id)

    def _kept(self, reply: bytes, request_id: str) -> bytes:
        if not reply:
            raise reply_forgotten(request_id)
        return reply

    def _session(self, session_id: str) -> Session:
        session = self._live.get(session_id) or self._over.get(session_id)
        if session is not None:
            session.used_at = time.monotonic()
            return session
        if (reason := self._gone.get(session_id)) is not None:
            raise expired_session(session_id, reason)
        raise unknown_session(session_id)

    def _idle_session(self, session_id: str) -> Session:
        session = self._session(session_id)
        if session.running is not None:
            raise step_in_progress(session_id)
        return session

    def _refuse_while_draining(self) -> None:
        if self.draining:
            raise draining()

    def _refuse_over_cap(self) -> None:
        if self.full:
            raise self.too_many()
