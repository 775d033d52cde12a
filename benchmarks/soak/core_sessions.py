#!services/env-sciworld/.venv/bin/python
"""Many more open sessions than engines.

    benchmarks/soak/core_sessions.py [--short]

- ScienceWorld: 300 sessions (the 6 shortest gold paths) open at once on 4 engines, stepped in turns to their ends, 8 requests at a time.
  Every reply is compared with that of the path played alone.
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
from env_core.running import RunningService, running_service
from playing import COUNTER, GOLD, QUIET, call, finish, play, shown

ENGINES = ("--max-engines", "4", "--max-sessions", "20000")
TASKS = sorted(GOLD, key=lambda task_id: len(GOLD[task_id]))[:6]
AT_ONCE = 8
BATCH = 250
RSS_MB = 400


def rss_mb(service: RunningService) -> float:
    """Return the resident memory of the service's own process."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


async def sciworld(sessions: int) -> tuple[int, dict[str, Any]]:
    """Return how many sessions showed the right thing to their ends, and figures."""
    with running_service("env_sciworld", (*ENGINES, *QUIET), ready_timeout_s=300) as service:
        async with httpx.AsyncClient(base_url=service.url, timeout=600) as client:
            alone = {task_id: await play(client, f"alone/{task_id}", task_id, GOLD[task_id]) for task_id in TASKS}
            places = asyncio.Semaphore(AT_ONCE)
            tasks = [TASKS[number % len(TASKS)] for number in range(sessions)]
            seen: list[list[str]] = [[] for _ in tasks]
            ids = [""] * sessions

            async def turn(number: int, step: int) -> None:
                task_id, actions = tasks[number], GOLD[tasks[number]]
                async with places:
                    if step == 0:
                        reply = await call(client, "POST", "/reset", {"task_id": task_id, "max_steps": len(actions)})
                        ids[number] = reply["metadata"]["session_id"]
                    else:
                        reply = await call(client, "POST", "/step", {"session_id": ids[number], "action": actions[step - 1]})
                seen[number].append(shown(reply))

            started = time.monotonic()
            for step in range(1 + max(len(alone[task_id]) - 1 for task_id in TASKS)):
                await asyncio.gather(*(turn(n, step) for n, task_id in enumerate(tasks) if step < len(alone[task_id])))
                print(f"sciworld: step {step}, {time.monotonic() - started:.0f} s", flush=True)
            metrics = (await client.get("/metrics")).text
    restores = next(float(line.split()[1]) for line in metrics.splitlines() if line.startswith("eto_env_restore_seconds_count"))
    right = sum(stream == alone[task_id] for stream, task_id in zip(seen, tasks, strict=True))
    figures = {"steps": sum(len(s) - 1 for s in seen), "replays": int(restores), "elapsed_s": round(time.monotonic() - started, 1)}
    return right, figures


async def counter(sessions: int) -> tuple[int, dict[str, Any]]:
    """As sciworld, in batches; the figures hold the memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        journal = ("--journal", f"{folder}/journal")
        with running_service("counter_env", (*ENGINES, *QUIET, *journal), COUNTER, ready_timeout_s=300) as service:
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


async def main(many: int, more: int) -> None:
    """Play, compare and report."""
    right_counter, figures_counter = await counter(more)
    right_sciworld, figures_sciworld = await sciworld(many)
    finish(
        "core_sessions",
        {
            f"{many} ScienceWorld sessions on 4 engines, stepped in turns, were all right": right_sciworld == many,
            f"{more} sessions of the counter on 4 engines were all right": right_counter == more == figures_counter["open_sessions"],
            f"the service stayed under {RSS_MB} MB": figures_counter["rss_mb"] < RSS_MB,
        },
        {"n_sciworld": many, "n_counter": more, "sciworld": figures_sciworld, "counter": figures_counter},
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Many more open sessions than engines.")
    parser.add_argument("--short", action="store_true", help="24 and 1,000 sessions")
    short = parser.parse_args().short
    asyncio.run(main(24 if short else 300, 1000 if short else 10_000))
