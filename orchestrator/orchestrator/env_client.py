"""A client of an environment service (docs/formats.md, "Environment service")."""

import math
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from orchestrator.http import LATER, Refused, Unavailable, request
from orchestrator.replicas import Replica, Replicas

#: Errors after which the session is gone though the task is not: the episode starts again.
LOST_SESSION = frozenset({"unknown_session", "expired_session", "replay_diverged", "step_timeout", "engine_unavailable"})
#: Seconds for which one of several replicas may be away before its sessions are given up. A killed one is back after some 5 s.
LOST_AFTER_S = 60.0
#: Seconds for which a session is tried to be deleted whose episode was cancelled or failed: a step at work may end in them. What is left
#: of a service that is gone is closed when the run goes on.
PARTING_S = 15.0


class SessionLost(RuntimeError):
    """The service no longer has the session."""


class Task(BaseModel):
    """One task of a split."""

    model_config = ConfigDict(extra="ignore")
    task_id: str
    task_type: str
    max_steps: int


class Metadata(BaseModel):
    """What a reply says beside observation and reward. `score` in 0..1."""

    model_config = ConfigDict(extra="ignore")
    session_id: str
    task_id: str
    step: int
    max_steps: int
    score: float
    success: bool
    terminated: bool
    truncated: bool
    info: dict[str, Any] = {}


class Observation(BaseModel):
    """The observation's text."""

    model_config = ConfigDict(extra="ignore")
    text: str


class Reply(BaseModel):
    """The answer to reset and step. `reward` is a delta in score units."""

    model_config = ConfigDict(extra="ignore")
    observation: Observation
    reward: float
    done: bool
    metadata: Metadata


@contextmanager
def _lost_sessions() -> Iterator[None]:
    try:
        yield
    except Refused as error:
        if error.code in LOST_SESSION:
            raise SessionLost(str(error)) from error
        raise


