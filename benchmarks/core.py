#!services/env-sciworld/.venv/bin/python
"""What the environment core costs over the bare engine, how it scales with sessions, and what a restore takes.

    benchmarks/core.py [--launches 3]

All in one run, CPU time being user + system of the service with its workers and JVMs, without the client:
- http_overhead_cpu_ms: a step of the counter (an engine that costs nothing) over HTTP, against the same engine called in this process.
- steps_per_cpu_s_vs_library_server: 4 ScienceWorld sessions play the same gold paths through the service and through a plain server with
  one ScienceWorldEnv per session (benchmarks/library_server.py), in turns, all 48 paths once uncounted and once counted, without loads.
- steps_per_s: ScienceWorld steps a second of wall time with 1, 4, 16 and 64 sessions stepping at once on at most 8 engines, all of which
  are warm; with more sessions than engines, the replays are in it.
- restore_ms: two sessions of 15 steps take turns on one engine, so that each step first replays the session's past; milliseconds of
  such a replay (load and steps), as the service's own histogram has them.
Each launch starts all processes anew and counts once; figures are medians over launches with the lowest and highest.
Writes benchmarks/out/core.json.
"""

import argparse
import asyncio
import contextlib
import functools
import importlib
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
from env_core.process_tree import cpu_s, tree
from env_core.running import RunningService, running_service
from sciworld import cpu_model

ROOT = Path(__file__).parent.parent
OUT = ROOT / "benchmarks" / "out" / "core.json"
TESTS = ROOT / "services" / "env-core" / "tests"
GOLD: dict[str, list[str]] = json.loads((ROOT / "services" / "env-sciworld" / "tests" / "gold.json").read_text("utf-8"))
COUNTER = {"PYTHONPATH": os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))}
QUIET = ("--log-level", "warning")
TASKS = ("task-1-boil:0", "task-3-find-living-thing:0", "task-10-use-thermometer:2", "task-4-grow-plant:0")
STEPS = 24  # of a gold path, and at most three quarters of it: no episode is over before its last one
#: All gold paths, four at a time: two variations of each of the 24 task types. The library's step costs what its enumeration of actions
#: does, which differs by a factor of several between task types, so a few types would say little.
ALL_TASKS = [tuple(GOLD)[start : start + 4] for start in range(0, len(GOLD), 4)]
COUNTER_STEPS = 3000
SESSIONS = (1, 4, 16, 64)
RESTORED_STEPS, RESTORES = 15, 10


