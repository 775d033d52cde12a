"""The bearer token."""

import secrets

import orjson
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from env_core.errors import ServiceError

OPEN_PATHS = frozenset({"/health"})


class RequireToken:
    """Lets a request through if it carries the token. Where no token is set, it is not installed."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on or refuse it."""
        if scope["type"] == "lifespan" or scope["path"] in OPEN_PATHS or self._allows(scope):
            await self._app(scope, receive, send)
            return
        error = ServiceError(
            401,
            "unauthorized",
            f"{scope['path']} was asked for without the service's token; send it in an 'Authorization: Bearer' header.",
        )
        headers = {"WWW-Authenticate": "Bearer"}
        await Response(orjson.dumps(error.body()), 401, headers, "application/json")(scope, receive, send)

    def _allows(self, scope: Scope) -> bool:
        given = Headers(scope=scope).get("authorization", "")
        return secrets.compare_digest(given.encode("latin-1"), self._expected)
