"""The replicas of one environment service: new sessions go where fewest are open, and a session stays with the replica that made it.

They are given one by one, or by a host name that stands for several IPv4 addresses, as with `docker compose up --scale` and headless
services of Kubernetes. As long as a name stands for one only, it is asked by its name: a container may come back with another address.
"""

import asyncio
import ipaddress
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from orchestrator.http import Client, jittered

#: Seconds after which a name is looked up again: replicas come and go.
REFRESH_S = 5.0
#: Seconds for which a replica that failed, or is full, gets no new session.
ASIDE_S = 2.0
CONNECT_TIMEOUT_S = 10.0


class Replica:
    """One service, and the sessions that it holds for this client."""

    def __init__(self, url: str, headers: Mapping[str, str], timeout_s: float) -> None:
        self.url = url
        self.http = Client(url, headers, timeout_s, CONNECT_TIMEOUT_S)
        self.sessions: set[str] = set()
        self.running = 0  # calls that any replica could have been asked
        self.aside_until = 0.0

    @property
    def claim(self) -> int:
        """What it has to do; the replica with the least is asked next."""
        return len(self.sessions) + self.running

    @contextmanager
    def call(self) -> Iterator[None]:
        """A call is on its way."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def set_aside(self) -> None:
        """Ask others for a while."""
        self.aside_until = time.monotonic() + jittered(ASIDE_S)


class Replicas:
    """All of them. `several`: there is or was more than one, so one that is away is not waited for as long."""

    def __init__(self, urls: Sequence[str], headers: Mapping[str, str], timeout_s: float) -> None:
        self._urls, self._headers, self._timeout_s = urls, headers, timeout_s
        self.several = len(urls) > 1
        self._known: dict[str, Replica] = {}
        self._listed = [self._replica(url) for url in urls]
        self._named = [url for url in urls if _may_stand_for_several(url)]
        self._holders: dict[str, Replica] = {}
        self._looked_at = -REFRESH_S

    async def close(self) -> None:
        """Close the connections."""
        for replica in self._known.values():
            await replica.http.aclose()

    async def listed(self) -> list[Replica]:
        """Those that are there now, as far as is known."""
        if self._named and time.monotonic() - self._looked_at >= REFRESH_S:
            self._looked_at = time.monotonic()
            found = [(url, await _addresses(url) if url in self._named else []) for url in self._urls]
            self.several = self.several or any(len(addresses) > 1 for _, addresses in found)
            # a name that cannot be looked up just now stands for what it stood for
            now = [r for url, addresses in found for r in (self._at(url, addresses) if self.several else [self._replica(url)])]
            self._listed = now or self._listed
        return self._listed

    async def choose(self) -> Replica:
        """The one that has the least to do. Waits where all are set aside."""
        replicas = await self.listed()
        opens_in = min(r.aside_until for r in replicas) - time.monotonic()
        if opens_in > 0:
            await asyncio.sleep(opens_in)
        now = time.monotonic()
        return min((r for r in replicas if r.aside_until <= now), key=lambda r: r.claim)

    def holder(self, session_id: str) -> Replica | None:
        """The replica that a session is at, None where that is not known."""
        return self._holders.get(session_id) or (None if self.several else self._listed[0])

    def hold(self, session_id: str, replica: Replica) -> None:
        """A session of ours is at a replica."""
        self.find(session_id, replica)
        replica.sessions.add(session_id)

    def find(self, session_id: str, replica: Replica) -> None:
        """A session, whoever's, is at a replica."""
        self._holders[session_id] = replica

    def forget(self, session_id: str) -> None:
        """A session is gone."""
        replica = self._holders.pop(session_id, None)
        if replica is not None:
            replica.sessions.discard(session_id)

    def _at(self, url: str, addresses: list[str]) -> list[Replica]:
        if url not in self._named:
            return [self._replica(url)]
        host = urlsplit(url).hostname or ""
        return [self._replica(url.replace(host, address, 1), urlsplit(url).netloc) for address in addresses]

    def _replica(self, url: str, host: str | None = None) -> Replica:
        if url not in self._known:
            headers = {**self._headers, **({"Host": host} if host else {})}
            self._known[url] = Replica(url, headers, self._timeout_s)
        return self._known[url]


def _may_stand_for_several(url: str) -> bool:
    """Names do, except for this machine's own; behind https a certificate binds the name."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return parts.scheme == "http" and host != "localhost"
    return False


async def _addresses(url: str) -> list[str]:
    """The IPv4 addresses of a URL's host; none where it cannot be looked up."""
    parts = urlsplit(url)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, parts.port, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except socket.gaierror:
        return []
    return sorted({str(entry[4][0]) for entry in found})
