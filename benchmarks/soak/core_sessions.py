#!services/env-sciworld/.venv/bin/python
"""Many more open sessions than engines.

    make soak ONLY=core_sessions [ENV=sciworld|webshop|alfworld|counter], or benchmarks/soak/core_sessions.py [--env ENV] [--short]

Without ENV it is ScienceWorld and the counter.
- ScienceWorld, WebShop, ALFWorld: 300 sessions (the 6 tasks with the shortest gold or expert paths) open at once on 4 engines, stepped in
  turns to their ends, 8 requests at a time. Every reply is compared with that of the path played alone.
- A trivial environment that counts: 10,000 sessions open at once on 4 engines, with a journal, each stepped 3 times in turns. Every
  count is checked; the resident memory of the service's process stays under 400 MB.
--short: 24 and 1,000 sessions.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from env_core.running import RunningService
from environments import ENVIRONMENTS, Served, paths
from playing import QUIET, call, finish, play, record, run, shown

ENGINES = ("--max-engines", "4", "--max-sessions", "20000")
TASKS = 6
AT_ONCE = 8
BATCH = 250
RSS_MB = 400


def rss_mb(service: RunningService) -> float:
    """Return the resident memory of the service's own process."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


async def to_their_ends(env: Served, sessions: int) -> tuple[int, dict[str, Any]]:
    """Return how many sessions showed the right thing to their ends, and figures."""
    with env.running((*ENGINES, *QUIET)) as service:
        async with httpx.AsyncClient(base_url=service.url, timeout=600) as client:
            shortest = sorted((await paths(client, env.name)).items(), key=lambda path: len(path[1]))[:TASKS]
            alone = {task_id: await play(client, f"alone/{task_id}", task_id, actions) for task_id, actions in shortest}
            places = asyncio.Semaphore(AT_ONCE)
            tasks = [shortest[number % len(shortest)] for number in range(sessions)]
            seen: list[list[str]] = [[] for _ in tasks]
            ids = [""] * sessions

            async def turn(number: int, step: int) -> None:
                task_id, actions = tasks[number]
                async with places:
                    if step == 0:
                        reply = await call(client, "POST", "/reset", {"task_id": task_id, "max_steps": len(actions)})
                        ids[number] = reply["metadata"]["session_id"]
                    else:
                        reply = await call(client, "POST", "/step", {"session_id": ids[number], "action": actions[step - 1]})
                seen[number].append(shown(reply))

            started = time.monotonic()
            for step in range(1 + max(len(stream) - 1 for stream in alone.values())):
                await asyncio.gather(*(turn(n, step) for n, (task_id, _) in enumerate(tasks) if step < len(alone[task_id])))
                print(f"{env.name}: step {step}, {time.monotonic() - started:.0f} s", flush=True)
            metrics = (await client.get("/metrics")).text
    restores = next(float(line.split()[1]) for line in metrics.splitlines() if line.startswith("eto_env_restore_seconds_count"))
    right = sum(stream == alone[task_id] for stream, (task_id, _) in zip(seen, tasks, strict=True))
    figures = {"steps": sum(len(s) - 1 for s in seen), "replays": int(restores), "elapsed_s": round(time.monotonic() - started, 1)}
    return right, figures


async def counter(sessions: int) -> tuple[int, dict[str, Any]]:
    """Return how many counters were right after each of 3 steps, and figures with the memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        journal = ("--journal", f"{folder}/journal")
        with ENVIRONMENTS["counter"].running((*ENGINES, *QUIET, *journal)) as service:
            async with httpx.AsyncClient(base_url=service.url, timeout=600) as client:
                empty_mb = rss_mb(service)
                started = time.monotonic()
                ids: list[str] = []
                for first in range(0, sessions, BATCH):
                    resets = [{"task_id": "count:1000000", "seed": seed} for seed in range(first, first + BATCH)]
                    results = (await call(client, "POST", "/batch/reset", {"resets": resets}))["results"]
                    ids += [result["reply"]["metadata"]["session_id"] for result in results]
                right = [0] * sessions
                most_mb = rss_mb(service)
                for step in range(1, 4):
                    for first in range(0, sessions, BATCH):
                        steps = [{"session_id": ids[n], "action": "add 1"} for n in range(first, first + BATCH)]
                        results = (await call(client, "POST", "/batch/step", {"steps": steps}))["results"]
                        for n, result in enumerate(results, first):
                            right[n] += result.get("reply", {}).get("observation", {}).get("text") == f"The count is {n + step}."
                    most_mb = max(most_mb, rss_mb(service))
                    print(f"counter: step {step}, {time.monotonic() - started:.0f} s, {most_mb:.0f} MB", flush=True)
                open_now = sum(not state["done"] for state in (await call(client, "GET", "/sessions"))["sessions"])
                disk_mb = Path(folder, "journal").stat().st_size / 2**20
    figures = {
        "open_sessions": open_now,
        "rss_mb": round(most_mb, 1),
        "rss_mb_empty": round(empty_mb, 1),
        "kb_per_session": round(1024 * (most_mb - empty_mb) / sessions, 2),
        "journal_mb": round(disk_mb, 1),
        "elapsed_s": round(time.monotonic() - started, 1),
    }
    return sum(number == 3 for number in right), figures


async def main(name: str, many: int, more: int, env: str | None) -> None:
    """Play, compare and report."""
    claims: dict[str, bool] = {}
    figures: dict[str, Any] = {}
    if env in (None, "counter"):
        right, figures["counter"] = await counter(more)
        figures["n_counter"] = more
        claims[f"{more} sessions of the counter on 4 engines were all right"] = right == more == figures["counter"]["open_sessions"]
        claims[f"the service stayed under {RSS_MB} MB"] = figures["counter"]["rss_mb"] < RSS_MB
    if env != "counter":
        played = env or "sciworld"
        right, figures[played] = await to_their_ends(ENVIRONMENTS[played], many)
        figures[f"n_{played}"] = many
        claims[f"{many} sessions of {played} on 4 engines, stepped in turns, were all right"] = right == many
    finish(name, claims, figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Many more open sessions than engines.")
    parser.add_argument("--short", action="store_true", help="24 and 1,000 sessions")
    parser.add_argument("--env", choices=ENVIRONMENTS, help="what is played (default sciworld and counter)")
    asked = parser.parse_args()
    run(main(record("core_sessions", asked, None), 24 if asked.short else 300, 1000 if asked.short else 10_000, asked.env))