class EnvClient:
    """Sessions and tasks of one service, or of its replicas. The bearer token, if any, comes from ETO_ENV_TOKEN.

    `patience_s`: how long the service may be away, in seconds; `lost_after_s`: how long one of several replicas may be.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        name: str,
        *,
        patience_s: float = 300.0,
        timeout_s: float = 120.0,
        lost_after_s: float = LOST_AFTER_S,
        unreachable: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        token = os.environ.get("ETO_ENV_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.name = name
        self._replicas = Replicas([url] if isinstance(url, str) else url, headers, timeout_s)
        self._patience_s, self._lost_after_s = patience_s, min(patience_s, lost_after_s)
        self._unreachable = unreachable

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._replicas.close()

    async def _ask(
        self,
        replica: Replica,
        method: str,
        path: str,
        json: Any = None,
        timeout_s: float | None = None,
        patience_s: float | None = None,
        later: frozenset[int] = LATER,
    ) -> Any:
        response = await request(
            replica.http,
            method,
            path,
            json=json,
            timeout_s=timeout_s,
            patience_s=self._patience_s if patience_s is None else patience_s,
            unreachable=self._unreachable,
            later=later,
        )
        return response.json() if response.content else None

    async def _anywhere(self, method: str, path: str, json: Any = None, timeout_s: float | None = None) -> tuple[Any, Replica]:
        """Ask the replica that has the least to do, and another at once where it fails or is full."""
        deadline = time.monotonic() + self._patience_s
        failed: set[Replica] = set()
        while True:
            replica = await self._replicas.choose()
            several = self._replicas.several
            try:
                with replica.call():
                    return await self._ask(replica, method, path, json, timeout_s, 0.0 if several else None), replica
            except Unavailable as error:
                if not several:
                    raise
                if time.monotonic() > deadline and replica in failed:  # to find one gone may take all the time: others are asked then too
                    raise Unavailable(f"no replica of {self.name} answered in {self._patience_s:.0f} s; last: {error}") from error
                failed.add(replica)
                replica.set_aside()

    async def _in_session(
        self, session_id: str, method: str, path: str, json: Any = None, later: frozenset[int] = LATER, patience_s: float = math.inf
    ) -> Any:
        """Ask the replica that the session is at. Raises SessionLost where that is away for longer than others can do without it."""
        replica = self._replicas.holder(session_id)
        if replica is None:
            raise SessionLost(f"none of the replicas is known to have session {session_id}.")
        if not self._replicas.several:
            return await self._ask(replica, method, path, json, patience_s=min(patience_s, self._patience_s), later=later)
        try:
            return await self._ask(replica, method, path, json, patience_s=min(patience_s, self._lost_after_s), later=later)
        except Unavailable as error:
            replica.set_aside()
            self._replicas.forget(session_id)
            raise SessionLost(f"the replica of session {session_id} is gone: {error}") from error

    async def reset(self, task_id: str, seed: int = 0, episode_id: str | None = None, max_steps: int | None = None) -> Reply:
        """Open a session on a task. A repetition after a lost reply opens no second one."""
        body = {"task_id": task_id, "seed": seed, "episode_id": episode_id, "max_steps": max_steps, "request_id": uuid.uuid4().hex}
        with _lost_sessions():
            reply, replica = await self._anywhere("POST", "/reset", {k: v for k, v in body.items() if v is not None})
        opened = Reply.model_validate(reply)
        self._replicas.hold(opened.metadata.session_id, replica)
        return opened

    async def step(self, session_id: str, action: str, request_id: str) -> Reply:
        """Act. `request_id` makes a repetition after a lost reply harmless. Raises SessionLost."""
        body = {"session_id": session_id, "action": {"action": action}, "request_id": request_id}
        with _lost_sessions():
            return Reply.model_validate(await self._in_session(session_id, "POST", "/step", body))

    async def close(self, session_id: str, patience_s: float = math.inf) -> None:
        """Delete a session, once a step that nobody waits for any more is over; one that is gone already is fine."""
        path = f"/sessions/{quote(session_id, safe='')}"
        try:
            await self._in_session(session_id, "DELETE", path, later=LATER | {409}, patience_s=patience_s)
        except SessionLost:
            pass
        except Refused as error:
            if error.status != 404:
                raise
        finally:
            self._replicas.forget(session_id)

    @asynccontextmanager
    async def closing(self, session_id: str) -> AsyncIterator[None]:
        """Delete the session at the end. What ended the block is raised whatever deleting meets: a cancellation must not be lost."""
        try:
            yield
        except BaseException:
            with suppress(Refused, Unavailable):
                await self.close(session_id, PARTING_S)
            raise
        await self.close(session_id)

    async def sessions(self) -> dict[str, Any]:
        """`{"sessions": [...], "max_sessions": n}`, of all replicas that answer."""
        found: list[dict[str, Any]] = []
        most = 0
        for replica in await self._replicas.listed():
            try:
                told = await self._ask(replica, "GET", "/sessions", patience_s=0.0 if self._replicas.several else None)
            except Unavailable:
                if not self._replicas.several:
                    raise
                continue
            for session in told["sessions"]:
                self._replicas.find(session["session_id"], replica)
            found += told["sessions"]
            most += told["max_sessions"]
        return {"sessions": found, "max_sessions": most}

    async def tasks(self, split: str) -> list[Task]:
        """The tasks of a split, in the service's order."""
        reply, _ = await self._anywhere("POST", f"/{self.name}/tasks", {"split": split})
        return [Task.model_validate(t) for t in reply["tasks"]]

    async def expert(self, task_id: str) -> list[str]:
        """The actions of an expert on a task."""
        # a gold path may take the simulator's planner ten seconds and more
        reply, _ = await self._anywhere("GET", f"/tasks/{quote(task_id, safe='')}/expert", timeout_s=300.0)
        return list(reply["actions"])
