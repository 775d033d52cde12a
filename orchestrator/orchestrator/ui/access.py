"""Who may look: anyone on this machine, or whoever has the token."""

import hashlib
import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs, quote, urlsplit

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

COOKIE = "eto_ui"
SHORTEST_TOKEN = 16
LONGEST_LOGIN_BYTES = 4096
#: No script, style or request but our own; no page of others may frame ours.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Next = Callable[[Request], Awaitable[Response]]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Access:
    """Without a token only requests that name this machine are answered, so that no web site can read the pages by a name of its own."""

    def __init__(self, token: str | None) -> None:
        self._token = token
        # the cookie does not give the token away
        self._ticket = hmac.new(token.encode(), b"eto ui", hashlib.sha256).hexdigest() if token else ""

    def allows(self, request: Request) -> bool:
        """Whether a request may see the pages."""
        if self._token is None:
            return is_loopback(_host_name(request.headers.get("host", "")))
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        return _same(request.cookies.get(COOKIE, ""), self._ticket) or _same(bearer, self._token)

    @property
    def by_token(self) -> bool:
        """Whether a token is asked for."""
        return self._token is not None

    async def login(self, request: Request) -> Response | None:
        """The answer to a right token: a cookie and the way to the page that was asked for. None for a wrong one."""
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > LONGEST_LOGIN_BYTES:
                return None
        form = parse_qs(body.decode("utf-8", "replace"))
        if self._token is None or not _same(form.get("token", [""])[0], self._token):
            return None
        answer = RedirectResponse(_local(form.get("next", ["/"])[0]), status_code=303)
        answer.set_cookie(COOKIE, self._ticket, httponly=True, samesite="strict")
        return answer


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


def _host_name(host: str) -> str:
    name = host.rsplit(":", 1)[0] if host.rpartition(":")[2].isdigit() else host
    return name.lower()


def _local(target: str) -> str:
    """A path on this server, whatever was given."""
    parts = urlsplit(target)
    path = "/" + parts.path.replace("\\", "/").lstrip("/")
    return quote(path) + (f"?{quote(parts.query, safe='=&%+')}" if parts.query else "")
