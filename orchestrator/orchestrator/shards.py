"""Rollouts on a Ray cluster: the same episodes, played by processes on its nodes; the orchestrator keeps the queue and the file.

An episode is a call of a shard, an actor. Ray starts an actor again that died with its process or its node, there or elsewhere; the calls
that it had not answered go to another shard, so a lost node costs the episodes it was at and nothing else. The queue is the rollout's: a
slow shard gets fewer episodes, and none is left with a long tail.
"""

import asyncio
import hashlib
import ipaddress
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from orchestrator import places, ray_cluster, rollout
from orchestrator.config import RaySection, RolloutSection
from orchestrator.config_services import EnvSection
from orchestrator.endpoints import Unanswerable
from orchestrator.env_client import EnvClient, SessionLost
from orchestrator.episode import Assignment, Chat, EpisodeFailed, Player
from orchestrator.http import Refused, Unavailable
from orchestrator.placement import EnvPlacement
from orchestrator.process import ServiceError
from orchestrator.records import Episode

#: How often Ray starts a shard again.
RESTARTS = 100
#: Seconds for which a shard that lost a call is asked last, and that pass before the call is repeated. Until Ray has noticed that a node is
#: gone (some 15 s), calls of its shard fail at once, which is why Ray's own repetitions (max_task_retries) do not reach over it.
AVOIDED_S, PAUSE_S = 30.0, 1.0
#: What a shard is told of the orchestrator's environment; the rest it has from its node.
TOKENS = ("ETO_ENV_TOKEN", "ETO_POLICY_TOKEN")


@dataclass(frozen=True)
class Orders:
    """Who plays, in a form that travels: `cast` makes the player of the client that `connect` makes on the spot."""

    cast: Callable[[Chat], Player]
    connect: Callable[[EnvClient], Chat]
    policy_urls: Sequence[str] = ()


@dataclass(frozen=True)
class Terms:
    """What the shards of a rollout have in common. `driver` is the address of the orchestrator's node, None where there is no cluster."""

    env: EnvSection
    settings: RolloutSection
    orders: Orders
    run_id: str
    tokens: dict[str, str]
    driver: str | None = None


@dataclass(frozen=True)
class Failure:
    """Why there is no episode: errors as such would come back from Ray with its own traceback. `final`: others would fare no better."""

    message: str
    final: bool


class Shard:
    """A process that plays: with an environment service of its own, unless the configuration has an address. Becomes a Ray actor."""

    def __init__(self, number: int, terms: Terms) -> None:
        os.environ.update(terms.tokens)
        self._terms = terms
        self._name = f"{hashlib.sha256(terms.run_id.encode()).hexdigest()[:8]}-{number}"
        # what it starts is its own: beside that of other shards and of `eto services` on the machine
        os.environ["ETO_STATE"] = str(places.state_dir() / "shards" / self._name)
        self._opening = asyncio.Lock()
        self._ready: tuple[EnvPlacement, Player] | None = None

    async def play(self, what: Assignment) -> Episode | Failure:
        """One episode, or why there is none."""
        try:
            place, player = await self._open()
            return await rollout.play_one(what, place.client, player, self._terms.run_id)
        except (Unavailable, ServiceError, FileNotFoundError) as error:
            return Failure(str(error), final=True)
        except (SessionLost, Refused, Unanswerable, EpisodeFailed) as error:
            return Failure(str(error), final=False)

    async def _open(self) -> tuple[EnvPlacement, Player]:
        async with self._opening:
            if self._ready is None:
                terms = self._terms
                _check_reach(terms)
                section = terms.env
                if section.url is None:
                    section = section.model_copy(update={"port": _free_port()})
                place = EnvPlacement(section, f"shard:{self._name}", terms.settings, ends_with_starter=True)
                await place.start()
                self._ready = place, terms.orders.cast(terms.orders.connect(place.client))
            return self._ready


class Shards:
    """The shards of one rollout, as a context; `play` is what the rollout calls. Raises ConfigError without Ray, Unavailable."""

    def __init__(self, env: EnvSection, settings: RolloutSection, orders: Orders, run_id: str, concurrency: int) -> None:
        tokens = {name: os.environ[name] for name in TOKENS if name in os.environ}
        self._terms, self._concurrency = Terms(env, settings, orders, run_id, tokens), concurrency
        self._actors: list[Any] = []
        self._busy: list[int] = []
        self._lost_at: list[float] = []  # on the clock of time.monotonic

    async def __aenter__(self) -> Self:
        section = self._terms.settings.ray or RaySection()
        self._ray = ray = await ray_cluster.connect(section.address)
        affinity = ray_cluster.load("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        terms = replace(self._terms, driver=ray.util.get_node_ip_address())
        nodes = sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])
        for number in range(section.shards or len(nodes)):
            actor = ray.remote(Shard).options(
                num_cpus=0,  # where a node is lost, the others take its shards whatever else they do
                max_restarts=RESTARTS,
                max_concurrency=self._concurrency,
                scheduling_strategy=affinity(node_id=nodes[number % len(nodes)], soft=True),
            )
            self._actors.append(actor.remote(number, terms))
            self._busy.append(0)
            self._lost_at.append(-AVOIDED_S)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for actor in self._actors:
            self._ray.kill(actor)

    def _claim(self, number: int) -> tuple[bool, int]:
        """A shard's place in the order of asking."""
        return time.monotonic() < self._lost_at[number] + AVOIDED_S, self._busy[number]

    async def play(self, what: Assignment) -> Episode:
        """An episode on the shard that has the least to do, again on another where that is lost. Raises Unavailable or EpisodeFailed."""
        deadline = time.monotonic() + self._terms.settings.episode_deadline_s + self._terms.settings.patience_s
        while True:
            number = min(range(len(self._actors)), key=self._claim)
            self._busy[number] += 1
            try:
                played = await self._actors[number].play.remote(what)
                break
            except (self._ray.exceptions.RayActorError, self._ray.exceptions.ObjectLostError) as error:
                self._lost_at[number] = time.monotonic()
                if time.monotonic() > deadline:
                    why = str(error).strip().splitlines()[0]
                    raise EpisodeFailed(f"the processes that played it were lost again and again, last: {why}") from error
            finally:
                self._busy[number] -= 1
            await asyncio.sleep(PAUSE_S)
        if isinstance(played, Failure):
            raise (Unavailable if played.final else EpisodeFailed)(played.message)
        assert isinstance(played, Episode)  # noqa: S101 - what Shard.play returns
        return played


def _check_reach(terms: Terms) -> None:
    url = next(filter(_is_loopback, terms.orders.policy_urls), None)
    if url is None or terms.driver is None:
        return
    here = ray_cluster.load().util.get_node_ip_address()
    if here != terms.driver:
        raise Unavailable(
            f"the policy server's address {url} means another machine on node {here} than on {terms.driver}, where it was given. "
            "Set policy.url to one that all nodes reach."
        )


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
