"""A rollout against policy servers that misbehave and die: what tests/test_chaos.py and its long form, benchmarks/soak/chaos.py, share."""

import asyncio
import random
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import chat_server
from orchestrator.env_client import EnvClient
from orchestrator.episode import Assignment, Player
from orchestrator.policy_client import PolicyClient, Sampling
from orchestrator.prompts import load_prompt
from orchestrator.records import Episode
from orchestrator.rollout import Rollout, run
from tiny_run import free_port

from orchestrator import jsonl

PATIENCE_S = 120.0


@dataclass
class Servers:
    """Scripted policy servers, which can be killed and started again under the same address."""

    count: int
    log: Path
    options: dict[str, Any]
    ports: list[int] = field(default_factory=list)
    processes: "list[subprocess.Popen[str]]" = field(default_factory=list)
    kills: int = 0

    def __enter__(self) -> "Servers":
        self.ports = [free_port() for _ in range(self.count)]
        self.processes = [self.start(n) for n in range(self.count)]
        return self

    def __exit__(self, *args: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def start(self, number: int) -> "subprocess.Popen[str]":
        """A server that misbehaves in another way each time it is started."""
        seed = self.kills * self.count + number
        log = self.log.with_name(f"{self.log.name}.{number}.{self.kills}")
        return chat_server.start(self.ports[number], weights="base", seed=seed, log=log, **self.options)

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    async def kill_and_restart(self, rng: random.Random, every_s: float, away_s: float) -> None:
        """Until cancelled: kill one at random, start it again a little later."""
        while True:
            await asyncio.sleep(rng.uniform(0.5, 1.5) * every_s)
            number = rng.randrange(self.count)
            self.processes[number].kill()
            self.processes[number].wait()
            self.kills += 1
            await asyncio.sleep(away_s)
            self.processes[number] = await asyncio.to_thread(self.start, number)

    def told(self) -> Counter[str]:
        """What the servers' logs say: requests that came, how each was to end, and those that never ended."""
        told: Counter[str] = Counter()
        for log in self.log.parent.glob(f"{self.log.name}.*"):
            begun: set[str] = set()
            ended: set[str] = set()
            for line in log.read_text().splitlines():
                number, _, what = line.partition(" ")
                (begun if what == "begin" else ended).add(number)
                told[what] += 1
            told["cut off by a kill"] += len(begun - ended)
        return told


def rollout(
    env_name: str,
    env_url: str,
    servers: Servers,
    out: Path,
    episodes: int,
    concurrency: int,
    *,
    split: str,
    max_steps: int,
    turn_timeout_s: float = 120.0,
    kill_every_s: float | None = None,
    seed: int = 0,
) -> tuple[Rollout, float]:
    """Play; also the seconds it took. Samples of a task are taken where the split has fewer tasks."""

    async def main() -> tuple[Rollout, float]:
        async with (
            EnvClient(env_url, env_name, patience_s=PATIENCE_S) as env,
            PolicyClient(servers.urls, "m", patience_s=PATIENCE_S, turn_timeout_s=turn_timeout_s) as client,
        ):
            tasks = await env.tasks(split)
            todo = [Assignment(tasks[n % len(tasks)], split, n // len(tasks)) for n in range(episodes)]
            player = Player(client, "agent", None, Sampling(), load_prompt(env_name), max_steps=max_steps)
            chaos = asyncio.create_task(servers.kill_and_restart(random.Random(seed), kill_every_s, 1.0)) if kill_every_s else None
            started = time.monotonic()
            try:
                return await run(todo, env, player, out, concurrency=concurrency, run_id="chaos"), time.monotonic() - started
            finally:
                if chaos is not None:
                    chaos.cancel()
                    await asyncio.gather(chaos, return_exceptions=True)

    return asyncio.run(main())


def contents(file: Path) -> dict[tuple[str, int], Any]:
    """What was played, by episode, without times and retries. Raises AssertionError if an episode stands there twice."""
    episodes = list(jsonl.read(file, Episode))
    played = {e.key: ([m.content for m in e.messages], e.score, e.terminate_reason) for e in episodes}
    assert len(played) == len(episodes), "an episode was written twice"
    return played
