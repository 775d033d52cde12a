#!services/env-sciworld/.venv/bin/python
"""What a step of the ScienceWorld service costs, beside the bare engine and beside the library's own step.

    make bench ONLY=sciworld, or benchmarks/sciworld.py [--launches 5] [--rounds 4]

CPU time (user and system) per step, of every process that serves the step:
- bare: a JVM with the service's flags, asked for step, score, done and moves through py4j. JVM + the asking process (this one).
- service: POST /step. HTTP server + worker + JVM. The HTTP client, this process, is left out, as it is the caller's.
- library: ScienceWorldEnv.step, which also looks, lists the inventory and enumerates the valid actions. JVM + this process.
The arms play the same gold paths in alternating rounds after a warm-up; loads and resets are not counted.
All processes are started anew for each launch, and a launch counts once: what the JIT compiler makes of a JVM's first minute
stays with that JVM (one library JVM was seen at 116 ms a step for a whole run, others at 45), so rounds of one launch are not
independent. The figures are medians over launches with the lowest and highest launch. Writes benchmarks/out/sciworld.json.
"""

import argparse
import json
import os
import platform
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


def cpu_model() -> str:
    """Return the processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def measure(arms: dict[str, Episode], gold: dict[str, list[str]], rounds: int) -> dict[str, float]:
    """Return each arm's CPU milliseconds per step in one launch."""
    steps = sum(len(actions) for actions in gold.values())
    spent = dict.fromkeys(arms, 0.0)
    order = list(arms)
    for number in range(WARM_UP_ROUNDS + rounds):
        for name in order:
            used = sum(arms[name](task_id, actions) for task_id, actions in gold.items())
            if number >= WARM_UP_ROUNDS:
                spent[name] += used
        order = order[1:] + order[:1]
    return {name: 1000 * seconds / (steps * rounds) for name, seconds in spent.items()}


def launch(known: dict[str, list[str]], rounds: int) -> tuple[dict[str, float], int]:
    """Start every arm anew and measure; also return the number of steps in a round."""
    jvm = Jvm(SciworldSettings().heap_mb)
    gold = {task_id: before_the_end(jvm.simulator, task_id, known[task_id]) for task_id in TASKS}
    library = ScienceWorldEnv("", envStepLimit=1000)
    options = ["--max-engines", "1", "--engines-warm", "1", "--log-level", "warning"]
    try:
        with running_service("env_sciworld", options) as service, httpx.Client(base_url=service.url, timeout=120) as client:
            arms = {"bare": bare_arm(jvm), "service": service_arm(service, client), "library": library_arm(library)}
            return measure(arms, gold, rounds), sum(map(len, gold.values()))
    finally:
        jvm.close()
        library.close()


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="CPU time of a step: bare engine, service, library.")
    parser.add_argument("--launches", type=int, default=5, help="how often all processes are started anew (default 5)")
    parser.add_argument("--rounds", type=int, default=4, help="rounds counted in a launch, after the warm-up (default 4)")
    options = parser.parse_args()
    known: dict[str, list[str]] = json.loads(GOLD.read_text("utf-8"))
    started = time.monotonic()
    launches = []
    print(f"{'launch':>6} {'bare':>8} {'service':>8} {'library':>8}   CPU ms per step")
    for number in range(options.launches):
        found, steps = launch(known, options.rounds)
        launches.append(found)
        print(f"{number + 1:6} " + " ".join(f"{found[name]:8.2f}" for name in ("bare", "service", "library")), flush=True)
    report(launches, steps * options.rounds, time.monotonic() - started)


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


def report(launches: list[dict[str, float]], steps: int, elapsed_s: float) -> None:
    """Print the figures and write them."""
    ratios = {
        "step_cpu_vs_bare": [found["service"] / found["bare"] for found in launches],
        "step_cheaper_than_library": [found["library"] / found["service"] for found in launches],
    }
    figures = {name: statistics.median(values) for name, values in ratios.items()}
    intervals = {name: (min(values), max(values)) for name, values in ratios.items()}
    for name, value in figures.items():
        low, high = intervals[name]
        print(f"{name}: {value:.2f} (lowest {low:.2f}, highest {high:.2f}, n = {len(launches)} launches of {steps} steps)")
    java = subprocess.run([find_java(), "-version"], capture_output=True, text=True, check=True).stderr.splitlines()[0]
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(
        json.dumps(
            {
                **figures,
                "intervals": intervals,
                "intervals_are": "lowest and highest launch",
                "n": len(launches),
                "steps_per_launch": steps,
                "cpu_ms_per_step": launches,
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
