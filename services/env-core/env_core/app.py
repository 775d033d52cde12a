"""Puts the service together."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from env_core.environment import Environment
from env_core.errors import ServiceError, invalid_request
from env_core.experts import Experts
from env_core.middleware import RequireToken
from env_core.openapi import describe
from env_core.player import Player
from env_core.pool import EnginePool
from env_core.protocol import ResetRequest, SplitRequest, StepRequest, TaskRangeRequest, TaskRequest
from env_core.routes import episode_routes, service_routes, task_routes
from env_core.sessions import SessionStore
from env_core.settings import Settings

log = logging.getLogger(__name__)


def create_app(environment: Environment, settings: Settings) -> FastAPI:
    """Return the service of an environment. Its session store is `app.state.store`."""
    pool = EnginePool(environment, settings.max_engines, settings.engines_warm, settings.load_timeout_s)
    player = Player(pool, settings.load_timeout_s, settings.step_timeout_s)
    store = SessionStore(player, settings.max_sessions, settings.kept_sessions, settings.idle_timeout_s)
    experts = Experts(environment, pool, settings.load_timeout_s, settings.expert_timeout_s)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        pool.open()
        expiry = asyncio.create_task(store.expire_forever())
        try:
            yield
        finally:
            expiry.cancel()
            await pool.close()

    app = FastAPI(
        title=f"{environment.name} environment",
        version=environment.version,
        description=environment.description,
        lifespan=lifespan,
    )
    app.state.store = store
    app.include_router(service_routes(environment, store, pool))
    app.include_router(episode_routes(environment, store))
    app.include_router(task_routes(environment, experts))
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(Exception, _unexpected_error)
    describe(app, [ResetRequest, StepRequest, SplitRequest, TaskRequest, TaskRangeRequest])
    if settings.token is not None:
        app.add_middleware(RequireToken, token=settings.token)
    return app


def _reply(error: ServiceError) -> Response:
    return JSONResponse(error.body(), error.status, error.headers())


async def _service_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)  # noqa: S101 - registered for it
    return _reply(error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    message = f"{request.method} {request.url.path} was asked for, but: {error.detail}; GET /docs lists what there is."
    return _reply(ServiceError(error.status_code, code, message))


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    places = ", ".join(".".join(str(part) for part in detail["loc"]) for detail in error.errors()[:3])
    return _reply(invalid_request(f"{request.url.path} was asked for with a missing or wrong {places}; GET /docs shows what it takes."))


async def _unexpected_error(request: Request, error: Exception) -> Response:
    log.error("Unexpected failure in %s %s", request.method, request.url.path, exc_info=error)
    message = f"{request.url.path} failed in a way this service did not foresee; its log says more, please report it."
    return _reply(ServiceError(500, "internal_error", message))
