"""The HTTP dialect. Routes only translate: parse, ask the store or the task table, shape the reply."""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Path, Query, Response
from fastapi.responses import HTMLResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from env_core.environment import Environment
from env_core.errors import ServiceError
from env_core.experts import Experts
from env_core.metrics import Metrics
from env_core.openapi import body_of
from env_core.parsing import parsed
from env_core.pool import EnginePool
from env_core.protocol import (
    ActionObject,
    BatchReply,
    BatchResetRequest,
    BatchStepRequest,
    ForkRequest,
    Observation,
    Reply,
    ResetRequest,
    SplitRequest,
    State,
    StepRequest,
    TaskRangeRequest,
    TaskRequest,
)
from env_core.sessions import SessionStore
from env_core.tasks import find_task, task_at, task_of, tasks_of

#: A page comes from an environment's data: nothing in it may run, be sent or reach another site.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; "
    "frame-ancestors 'none'; base-uri 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

EnvName = Annotated[str, Path(alias="env")]


def _json(content: bytes | Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    return Response(body, status, headers, media_type="application/json")


def _documented(model: type[BaseModel]) -> dict[str, Any]:
    return {"openapi_extra": {"requestBody": body_of(model)}}


def episode_routes(environment: Environment, store: SessionStore, metrics: Metrics) -> APIRouter:
    """Reset, step and sessions, one by one and in batches."""
    router = APIRouter(tags=["episodes"])

    @router.post("/reset", response_model=Reply, **_documented(ResetRequest))
    async def reset(request: Annotated[ResetRequest, Depends(parsed(ResetRequest))]) -> Response:
        session_id, reply = await store.reset(request, task_of(environment, request))
        return _json(reply, headers={"X-Session-Id": session_id})

    @router.post("/step", response_model=Reply, **_documented(StepRequest))
    async def step(request: Annotated[StepRequest, Depends(parsed(StepRequest))]) -> Response:
        return _json(await store.step(request), headers={"X-Session-Id": request.session_id})

    @router.get("/state", response_model=State)
    async def state(session_id: Annotated[str, Query()]) -> Response:
        return _json(store.state(session_id))

    @router.get("/sessions")
    async def sessions() -> Response:
        return _json({"sessions": store.states(), "max_sessions": store.limits.max_sessions})

    @router.delete("/sessions/{session_id}", status_code=204)
    async def delete(session_id: str) -> Response:
        store.delete(session_id)
        return Response(status_code=204)

    @router.post("/sessions/{session_id}/fork", response_model=Reply, **_documented(ForkRequest))
    async def fork(session_id: str, request: Annotated[ForkRequest, Depends(parsed(ForkRequest))]) -> Response:
        new_id, reply = store.fork(session_id, request)
        return _json(reply, headers={"X-Session-Id": new_id})

    async def result(call: Awaitable[bytes]) -> dict[str, Any]:
        try:
            return {"status": 200, "reply": orjson.Fragment(await call)}
        except ServiceError as error:
            metrics.rejections.labels(error.code).inc()
            return {"status": error.status, **error.body()}

    async def results(calls: Iterable[Awaitable[bytes]]) -> Response:
        return _json({"results": await asyncio.gather(*map(result, calls))})

    async def reset_one(request: ResetRequest) -> bytes:
        return (await store.reset(request, task_of(environment, request)))[1]

    @router.post("/batch/reset", response_model=BatchReply, **_documented(BatchResetRequest))
    async def batch_reset(request: Annotated[BatchResetRequest, Depends(parsed(BatchResetRequest))]) -> Response:
        return await results(reset_one(one) for one in request.resets)

    @router.post("/batch/step", response_model=BatchReply, **_documented(BatchStepRequest))
    async def batch_step(request: Annotated[BatchStepRequest, Depends(parsed(BatchStepRequest))]) -> Response:
        return await results(store.step(one) for one in request.steps)

    @router.get("/sessions/{session_id}/page", response_class=HTMLResponse)
    async def page(session_id: str) -> Response:
        if not environment.renders:
            raise ServiceError(
                501,
                "no_page",
                f"The page of session {session_id} was asked for, but {environment.name} has no pages; read the observation's text.",
            )
        return HTMLResponse((await store.ask(session_id, "render"))["value"], headers=PAGE_HEADERS)

    return router


def task_routes(environment: Environment, experts: Experts) -> APIRouter:
    """Task API, in OpenEnv's words."""
    router = APIRouter(tags=["tasks"])

    def named(env: EnvName) -> Environment:
        if env != environment.name:
            raise ServiceError(
                404,
                "unknown_environment",
                f"Environment {env!r} was asked for, but this service runs {environment.name!r}; ask for that one.",
            )
        return environment

    Named = Annotated[Environment, Depends(named)]

    @router.get("/list_environments")
    async def list_environments() -> Response:
        return _json([environment.name])

    @router.get("/tasks/{task_id:path}/expert")
    async def expert(task_id: str) -> Response:
        task = find_task(environment, task_id)
        actions, source = await experts.actions(task.task_id)
        return _json({"task_id": task.task_id, "actions": actions, "source": source})

    @router.get("/{env}/splits")
    async def splits(env: Named) -> Response:
        return _json([{"name": split.name, "type": split.type} for split in env.tasks.splits()])

    @router.post("/{env}/num_tasks", **_documented(SplitRequest))
    async def num_tasks(env: Named, request: Annotated[SplitRequest, Depends(parsed(SplitRequest))]) -> Response:
        return _json({"num_tasks": len(tasks_of(env, request.split))})

    @router.post("/{env}/tasks", **_documented(SplitRequest))
    async def tasks(env: Named, request: Annotated[SplitRequest, Depends(parsed(SplitRequest))]) -> Response:
        return _json({"tasks": tasks_of(env, request.split), "env_name": env.name})

    @router.post("/{env}/task", **_documented(TaskRequest))
    async def task(env: Named, request: Annotated[TaskRequest, Depends(parsed(TaskRequest))]) -> Response:
        return _json({"task": task_at(env, request.split, request.index)})

    @router.post("/{env}/task_range", **_documented(TaskRangeRequest))
    async def task_range(env: Named, request: Annotated[TaskRangeRequest, Depends(parsed(TaskRangeRequest))]) -> Response:
        return _json({"tasks": tasks_of(env, request.split)[request.start : request.stop]})

    return router


def service_routes(environment: Environment, store: SessionStore, pool: EnginePool, metrics: Metrics) -> APIRouter:
    """What watches over the service asks."""
    router = APIRouter(tags=["service"])

    @router.get("/health")
    async def health() -> Response:
        return _json({"status": "healthy"})

    @router.get("/ready")
    async def ready() -> Response:
        is_ready = pool.ready and not store.draining
        return _json({"ready": is_ready}, 200 if is_ready else 503, None if is_ready else {"Retry-After": "1"})

    @router.get("/metrics")
    async def page() -> Response:
        return Response(metrics.page(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @router.get("/schema")
    async def schema() -> Response:
        models: dict[str, type[BaseModel]] = {"action": ActionObject, "observation": Observation, "state": State}
        return _json({name: model.model_json_schema() for name, model in models.items()})

    @router.get("/metadata")
    async def metadata() -> Response:
        return _json({"name": environment.name, "description": environment.description, "version": environment.version})

    return router
