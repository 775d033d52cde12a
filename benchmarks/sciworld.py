"""What a step of the ScienceWorld service costs, beside the bare engine and beside the library's own step.

    services/env-sciworld/.venv/bin/python benchmarks/sciworld.py [--rounds 10]

CPU time (user and system) per step, of every process that serves the step:
- bare: a JVM with the service's flags, asked for step, score, done and moves through py4j. JVM + the asking process (this one).
- service: POST /step. HTTP server + worker + JVM. The HTTP client, this process, is left out, as it is the caller's.
- library: ScienceWorldEnv.step, which also looks, lists the inventory and enumerates the valid actions. JVM + this process.
The arms play the same gold paths in alternating rounds after a warm-up; loads and resets are not counted. Ratios are of the
rounds' totals, intervals are 95 % bootstrap intervals over rounds. Writes benchmarks/out/sciworld.json.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
from env_core.process_tree import cpu_s, tree
from env_core.running import RunningService, running_service
from env_sciworld.jvm import FLAGS, Jvm, find_java
from env_sciworld.service import SciworldSettings
from env_sciworld.tables import split_task_id, task_types
from scienceworld import ScienceWorldEnv  # type: ignore[import-untyped]

ROOT = Path(__file__).parent.parent
GOLD = ROOT / "services" / "env-sciworld" / "tests" / "gold.json"
OUT = ROOT / "benchmarks" / "out" / "sciworld.json"
TASKS = ("task-1-boil:0", "task-3-find-living-thing:0", "task-10-use-thermometer:2", "task-4-grow-plant:0")
WARM_UP_ROUNDS = 6  # C2 goes on compiling for some 500 steps
BOOTSTRAP_SAMPLES = 10_000

Episode = Callable[[str, list[str]], float]


def bare_arm(jvm: Jvm) -> Episode:
    """Return a function that plays an episode on the bare engine and gives the CPU seconds of its steps."""
    simulator = jvm.simulator
    pids = [os.getpid(), jvm.process.pid]

    def episode(task_id: str, actions: list[str]) -> float:
        name, variation = split_task_id(task_id)
        simulator.load(task_types()[name].simulator_name, variation, "easy", False)
        simulator.step("look around")
        before = cpu_s(pids)
        for action in actions:
            simulator.step(action)
            simulator.getScore()
            simulator.getCompleted()
            simulator.getNumMoves()
        return cpu_s(pids) - before

    return episode


def library_arm(env: Any) -> Episode:
    """As bare_arm, with the library's own step."""
    pids = [os.getpid(), env._gateway.java_process.pid]

    def episode(task_id: str, actions: list[str]) -> float:
        name, variation = split_task_id(task_id)
        env.load(task_types()[name].simulator_name, variation, "easy")
        env.reset()
        before = cpu_s(pids)
        for action in actions:
            env.step(action)
        return cpu_s(pids) - before

    return episode


def service_arm(service: RunningService, client: httpx.Client) -> Episode:
    """As bare_arm, through HTTP."""
    pids = tree(service.process.pid)

    def episode(task_id: str, actions: list[str]) -> float:
        reply = client.post("/reset", json={"task_id": task_id, "max_steps": 1000}).raise_for_status().json()
        session = reply["metadata"]["session_id"]
        before = cpu_s(pids)
        for action in actions:
            client.post("/step", json={"session_id": session, "action": action}).raise_for_status()
        spent = cpu_s(pids) - before
        client.delete(f"/sessions/{session}").raise_for_status()
        return spent

    return episode


