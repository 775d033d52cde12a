"""A client of an environment service (docs/formats.md, "Environment service")."""

import os
import uuid
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from orchestrator.http import Client, Refused, request

#: Errors after which the session is gone though the task is not: the episode starts again.
LOST_SESSION = frozenset({"unknown_session", "expired_session", "replay_diverged", "step_timeout", "engine_unavailable"})


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


class EnvClient:
    """Sessions and tasks of one service. The bearer token, if any, comes from ETO_ENV_TOKEN."""

    def __init__(
        self,
        url: str,
        name: str,
        *,
        patience_s: float = 300.0,
        timeout_s: float = 120.0,
        unreachable: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        token = os.environ.get("ETO_ENV_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.name = name
        self._http = Client(url, headers, timeout_s)
        self._patience_s = patience_s
        self._unreachable = unreachable

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._http.aclose()

    async def _call(self, method: str, path: str, json: Any = None, timeout_s: float | None = None) -> Any:
        response = await request(
            self._http,
            method,
            path,
            json=json,
            timeout_s=timeout_s,
            patience_s=self._patience_s,
            unreachable=self._unreachable,
        )
        return response.json() if response.content else None

    async def _play(self, path: str, body: dict[str, Any]) -> Reply:
        try:
            return Reply.model_validate(await self._call("POST", path, {k: v for k, v in body.items() if v is not None}))
        except Refused as error:
            if error.code in LOST_SESSION:
                raise SessionLost(str(error)) from error
            raise

    async def reset(self, task_id: str, seed: int = 0, episode_id: str | None = None, max_steps: int | None = None) -> Reply:
        """Open a session on a task. A repetition after a lost reply opens no second one."""
        body = {"task_id": task_id, "seed": seed, "episode_id": episode_id, "max_steps": max_steps, "request_id": uuid.uuid4().hex}
        return await self._play("/reset", body)

    async def step(self, session_id: str, action: str, request_id: str) -> Reply:
        """Act. `request_id` makes a repetition after a lost reply harmless. Raises SessionLost."""
        return await self._play("/step", {"session_id": session_id, "action": {"action": action}, "request_id": request_id})

    async def close(self, session_id: str) -> None:
        """Delete a session; one that is gone already is fine."""
        try:
            await self._call("DELETE", f"/sessions/{quote(session_id, safe='')}")
        except Refused as error:
            if error.status != 404:
                raise

    async def sessions(self) -> dict[str, Any]:
        """`{"sessions": [...], "max_sessions": n}`."""
        return dict(await self._call("GET", "/sessions"))

    async def tasks(self, split: str) -> list[Task]:
        """The tasks of a split, in the service's order."""
        reply = await self._call("POST", f"/{self.name}/tasks", {"split": split})
        return [Task.model_validate(t) for t in reply["tasks"]]

    async def expert(self, task_id: str) -> list[str]:
        """The actions of an expert on a task."""
        # a gold path may take the simulator's planner ten seconds and more
        return list((await self._call("GET", f"/tasks/{quote(task_id, safe='')}/expert", timeout_s=300.0))["actions"])
