#!services/env-sciworld/.venv/bin/python
"""A service that plays many episodes and stays as it was.

    make soak ONLY=core_leaks [ENV=sciworld|webshop|alfworld|counter], or benchmarks/soak/core_leaks.py [--env ENV] [--short]

3,000 episodes of at most 4 steps on one service of 2 engines, 4 at a time; each session is deleted at its end. After the first 300
the resident memory (the service with its workers and JVMs) grows by less than 5 %, and threads and file descriptors stay the same.
Figures are medians of 5 readings a second apart with nothing under way. --short: 300 episodes, after the first 100.
"""

import argparse
import asyncio
import os
import statistics
import time
from pathlib import Path

import httpx
from env_core.process_tree import tree
from env_core.running import RunningService
from environments import ENVIRONMENTS, Served, paths
from playing import QUIET, call, finish, record, run

STEPS = 4
GROWTH = 0.05
AT_ONCE = 4


def reading(service: RunningService) -> tuple[float, float, int, int]:
    """Return the memory of all processes and of the service's own in MB, all threads, and the service's file descriptors."""
    pids = tree(service.process.pid)
    rss: dict[int, float] = {}
    threads = 0
    for pid in pids:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
        rss[pid] = int(fields["VmRSS"].split()[0]) / 1024
        threads += int(fields["Threads"])
    descriptors = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
    return sum(rss.values()), rss[service.process.pid], threads, descriptors


async def quiet_reading(service: RunningService) -> tuple[float, float, int, int]:
    """Return the medians of some readings."""
    readings = []
    for _ in range(5):
        await asyncio.sleep(1)
        readings.append(reading(service))
    return tuple(statistics.median(column) for column in zip(*readings, strict=True))  # type: ignore[return-value]


async def main(name: str, env: Served, episodes: int, warm_up: int) -> None:
    """Play, compare and report."""
    with env.running(("--max-engines", "2", "--engines-warm", "2", *QUIET)) as service:
        async with httpx.AsyncClient(base_url=service.url, timeout=600) as client:
            actions = await paths(client, env.name)
            places = asyncio.Semaphore(AT_ONCE)

            async def episode(number: int) -> None:
                task_id = list(actions)[number % len(actions)]
                async with places:
                    reply = await call(client, "POST", "/reset", {"task_id": task_id, "max_steps": STEPS})
                    session_id = reply["metadata"]["session_id"]
                    for action in actions[task_id][:STEPS]:
                        reply = await call(client, "POST", "/step", {"session_id": session_id, "action": action})
                        if reply["done"]:
                            break
                    await call(client, "DELETE", f"/sessions/{session_id}")

            started = time.monotonic()
            await asyncio.gather(*map(episode, range(warm_up)))
            before = await quiet_reading(service)
            print(f"after {warm_up}: {before[0]:.0f} MB, {before[2]} threads, {before[3]} descriptors", flush=True)
            for first in range(warm_up, episodes, 100):
                await asyncio.gather(*map(episode, range(first, min(first + 100, episodes))))
                now = reading(service)
                print(f"{first + 100} of {episodes}: {now[0]:.0f} MB, {time.monotonic() - started:.0f} s", flush=True)
            after = await quiet_reading(service)
            left = len((await call(client, "GET", "/sessions"))["sessions"])
    growth = after[0] / before[0] - 1
    finish(
        name,
        {
            f"memory grew by less than {GROWTH:.0%}": growth < GROWTH,
            "threads stayed the same": after[2] == before[2],
            "file descriptors stayed the same": after[3] == before[3],
            "no session is left": left == 0,
        },
        {
            "n": episodes,
            "env": env.name,
            "tasks": len(actions),
            "growth": round(growth, 4),
            "rss_mb": {"before": round(before[0], 1), "after": round(after[0], 1)},
            "service_rss_mb": {"before": round(before[1], 1), "after": round(after[1], 1)},
            "threads": [before[2], after[2]],
            "descriptors": [before[3], after[3]],
            "elapsed_s": round(time.monotonic() - started, 1),
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Many episodes on one service.")
    parser.add_argument("--short", action="store_true", help="300 episodes")
    parser.add_argument("--env", choices=ENVIRONMENTS, default="sciworld", help="what is played (default sciworld)")
    asked = parser.parse_args()
    run(main(record("core_leaks", asked, "sciworld"), ENVIRONMENTS[asked.env], 300 if asked.short else 3000, 100 if asked.short else 300))
