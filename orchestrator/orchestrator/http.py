"""Requests that are tried again: transport errors, 429 and 5xx that mean "later", with back-off and an end."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

LATER = frozenset({429, 503})
BACKOFF_S = (0.1, 5.0)  # first and longest pause


class Unavailable(RuntimeError):
    """A service could not be reached, or answered "later", for longer than the caller's patience."""


class Refused(RuntimeError):
    """A service answered with an error that trying again cannot cure."""

    def __init__(self, url: str, response: httpx.Response) -> None:
        self.status = response.status_code
        self.code, self.message = _error(response)
        super().__init__(f"{url} answered {self.status} {self.code}: {self.message}")


def _error(response: httpx.Response) -> tuple[str, str]:
    """Code and message of our error shape, OpenAI's, or of anything else."""
    try:
        error: Any = response.json()["error"]
        return str(error.get("code") or error.get("type") or ""), str(error["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", response.text[:500]


async def request(
    client: httpx.AsyncClient,
    method: str,
    path: str,
    *,
    patience_s: float,
    json: Any = None,
    timeout_s: float | None = None,
    unreachable: Callable[[], Awaitable[None]] | None = None,
    later: frozenset[int] = LATER,
) -> httpx.Response:
    """Send until a final answer comes. `unreachable` is awaited after each transport error: the chance to restart a local service.

    Raises Refused for a final 4xx or 5xx, Unavailable when `patience_s` seconds are over.
    """
    deadline = time.monotonic() + patience_s
    pause = BACKOFF_S[0]
    timeout = httpx.USE_CLIENT_DEFAULT if timeout_s is None else timeout_s
    while True:
        wait = jittered(pause)
        try:
            response = await client.request(method, path, json=json, timeout=timeout)
        except httpx.TransportError as error:
            reason = f"{type(error).__name__} {error}".strip()
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


def retry_after(response: httpx.Response, longest_s: float) -> float:
    """What the answer's Retry-After asks for, in seconds; 0 where it says nothing that can be read."""
    try:
        return min(float(response.headers.get("retry-after", 0)), longest_s)
    except ValueError:
        return 0.0
