"""A client of HTTP services for very many requests at a time, and requests that are tried again: with back-off and an end."""

import asyncio
import random
import time
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from json import dumps, loads
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiohttp

LATER = frozenset({429, 503})
BACKOFF_S = (0.1, 5.0)  # first and longest pause
#: Seconds for which a connection is kept that nobody uses. Less than servers keep them (uvicorn and with it vLLM 5 s): the side that sends
#: must be the one that closes, or a request meets a connection which is just being closed.
KEEP_ALIVE_S = 4.0


class NoAnswer(Exception):
    """No answer came: no connection, a broken one, none in time, or bytes that are no HTTP. `refused`: nobody listens."""

    def __init__(self, reason: str, refused: bool = False) -> None:
        self.refused = refused
        super().__init__(reason)


class Unavailable(RuntimeError):
    """A service could not be reached, or answered "later", for longer than the caller's patience."""


class Refused(RuntimeError):
    """A service answered with an error that trying again cannot cure."""

    def __init__(self, url: str, response: "Response") -> None:
        self.status = response.status_code
        self.code, self.message = _error(response)
        super().__init__(f"{url} answered {self.status} {self.code}: {self.message}")


def _error(response: "Response") -> tuple[str, str]:
    """Code and message of our error shape, OpenAI's, or of anything else."""
    try:
        error: Any = response.json()["error"]
        return str(error.get("code") or error.get("type") or ""), str(error["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", response.text[:500]


@dataclass(frozen=True)
class Response:
    """A whole answer."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def text(self) -> str:
        """The body, whatever it is."""
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        """The body's JSON. Raises ValueError."""
        return loads(self.content)


class Client:
    """Requests to one service; connections are kept and none waits for another. `timeout_s`: for a connection, and for each byte after it.

    aiohttp below: what httpx does for a request grows with the number of connections (docs/performance.md).
    """

    def __init__(self, base_url: str, headers: Mapping[str, str], timeout_s: float, connect_timeout_s: float | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        self._headers = {"accept": "application/json", "user-agent": "eto", **headers}
        self._timeout_s, self._connect_timeout_s = timeout_s, connect_timeout_s or timeout_s
        self._session: aiohttp.ClientSession | None = None

    def _open(self) -> "aiohttp.ClientSession":
        import aiohttp

        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
        # they would be looked for at each request
        proxies = bool(urllib.request.getproxies())
        return aiohttp.ClientSession(connector=connector, headers=self._headers, trust_env=proxies, cookie_jar=aiohttp.DummyCookieJar())

    async def request(self, method: str, path: str, json: Any = None, timeout_s: float | None = None) -> Response:
        """One request, sent once. Raises NoAnswer."""
        import aiohttp

        if self._session is None:
            self._session = self._open()  # here, where a loop runs
        seconds = timeout_s or self._timeout_s
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=min(seconds, self._connect_timeout_s), sock_read=seconds)
        data, kind = (None, {}) if json is None else (dumps(json).encode(), {"content-type": "application/json"})
        url = f"{self.base_url}{path}"
        try:
            async with self._session.request(method, url, data=data, headers=kind, timeout=timeout, allow_redirects=False) as answer:
                return Response(answer.status, answer.headers, await answer.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NoAnswer(f"{type(error).__name__} {error}".strip(), refused=isinstance(error, aiohttp.ClientConnectorError)) from error

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


async def request(
    client: Client,
    method: str,
    path: str,
    *,
    patience_s: float,
    json: Any = None,
    timeout_s: float | None = None,
    unreachable: Callable[[], Awaitable[None]] | None = None,
    later: frozenset[int] = LATER,
) -> Response:
    """Send until a final answer comes. `unreachable` is awaited after each transport error: the chance to restart a local service.

    Raises Refused for a final 4xx or 5xx, Unavailable when `patience_s` seconds are over.
    """
    deadline = time.monotonic() + patience_s
    pause = BACKOFF_S[0]
    while True:
        wait = jittered(pause)
        try:
            response = await client.request(method, path, json, timeout_s)
        except NoAnswer as error:
            reason = str(error)
            if unreachable is not None:
                await unreachable()
        else:
            if response.status_code < 400:
                return response
            if response.status_code not in later:
                raise Refused(f"{method} {client.base_url}{path}", response)
            reason = f"status {response.status_code}: {_error(response)[1]}"
            wait = max(wait, retry_after(response, 2.0))
        if time.monotonic() + wait > deadline:
            raise Unavailable(
                f"{method} {client.base_url}{path}: no answer in {patience_s:.0f} s; last: {reason}. "
                "Is the service up (`eto services status`)?"
            )
        await asyncio.sleep(wait)
        pause = min(pause * 2, BACKOFF_S[1])


def jittered(pause_s: float) -> float:
    """About as long: many that wait for the same thing must not come back at the same instant."""
    return pause_s * random.uniform(0.5, 1.5)  # noqa: S311 - spreads retries, decides nothing


def retry_after(response: Response, longest_s: float) -> float:
    """What the answer's Retry-After asks for, in seconds; 0 where it says nothing that can be read."""
    try:
        return min(float(response.headers.get("retry-after", 0)), longest_s)
    except ValueError:
        return 0.0
