"""Puts the service together."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from env_core.dialects.agentgym import agentgym_routes
from env_core.dialects.http import episode_routes, service_routes, task_routes
from env_core.dialects.openenv import openenv_routes
from env_core.environment import Environment
from env_core.errors import ServiceError, invalid_request
from env_core.experts import Experts
from env_core.journal import Journal
from env_core.metrics import Metrics
from env_core.middleware import LimitBody, RequestIds, RequireToken, SameOrigin
from env_core.openapi import describe
from env_core.player import Player
from env_core.pool import EnginePool
from env_core.protocol import (
    API_VERSION,
    BatchResetRequest,
    BatchStepRequest,
    ForkRequest,
    ResetRequest,
    SplitRequest,
    StepRequest,
    TaskRangeRequest,
    TaskRequest,
)
from env_core.sessions import Limits, SessionStore
from env_core.settings import Settings

BODIES: list[type[BaseModel]] = [
    *(ResetRequest, StepRequest, ForkRequest, BatchResetRequest, BatchStepRequest),
    *(SplitRequest, TaskRequest, TaskRangeRequest),
]

log = logging.getLogger(__name__)


def create_app(environment: Environment, settings: Settings) -> FastAPI:
    """Return the service of an environment. Its session store is `app.state.store`. JournalError where the journal cannot be used."""
    journal = None if settings.journal is None else Journal(settings.journal, environment)
    metrics = Metrics()
    pool = EnginePool(environment, settings.max_engines, settings.engines_warm, settings.load_timeout_s, metrics)
    player = Player(pool, settings.load_timeout_s, settings.step_timeout_s, metrics)
    store = SessionStore(player, Limits(settings.max_sessions, settings.kept_sessions, settings.idle_timeout_s), journal, metrics)
    experts = Experts(environment, pool, settings.load_timeout_s, settings.expert_timeout_s)
    if journal is not None:
        for session in journal.sessions(environment):
            store.restore(session)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        pool.open()
        expiry = asyncio.create_task(store.expire_forever())
        try:
            yield
        finally:
            expiry.cancel()
            await pool.close()
            if journal is not None:
                journal.close()

    app = FastAPI(
        title=f"{environment.name} environment",
        version=API_VERSION,
        description=environment.description,
        lifespan=lifespan,
    )
    app.state.store = store
    app.state.metrics = metrics
    app.include_router(service_routes(environment, store, pool, metrics))
    app.include_router(episode_routes(environment, store, metrics))
    app.include_router(openenv_routes(environment, store, metrics))
    if environment.agentgym is not None:
        app.include_router(agentgym_routes(environment, store, metrics))
    app.include_router(task_routes(environment, experts))  # last: its /{env}/... would catch others' paths
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(Exception, _unexpected_error)
    describe(app, BODIES)
    if settings.token is not None:
        app.add_middleware(RequireToken, token=settings.token, metrics=metrics)
    app.add_middleware(SameOrigin, metrics=metrics)
    app.add_middleware(LimitBody)
    app.add_middleware(RequestIds)  # the last one added is the first to be passed
    return app


def _reply(request: Request, error: ServiceError) -> Response:
    request.app.state.metrics.rejections.labels(error.code).inc()
    return JSONResponse(error.body(), error.status, error.headers())


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)  # noqa: S101 - registered for it
    return _reply(request, error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    code = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}.get(error.status_code, "invalid_request")
    message = f"{request.method} {request.url.path} was asked for, but: {error.detail}; GET /docs lists what there is."
    return _reply(request, ServiceError(error.status_code, code, message))


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    places = ", ".join(".".join(str(part) for part in detail["loc"]) for detail in error.errors()[:3])
    message = f"{request.url.path} was asked for with a missing or wrong {places}; GET /docs shows what it takes."
    return _reply(request, invalid_request(message))


async def _unexpected_error(request: Request, error: Exception) -> Response:
    log.error("Unexpected failure in %s %s", request.method, request.url.path, exc_info=error)
    message = f"{request.url.path} failed in a way this service did not foresee; its log says more, please report it."
    return _reply(request, ServiceError(500, "internal_error", message))