def interval(numerators: list[float], denominators: list[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of sum(numerators) / sum(denominators), drawing rounds."""
    draw = random.Random(0)
    rounds = range(len(numerators))
    ratios = []
    for _ in range(BOOTSTRAP_SAMPLES):
        picked = draw.choices(rounds, k=len(rounds))
        ratios.append(sum(numerators[i] for i in picked) / sum(denominators[i] for i in picked))
    cuts = statistics.quantiles(ratios, n=40)
    return cuts[0], cuts[-1]


def cpu_model() -> str:
    """Return the processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def measure(arms: dict[str, Episode], gold: dict[str, list[str]], rounds: int) -> dict[str, list[float]]:
    """Return, per arm, the CPU milliseconds per step of each round."""
    steps = sum(len(actions) for actions in gold.values())
    found: dict[str, list[float]] = {name: [] for name in arms}
    order = list(arms)
    for number in range(WARM_UP_ROUNDS + rounds):
        for name in order:
            spent = sum(arms[name](task_id, actions) for task_id, actions in gold.items())
            if number >= WARM_UP_ROUNDS:
                found[name].append(1000 * spent / steps)
        order = order[1:] + order[:1]
        print(f"round {number + 1} of {WARM_UP_ROUNDS + rounds}", end="\r", flush=True)
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="CPU time of a step: bare engine, service, library.")
    parser.add_argument("--rounds", type=int, default=10, help="rounds counted, each arm plays all episodes in each (default 10)")
    rounds: int = parser.parse_args().rounds
    known: dict[str, list[str]] = json.loads(GOLD.read_text("utf-8"))
    started = time.monotonic()
    jvm = Jvm(SciworldSettings().heap_mb)
    gold = {task_id: before_the_end(jvm.simulator, task_id, known[task_id]) for task_id in TASKS}
    library = ScienceWorldEnv("", envStepLimit=1000)
    with (
        running_service("env_sciworld", ["--max-sessions", "1", "--engines-warm", "1", "--log-level", "warning"]) as service,
        httpx.Client(base_url=service.url, timeout=120) as client,
    ):
        arms = {"bare": bare_arm(jvm), "service": service_arm(service, client), "library": library_arm(library)}
        found = measure(arms, gold, rounds)
    jvm.close()
    library.close()
    report(found, rounds, sum(map(len, gold.values())), time.monotonic() - started)


def before_the_end(simulator: Any, task_id: str, actions: list[str]) -> list[str]:
    """Return the actions before the one that ends the episode: some gold paths go on after it, the service does not."""
    name, variation = split_task_id(task_id)
    simulator.load(task_types()[name].simulator_name, variation, "easy", False)
    simulator.step("look around")
    for number, action in enumerate(actions):
        simulator.step(action)
        if simulator.getCompleted():
            return actions[:number]
    return actions


def report(found: dict[str, list[float]], rounds: int, steps: int, elapsed_s: float) -> None:
    """Print the table and write the figures."""
    bare, service, library = found["bare"], found["service"], found["library"]
    print(f"{'arm':10} {'CPU ms/step':>12}   95 % interval   (n = {rounds} rounds of {steps} steps)")
    for name, values in found.items():
        low, high = interval(values, [1.0] * rounds)
        print(f"{name:10} {statistics.mean(values):12.2f}   {low:.2f} - {high:.2f}")
    figures = {
        "step_cpu_vs_bare": sum(service) / sum(bare),
        "step_cheaper_than_library": sum(library) / sum(service),
    }
    intervals = {"step_cpu_vs_bare": interval(service, bare), "step_cheaper_than_library": interval(library, service)}
    for name, value in figures.items():
        print(f"{name}: {value:.2f} ({intervals[name][0]:.2f} - {intervals[name][1]:.2f})")
    java = subprocess.run([find_java(), "-version"], capture_output=True, text=True, check=True).stderr.splitlines()[0]
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(
        json.dumps(
            {
                **figures,
                "intervals": intervals,
                "n": rounds,
                "steps_per_round": steps,
                "cpu_ms_per_step": found,
                "counted": "user + system; bare and library: JVM + caller; service: HTTP server + worker + JVM, without the client",
                "jvm_flags": [f"-Xmx{SciworldSettings().heap_mb}m", *FLAGS],
                "elapsed_s": round(elapsed_s, 1),
                "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "load_average": os.getloadavg()[0]},
                "versions": {
                    "python": platform.python_version(),
                    "java": java,
                    **{name: version(name) for name in ("scienceworld", "py4j", "fastapi", "uvicorn", "uvloop", "pydantic")},
                },
            },
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