def http_overhead_cpu_ms() -> tuple[float, float]:
    """Return the CPU ms of a counter's step over HTTP, and of the engine alone."""
    sys.path.insert(0, str(TESTS))
    engine = importlib.import_module("counter_env").create(broken=False)
    engine.load("count:1000000", 0, [])
    before = time.process_time()
    for _ in range(COUNTER_STEPS):
        engine.step("add 1", [])
    bare = time.process_time() - before
    with running_service("counter_env", QUIET, COUNTER, 300) as service, httpx.Client(base_url=service.url, timeout=300) as client:
        for warm in (True, False):
            reply = client.post("/reset", json={"task_id": "count:1000000", "max_steps": 1000}).json()
            body = {"session_id": reply["metadata"]["session_id"], "action": "add 1"}
            pids = tree(service.process.pid)
            before = cpu_s(pids)
            for number in range(COUNTER_STEPS // 4 if warm else COUNTER_STEPS):
                if number % 1000 == 999:
                    client.post("/reset", json={"task_id": "count:1000000", "max_steps": 1000, "session_id": body["session_id"]})
                client.post("/step", json=body)
            spent = cpu_s(pids) - before
    return 1000 * spent / COUNTER_STEPS, 1000 * bare / COUNTER_STEPS


@contextlib.contextmanager
def library_server() -> Iterator[RunningService]:
    """Serve the comparison while the block runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(ROOT / "benchmarks" / "library_server.py"), str(port)], text=True)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{url}/docs", timeout=60)
                break
            time.sleep(0.1)
        yield RunningService(url, process)
    finally:
        process.terminate()
        process.wait()


def used_cpu_s(server: RunningService) -> float:
    """Return the CPU seconds of a server and all below it."""
    return cpu_s(tree(server.process.pid))


async def play_together(client: httpx.AsyncClient, sessions: list[str], chosen: Sequence[str], clock: Callable[[], float]) -> float:
    """Play each session's task side by side; return what the steps alone took by the clock (all sessions are reset first)."""
    tasks = [chosen[number % len(chosen)] for number in range(len(sessions))]

    async def reset(number: int) -> None:
        body = {"task_id": tasks[number], "max_steps": 1000} | ({"session_id": sessions[number]} if sessions[number] else {})
        reply = (await client.post("/reset", json=body)).raise_for_status()
        sessions[number] = reply.json()["metadata"]["session_id"]

    async def steps(number: int) -> None:
        for action in path(tasks[number]):
            (await client.post("/step", json={"session_id": sessions[number], "action": action})).raise_for_status()

    await asyncio.gather(*map(reset, range(len(sessions))))
    before = clock()
    await asyncio.gather(*map(steps, range(len(sessions))))
    return clock() - before


def path(task_id: str) -> list[str]:
    """Return the first steps of a gold path: none of them ends the episode."""
    return GOLD[task_id][: min(STEPS, len(GOLD[task_id]) * 3 // 4)]


def steps_of(sessions: int, chosen: Sequence[str] = TASKS) -> int:
    """Return how many steps a round of so many sessions has."""
    return sum(len(path(chosen[number % len(chosen)])) for number in range(sessions))


async def against_library() -> tuple[float, float]:
    """Return the steps per CPU second of the service and of the library's server."""
    spent = [0.0, 0.0]
    with running_service("env_sciworld", ("--max-engines", "4", *QUIET), None, 300) as service, library_server() as library:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(httpx.AsyncClient(base_url=s.url, timeout=600)) for s in (service, library)]
            sessions = [[""] * 4, [""] * 4]
            for counted in (False, True):  # the first time the JVMs compile what they run, at the same cost in both arms
                for tasks in ALL_TASKS:
                    for arm, server in enumerate((service, library)):
                        used = await play_together(clients[arm], sessions[arm], tasks, functools.partial(used_cpu_s, server))
                        spent[arm] += used if counted else 0.0
    steps = sum(steps_of(4, tasks) for tasks in ALL_TASKS)
    return steps / spent[0], steps / spent[1]


async def steps_per_s() -> dict[int, float]:
    """Return steps per second of wall time by the number of sessions."""
    rates = {}
    with running_service("env_sciworld", ("--max-engines", "8", *QUIET), None, 300) as service:
        async with httpx.AsyncClient(base_url=service.url, timeout=900, limits=httpx.Limits(max_connections=None)) as client:
            for number in (16, *SESSIONS):  # the first 16 start all engines and warm them up; their rate is not kept
                sessions = [""] * number
                rates[number] = steps_of(number) / await play_together(client, sessions, TASKS, time.monotonic)
                for session_id in sessions:
                    await client.delete(f"/sessions/{session_id}")
    return rates


def restore_ms() -> float:
    """Return the mean milliseconds of a replay."""
    with (
        running_service("env_sciworld", ("--max-engines", "1", *QUIET), None, 300) as service,
        httpx.Client(base_url=service.url, timeout=300) as client,
    ):
        sessions = []
        for _ in range(2):
            session_id = client.post("/reset", json={"task_id": TASKS[0], "max_steps": 1000}).json()["metadata"]["session_id"]
            for action in GOLD[TASKS[0]][:RESTORED_STEPS]:
                client.post("/step", json={"session_id": session_id, "action": action}).raise_for_status()
            sessions.append(session_id)
        seen = []
        for number in range(4 + RESTORES):  # the first ones warm the JVM up
            client.post("/step", json={"session_id": sessions[number % 2], "action": "look around"}).raise_for_status()
            values = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if "restore_seconds_" in line)
            seen.append((float(values["eto_env_restore_seconds_sum"]), float(values["eto_env_restore_seconds_count"])))
    (sum_before, count_before), (sum_after, count_after) = seen[3], seen[-1]
    return 1000 * (sum_after - sum_before) / (count_after - count_before)


def launch() -> dict[str, float]:
    """Measure everything once, with new processes."""
    over_http, alone = http_overhead_cpu_ms()
    service, library = asyncio.run(against_library())
    rates = asyncio.run(steps_per_s())
    return {
        "http_step_cpu_ms": over_http,
        "bare_counter_cpu_ms": alone,
        "http_overhead_cpu_ms": over_http - alone,
        "sciworld_steps_per_cpu_s": service,
        "library_steps_per_cpu_s": library,
        "steps_per_cpu_s_vs_library_server": service / library,
        "step_cpu_ratio_to_engine": (1000 / service) / (1000 / service - over_http + alone),
        "restore_ms": restore_ms(),
        **{f"steps_per_s_{number}": rate for number, rate in rates.items()},
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="The environment core's own cost.")
    parser.add_argument("--launches", type=int, default=3, help="how often all is measured with new processes (default 3)")
    sciworld_steps = sum(steps_of(4, tasks) for tasks in ALL_TASKS)
    launches = []
    for number in range(parser.parse_args().launches):
        launches.append(launch())
        print(f"launch {number + 1}: " + ", ".join(f"{name} {value:.2f}" for name, value in launches[-1].items()), flush=True)
    figures: dict[str, Any] = {name: statistics.median(found[name] for found in launches) for name in launches[0]}
    intervals = {name: [min(found[name] for found in launches), max(found[name] for found in launches)] for name in launches[0]}
    for name, value in figures.items():
        print(f"{name}: {value:.2f} (lowest {intervals[name][0]:.2f}, highest {intervals[name][1]:.2f}, n = {len(launches)} launches)")
    OUT.parent.mkdir(exist_ok=True)
    result = {
        **figures,
        "intervals": intervals,
        "intervals_are": "lowest and highest launch",
        "n": len(launches),
        "steps": {
            "counter": COUNTER_STEPS,
            "sciworld_and_library": sciworld_steps,
            "restored": RESTORED_STEPS,
            "restores": RESTORES,
        },
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "load_average": os.getloadavg()},
        "at": time.strftime("%FT%TZ", time.gmtime()),
        "versions": {"python": platform.python_version(), **{n: version(n) for n in ("scienceworld", "fastapi", "uvicorn", "orjson")}},
    }
    OUT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
