"""Several servers of one model: which is asked next, which is set aside after failures, and how each is tried again.

A request waits here while no server takes it, and nowhere else: an episode has at most one request, so what waits is bounded by the
number of episodes at a time.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from orchestrator.http import BACKOFF_S, LATER, Client, NoAnswer, Refused, Unavailable, jittered, request, retry_after

#: vLLM answers 500 while it shuts down; 502 and 504 come from proxies before a server that restarts.
POLICY_LATER = LATER | {500, 502, 504}
#: The server's own fault, whatever was asked: a wrong key, no such model, no such path.
MISCONFIGURED = frozenset({401, 403, 404})
#: Failures in a row after which a server is set aside. Of a busy server that fails one request in ten, one in a thousand sets it aside.
FAILURES = 3
#: First and longest time for which it is set aside, seconds.
ASIDE_S = (0.5, 15.0)
#: How often one request may fail with status 500 while the same server answers others: then the request is at fault, not the server.
POISONOUS = 8
LONGEST_RETRY_AFTER_S = 60.0
#: How long one of several servers may be away before its weights are left for later, seconds.
SWAP_PATIENCE_S = 10.0


class Unanswerable(RuntimeError):
    """A request that breaks the server, again and again: it is given up, not the run."""


@dataclass
class Conversation:
    """One episode, as its policy knows it: where it is answered (that server's prefix cache holds its turns), and what was done again.

    `retries`: requests that were sent again; `restarts`: how often the episode began anew.
    """

    task_id: str
    endpoint: "Endpoint | None" = None
    retries: int = 0
    restarts: int = 0


class Endpoint:
    """One server, and what is known of its health."""

    def __init__(self, url: str, key: str | None, timeout_s: float, patience_s: float) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.url = url
        self.http = Client(url, headers, timeout_s)
        self.version: str | None = None  # of the weights, where they are known
        self.current = True  # False: it may hold other weights than it should
        self.running = 0  # requests
        self.asked_at = 0.0
        self.answered_at = 0.0
        self._patience_s = patience_s
        self._failures = 0
        self._aside_until = 0.0
        self._on_trial = self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def aside(self) -> bool:
        """Whether it failed and has not answered since."""
        return self._failures >= FAILURES

    def opens_in(self, now: float) -> float | None:
        """Seconds until it takes a request, 0 at once; None: not known, it is being tried or its weights replaced."""
        if self._closed or self._on_trial:
            return None
        return max(0.0, self._aside_until - now) if self.aside else 0.0

    @contextmanager
    def request(self) -> Iterator[None]:
        """A request is on its way. At a server that is set aside it is the only new one: a trial."""
        trial = self._on_trial = self.aside
        self.running += 1
        self.asked_at = time.monotonic()
        self._idle.clear()
        try:
            yield
        finally:
            self.running -= 1
            if trial:
                self._on_trial = False
            if self.running == 0:
                self._idle.set()

    @asynccontextmanager
    async def drained(self) -> AsyncIterator[None]:
        """No request runs and none begins."""
        self._closed = True
        try:
            await self._idle.wait()
            yield
        finally:
            self._closed = False

    def succeeded(self) -> None:
        """It answered."""
        self._failures = 0
        self.answered_at = time.monotonic()

    def failed(self, at_once: bool = False) -> None:
        """It did not. Several failures in a row set it aside, longer each time; some do so at once."""
        self._failures = max(self._failures + 1, FAILURES if at_once else 0)
        if self.aside:
            pause = min(ASIDE_S[0] * 2.0 ** min(self._failures - FAILURES, 10), ASIDE_S[1])
            self._aside_until = time.monotonic() + jittered(pause)
            self.current = False  # it may come back with the weights that it was started on

    async def call(self, path: str, body: Any = None, later: frozenset[int] = POLICY_LATER) -> Any:
        """One call to this server itself, for its weights. Raises Refused, Unavailable."""
        response = await request(self.http, "POST", path, json=body, patience_s=self._patience_s, later=later)
        return response.json() if response.content else None


class _AskAgainError(Exception):
    """No answer this time; `wait_s` is the least pause before this server is asked again."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        self.reason, self.wait_s = reason, wait_s
        super().__init__(reason)


@dataclass(frozen=True)
class Answer:
    """What was read from a reply, and the version of the weights that gave it."""

    content: Any
    version: str | None


def keys(count: int) -> list[str | None]:
    """Bearer keys from the environment: ETO_POLICY_TOKEN_1 for the first server and so on, ETO_POLICY_TOKEN for those without."""
    return [os.environ.get(f"ETO_POLICY_TOKEN_{n}") or os.environ.get("ETO_POLICY_TOKEN") for n in range(1, count + 1)]


class Endpoints:
    """The servers of one model. `unreachable` is awaited after each transport error: the chance to restart a local server."""

    def __init__(
        self, urls: Sequence[str], *, patience_s: float, timeout_s: float, unreachable: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        # where others answer meanwhile, one server's weights are not waited for as long
        own_patience_s = patience_s if len(urls) == 1 else min(patience_s, SWAP_PATIENCE_S)
        self.all = [Endpoint(url, key, timeout_s, own_patience_s) for url, key in zip(urls, keys(len(urls)), strict=True)]
        self._patience_s = patience_s
        self._unreachable = unreachable
        self._prepare: Callable[[Endpoint], Awaitable[None]] | None = None
        self._changed = asyncio.Event()

    async def close(self) -> None:
        """Close the connections."""
        for endpoint in self.all:
            await endpoint.http.aclose()

    async def ask(self, path: str, body: Any, read: Callable[[Any], Any], conversation: Conversation) -> Answer:
        """What `read` makes of the reply's JSON; a ValueError, KeyError, TypeError or IndexError of it means that it is none.

        Raises Refused for a final error, Unavailable when no server has answered for the time of patience.
        """
        deadline = time.monotonic() + self._patience_s
        pause, reason = BACKOFF_S[0], "no server takes requests"
        failed: Counter[Endpoint] = Counter()  # status 500, by server
        told: set[Endpoint] = set()  # which had no answer since this request last paused
        while True:
            endpoint = await self._choose(conversation, told, deadline, path, reason)
            wait, begun = jittered(pause), time.monotonic()
            try:
                answer = await self._attempt(endpoint, path, body, read, alone=told | {endpoint} == set(self.all))
            except _AskAgainError as error:
                reason, wait = error.reason, max(wait, error.wait_s)
            else:
                conversation.endpoint = endpoint
                return answer
            finally:
                self._wake()
            conversation.retries += 1
            told.add(endpoint)
            failed[endpoint] += 1
            if failed[endpoint] >= POISONOUS and endpoint.answered_at > begun and reason.startswith("status 500"):
                raise Unanswerable(f"{endpoint.url}{path} failed {failed[endpoint]} times on one request and answered others: {reason}")
            if any(e not in told and e.opens_in(time.monotonic()) == 0 for e in self.all):
                continue
            told.clear()
            if time.monotonic() + wait > deadline:
                raise self._unavailable(path, reason)
            await asyncio.sleep(wait)
            pause = min(pause * 2, BACKOFF_S[1])

    async def _attempt(self, endpoint: Endpoint, path: str, body: Any, read: Callable[[Any], Any], alone: bool) -> Answer:
        """Ask one server once. `alone`: no other is left to ask, so its refusal is final."""
        try:
            if not endpoint.current:
                await self._renew(endpoint)
            with endpoint.request():
                version = endpoint.version
                response = await endpoint.http.request("POST", path, body)
            if response.status_code < 400:
                answer = Answer(read(response.json()), version)
                endpoint.succeeded()
                return answer
        except NoAnswer as error:
            endpoint.failed(at_once=error.refused)
            if self._unreachable is not None:
                await self._unreachable()
            raise _AskAgainError(str(error)) from error
        except (ValueError, KeyError, TypeError, IndexError) as error:
            endpoint.failed()
            raise _AskAgainError(f"a reply that is no completion ({type(error).__name__})") from error
        refusal = Refused(f"POST {endpoint.url}{path}", response)
        misconfigured = refusal.status in MISCONFIGURED and not alone
        if refusal.status == 429:
            endpoint.succeeded()
        elif refusal.status in POLICY_LATER or misconfigured:
            endpoint.failed(at_once=misconfigured)
        else:
            endpoint.succeeded()
            raise refusal
        raise _AskAgainError(f"status {refusal.status}: {refusal.message}", retry_after(response, LONGEST_RETRY_AFTER_S))

    async def _choose(self, conversation: Conversation, told: set[Endpoint], deadline: float, path: str, reason: str) -> Endpoint:
        """The conversation's own server while it is healthy, else the one with the fewest requests. Waits until one takes requests."""
        while True:
            now = time.monotonic()
            opens = {e: e.opens_in(now) for e in self.all}
            free = [e for e in self.all if opens[e] == 0]
            free = [e for e in free if e not in told] or free
            if free:
                own = conversation.endpoint
                # a server that failed is tried again by the next request, whoever's it is
                trial = next((e for e in free if e.aside), None)
                return trial or (own if own in free else min(free, key=lambda e: (e.running, e.asked_at)))
            if now >= deadline:
                raise self._unavailable(path, reason)
            known = [s for s in opens.values() if s is not None]
            changed = self._changed
            with suppress(TimeoutError):
                async with asyncio.timeout(min([*known, deadline - now])):
                    await changed.wait()

    def _unavailable(self, path: str, reason: str) -> Unavailable:
        where = ", ".join(e.url for e in self.all)
        return Unavailable(
            f"POST {where}{path}: no answer in {self._patience_s:.0f} s; last: {reason}. Is the service up (`eto services status`)?"
        )

    def _wake(self) -> None:
        """Let those that wait for a server look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _renew(self, endpoint: Endpoint) -> None:
        """Put the weights in place that the server may lack after it was away. Raises _AskAgainError."""
        if self._prepare is not None:
            try:
                async with endpoint.drained():
                    await self._prepare(endpoint)
            except (RuntimeError, NoAnswer) as error:
                endpoint.failed(at_once=True)
                raise _AskAgainError(str(error)) from error
        endpoint.current = True

    async def replace(self, prepare: Callable[[Endpoint], Awaitable[None]]) -> list[str]:
        """Put other weights into every server, one at a time, each drained before, while the others answer.

        `prepare` does it and sets `endpoint.version`. A server where it fails is set aside, and prepared before it is asked again.
        Returns what failed; raises the last failure if no server could be prepared.
        """
        self._prepare = prepare
        failures: list[tuple[str, Exception]] = []
        for endpoint in self.all:
            try:
                async with endpoint.drained():
                    await prepare(endpoint)
                endpoint.current = True
                endpoint.succeeded()
            except (RuntimeError, NoAnswer) as error:
                endpoint.failed(at_once=True)
                failures.append((endpoint.url, error))
            self._wake()
        if len(failures) == len(self.all):
            raise failures[-1][1]
        return [f"{url} is set aside: {error}" for url, error in failures]
