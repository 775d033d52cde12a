"""AgentGym's dialect under /agentgym: the part that its environments share. Each package shapes the replies (Environment.agentgym).

AgentGym creates an environment first, gets a number, and resets that; its ScienceWorld and ALFWorld servers answer errors with
HTTP 200 and `{"error": ...}`, and its WebShop client tries again after a 503 only.
"""

import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import ValidationError

from env_core.environment import Environment, Task
from env_core.errors import ServiceError, invalid_request, unknown_session
from env_core.metrics import Metrics
from env_core.parsing import reasons
from env_core.protocol import Include, ResetRequest, StepRequest
from env_core.sessions import SessionStore

REMEMBERED_IDS = 100_000


class AgentGym:
    """Numbered environments over the session store. Number n plays in the session "agentgym-n", so that it outlives a restart too."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._created: dict[int, None] = {}

    def create(self) -> int:
        """Return a new number; ServiceError 429 at the cap of sessions."""
        if self._store.full:
            raise self._store.too_many()
        number = secrets.randbelow(2**31)
        self._created[number] = None
        while len(self._created) > REMEMBERED_IDS:
            del self._created[next(iter(self._created))]
        return number

    async def reset(self, number: int, task: Task, include: list[Include] | None = None, max_steps: int | None = None) -> dict[str, Any]:
        """Begin an episode; return the reply as /reset has it."""
        session_id = self._session_id(number)
        try:
            self._store.state(session_id)
            old: str | None = session_id
        except ServiceError:
            if number not in self._created:
                raise
            old = None
        request = ResetRequest(task_id=task.task_id, session_id=old, include=include or [], max_steps=max_steps)
        _, reply = await self._store.reset(request, task, new_id=session_id)
        return self._read(reply)

    async def step(self, number: int, action: str, include: list[Include] | None = None) -> dict[str, Any]:
        """Take an action; return the reply as /step has it."""
        session_id = self._session_id(number)
        try:
            request = StepRequest(session_id=session_id, action=action, include=include or [])
        except ValidationError as error:
            raise invalid_request(f"The action was refused, because {reasons(error)}; send another one.") from None
        return self._read(await self._store.step(request))

    def last(self, number: int) -> dict[str, Any]:
        """Return the last reply."""
        return self._read(self._store.last_reply(self._session_id(number)))

    async def inspect(self, number: int, what: str) -> Any:
        """Return what the engine's `inspect(what)` gives."""
        return (await self._store.ask(self._session_id(number), "inspect", what=what))["value"]

    async def page(self, number: int) -> str:
        """Return what the engine's `render()` gives."""
        html: str = (await self._store.ask(self._session_id(number), "render"))["value"]
        return html

    def close(self, number: int) -> None:
        """Forget a number and its session; ServiceError 404 where there is none."""
        created = self._created.pop(number, ()) is None
        try:
            self._store.delete(self._session_id(number))
        except ServiceError as error:
            if not (created and error.status == 404):
                raise

    def _session_id(self, number: int) -> str:
        if number < 0:
            raise unknown_session(str(number))
        return f"agentgym-{number}"

    def _read(self, reply: bytes) -> dict[str, Any]:
        read: dict[str, Any] = orjson.loads(reply)
        return read


class ErrorsAs200(APIRoute):
    """Answers errors with HTTP 200 and `{"error": text}`, as AgentGym's ScienceWorld and ALFWorld do: `APIRouter(route_class=...)`."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """Wrap the route's handler."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except ServiceError as error:
                code, text = error.code, error.message
            except RequestValidationError as error:
                code, text = (
                    "invalid_request",
                    f"{request.url.path} was asked for with wrong fields: {[e['loc'] for e in error.errors()][:3]}.",
                )
            request.app.state.metrics.rejections.labels(code).inc()
            return Response(orjson.dumps({"error": text}), media_type="application/json")

        return answer


class BusyAs503(APIRoute):
    """Answers 429 as 503, after which alone AgentGym's WebShop client tries again: `APIRouter(route_class=BusyAs503)`."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """Wrap the route's handler."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            with _busy_as_503():
                return await handle(request)

        return answer


@contextmanager
def _busy_as_503() -> Iterator[None]:
    try:
        yield
    except ServiceError as error:
        if error.status != 429:
            raise
        raise ServiceError(503, error.code, error.message, error.retry_after_s) from None


def agentgym_routes(environment: Environment, store: SessionStore, metrics: Metrics) -> APIRouter:
    """The environment's own routes, under /agentgym."""
    router = APIRouter(prefix="/agentgym", tags=["agentgym"])
    if environment.agentgym is not None:
        router.include_router(environment.agentgym(AgentGym(store)))
    return router
