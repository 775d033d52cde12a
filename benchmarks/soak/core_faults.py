#!services/env-sciworld/.venv/bin/python
"""Episodes that do not notice what happens to their engines and to their service.

    make soak ONLY=core_faults [ENV=sciworld|webshop|alfworld|counter], or benchmarks/soak/core_faults.py [--env ENV] [--short]

200 episodes (gold or expert paths, at most 15 steps) at concurrency 16 on 4 engines, with a journal. Meanwhile a random worker or JVM is
SIGKILLed every 10 s and one SIGSTOPped every 30 s, and the whole service is killed -9 and started again twice, once a third and once two
thirds of the episodes have ended. Every reply is compared with that of an undisturbed run. --short: 24 episodes, one restart.
Where a step takes next to no time, the players think for a second between two steps, as otherwise all would be over before any harm.
What the engines and the service say on standard error goes to benchmarks/out/soak-core_faults.log.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import socket
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
from env_core.process_tree import command, tree
from env_core.running import RunningService, wait_until_ready
from environments import ENVIRONMENTS, READY_TIMEOUT_S, Served, paths
from playing import OUT, QUIET, LostError, call, finish, play, record, run, tell

CONCURRENCY = 16
ENGINES = 4
STEPS = 15
KILL_EVERY_S, STOP_EVERY_S = 10.0, 30.0


class Service:
    """The service, on one port and journal for all its lives."""

    def __init__(self, env: Served, folder: Path) -> None:
        self._env = env
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = ("--port", self.port, "--journal", folder / "journal", "--max-engines", ENGINES, "--step-timeout-s", 10)
        self._options = (*map(str, options), *QUIET)
        self.running = self.start()

    def start(self) -> RunningService:
        """Begin a life."""
        self.running = self._env.start(self._options, ETO_ENV_LOAD_TIMEOUT_S="30")
        return self.running

    def kill(self) -> None:
        """End it as a power cut would, its engines too."""
        self.running.process.kill()
        self.running.process.wait()

    def victims(self) -> list[int]:
        """Return the workers and JVMs."""
        return [
            pid
            for pid in tree(self.running.process.pid)[1:]
            if any(part in command(pid) for part in ("env_core.worker", "scienceworld.jar"))
        ]


async def harm(service: Service, chance: random.Random, signal_: signal.Signals, every_s: float, done: Counter[str]) -> None:
    """Send a signal to a random victim, again and again."""
    while True:
        await asyncio.sleep(every_s)
        if victims := service.victims():
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(victims), signal_)
                done[signal_.name] += 1


async def main(name: str, env: Served, episodes: int, restarts: int) -> None:
    """Play, compare and report."""
    chance = random.Random(0)
    happened: Counter[str] = Counter()
    limits = httpx.Limits(max_connections=None)
    with tempfile.TemporaryDirectory() as folder:
        service = Service(env, Path(folder))
        try:
            wait_until_ready(service.running, READY_TIMEOUT_S)
            async with httpx.AsyncClient(base_url=service.running.url, timeout=300, limits=limits) as client:
                actions = {task_id: path[:STEPS] for task_id, path in (await paths(client, env.name)).items()}
                tasks = [list(actions)[number % len(actions)] for number in range(episodes)]
                undisturbed = {task_id: await play(client, f"alone/{task_id}", task_id, actions[task_id]) for task_id in set(tasks)}
                for state in (await call(client, "GET", "/sessions"))["sessions"]:
                    await call(client, "DELETE", f"/sessions/{state['session_id']}")
                print(f"{len(undisturbed)} undisturbed episodes were recorded", flush=True)

                started = time.monotonic()
                places = asyncio.Semaphore(CONCURRENCY)
                ended: dict[int, list[str] | str] = {}

                async def episode(number: int) -> None:
                    async with places:
                        try:
                            ended[number] = await play(client, f"episode/{number}", tasks[number], actions[tasks[number]], env.pause_s)
                        except LostError as error:
                            ended[number] = str(error)

                async def restart() -> None:
                    for part in range(1, restarts + 1):
                        while len(ended) < part * episodes / (restarts + 1):  # noqa: ASYNC110 - a glance ten times a second
                            await asyncio.sleep(0.1)
                        service.kill()
                        await asyncio.to_thread(service.start)
                        happened["restart"] += 1
                        print(f"restarted after {len(ended)} episodes, {time.monotonic() - started:.0f} s", flush=True)

                def progress() -> str:
                    return f"{len(ended)} of {episodes} episodes have ended, {time.monotonic() - started:.0f} s, {dict(happened)}"

                trouble = [
                    asyncio.create_task(tell(progress)),
                    asyncio.create_task(restart()),
                    asyncio.create_task(harm(service, chance, signal.SIGKILL, KILL_EVERY_S, happened)),
                    asyncio.create_task(harm(service, chance, signal.SIGSTOP, STOP_EVERY_S, happened)),
                ]
                await asyncio.gather(*map(episode, range(episodes)))
                for task in trouble:
                    task.cancel()
                elapsed_s = time.monotonic() - started
                sessions = (await call(client, "GET", "/sessions"))["sessions"]
        finally:
            service.running.stop()
    harms = ("SIGKILL", "restart") if episodes < 200 else ("SIGKILL", "SIGSTOP", "restart")  # a short run may end before one is stopped
    lost = {number: seen for number, seen in ended.items() if isinstance(seen, str)}
    different = [n for n, seen in ended.items() if n not in lost and seen != undisturbed[tasks[n]]]
    names = Counter(state["episode_id"] for state in sessions)
    for number, problem in list(lost.items())[:3]:
        print(f"lost: {number} {problem}")
    finish(
        name,
        {
            f"{episodes} episodes ended": len(ended) - len(lost) == episodes,
            "every one is byte-identical to its undisturbed run": not different,
            "none was doubled, no session leaked": len(names) == episodes and set(names.values()) == {1},
            "all kinds of harm were done": all(happened[kind] for kind in harms),
        },
        {
            "n": episodes,
            "env": env.name,
            "tasks": len(undisturbed),
            "steps": sum(len(seen) - 1 for seen in ended.values() if isinstance(seen, list)),
            "harm": dict(happened),
            "elapsed_s": round(elapsed_s, 1),
            "different": different,
            "lost": len(lost),
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Episodes under SIGKILL, SIGSTOP and restarts of the service.")
    parser.add_argument("--short", action="store_true", help="24 episodes and one restart")
    parser.add_argument("--env", choices=ENVIRONMENTS, default="sciworld", help="what is played (default sciworld)")
    asked = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    os.dup2(os.open(OUT / "soak-core_faults.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)  # killed engines have much to say
    run(main(record("core_faults", asked, "sciworld"), ENVIRONMENTS[asked.env], 24 if asked.short else 200, 1 if asked.short else 2))
