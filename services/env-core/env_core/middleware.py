"""What every request passes: a request id, and the refusals of pages of other sites and of callers without the token."""

import itertools
import re
import secrets
from urllib.parse import urlsplit

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from env_core import logs
from env_core.errors import ServiceError
from env_core.metrics import Metrics
from env_core.protocol import MAX_BODY_BYTES

MAX_DISCARDED_BYTES = 16 * MAX_BODY_BYTES
OPEN_PATHS = frozenset({"/health"})
REQUEST_ID = re.compile(r"[!-~]{1,128}")


class RequestIds:
    """Names each request in the log and in the reply: as its X-Request-Id says, else by a number."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else f"{self._prefix}-{next(self._numbers)}"
        logs.request_id.set(request_id)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self._app(scope, receive, send_named)


class LimitBody:
    """Refuses a body over MAX_BODY_BYTES: by its declared length, else when so much has come.

    No reply ends before the caller's body has been read, up to MAX_DISCARDED_BYTES more: the server closes a connection
    of ``Connection: close`` at the end of the reply, and a caller that still writes would see a broken pipe, not the reply.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or let its reading fail."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        left = MAX_BODY_BYTES - (int(declared) if declared.isdecimal() and len(declared) < 20 else 0)
        # A caller that waits for leave to send (curl, from 1 MiB on) takes a refusal for an answer: to read would be the leave.
        more = "expect" not in headers

        async def receive_limited() -> Message:
            nonlocal left, more
            if left >= 0:
                message = await receive()
                more = message.get("more_body", False)
                left -= 0 if declared else len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"its body is over {MAX_BODY_BYTES} bytes")
            return message

        async def send_after_body(message: Message) -> None:
            nonlocal more
            discarded = 0
            while more and message["type"] == "http.response.start" and discarded <= MAX_DISCARDED_BYTES:
                part = await receive()
                more = part.get("more_body", False)
                discarded += len(part.get("body", b""))
            await send(message)

        await self._app(scope, receive_limited, send_after_body)


class SameOrigin:
    """Refuses what a browser sends on behalf of another site's page: a body needs no content type here, and a WebSocket no leave."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on or refuse it."""
        if scope["type"] != "lifespan":
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != headers.get("host", ""):
                error = ServiceError(
                    403,
                    "other_origin",
                    f"{scope['path']} was asked for by a page of {origin}, but this service answers no pages of other sites; "
                    "call it from a program.",
                )
                await _refuse(error, self._metrics, scope, receive, send)
                return
        await self._app(scope, receive, send)


class RequireToken:
    """Lets a request through if it carries the token. Where no token is set, it is not installed."""

    def __init__(self, app: ASGIApp, token: str, metrics: Metrics) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()
        self._metrics = metrics

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
        await _refuse(error, self._metrics, scope, receive, send, {"WWW-Authenticate": "Bearer"})

    def _allows(self, scope: Scope) -> bool:
        given = Headers(scope=scope).get("authorization", "")
        return secrets.compare_digest(given.encode("latin-1"), self._expected)


async def _refuse(
    error: ServiceError, metrics: Metrics, scope: Scope, receive: Receive, send: Send, headers: dict[str, str] | None = None
) -> None:
    metrics.rejections.labels(error.code).inc()
    await Response(orjson.dumps(error.body()), error.status, headers, "application/json")(scope, receive, send)
