#!services/env-alfworld/.venv/bin/python
"""What ALFWorld costs as a service, beside stock alfworld and textworld on the same games in the same run.

    services/env-alfworld/.venv/bin/python benchmarks/alfworld.py [--games 6] [--rounds 3] [--steps 20]

Real games with ETO_DATA, else generated ones (the output says which). CPU time, user and system:
- stock: AlfredInfos(AlfredDemangler(PddlEnv)) in this process, as alfworld's AlfredTWEnv makes it: load, reset, step.
- service: POST /reset and POST /step with the valid actions. HTTP server + worker; the HTTP client, this process, is left out.
- cold: the first reset of a game that no store holds, also through the service.
The arms play the same random admissible commands in alternating rounds. A game's figure is its mean over the rounds; the figures
printed are ratios of sums over games, with the lowest and the highest game. Writes benchmarks/out/alfworld.json.
"""

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
from env_alfworld.settings import AlfworldSettings
from env_alfworld.sources import Source, listed
from env_alfworld.stock import stock_environment
from env_alfworld.store import GameFile
from env_core.process_tree import cpu_s, tree
from env_core.running import running_service

OUT = Path(__file__).parent / "out" / "alfworld.json"
SEED = 1
ARMS = ("stock", "service")
Cost = dict[str, float]  # CPU ms: begin (load and reset), step


def stock_arm(stock: Any, path: str, steps: int) -> tuple[Cost, list[str]]:
    """Play random admissible commands on stock textworld; return what it cost and the commands."""
    rng = random.Random(SEED)
    before = time.process_time()
    stock.load(path)
    state = stock.reset()
    begun = time.process_time()
    commands = []
    for _ in range(steps):
        commands.append(rng.choice(state.admissible_commands))
        state, _, _ = stock.step(commands[-1])
    return {"begin": 1000 * (begun - before), "step": 1000 * (time.process_time() - begun) / steps}, commands


def service_arm(client: httpx.Client, pids: list[int], task_id: str, commands: Sequence[str]) -> Cost:
    """Play the same commands through HTTP, with the list of valid actions in each reply."""
    include = {"include": ["valid_actions"]}
    before = cpu_s(pids)
    reply = client.post("/reset", json={"task_id": task_id, "max_steps": 1000, **include}).raise_for_status().json()
    begun = cpu_s(pids)
    session = {"session_id": reply["metadata"]["session_id"]}
    taken = 0
    for command in commands:
        reply = client.post("/step", json={**session, "action": command, **include}).raise_for_status().json()
        taken += 1
        if reply["done"]:
            break
    cost = {"begin": 1000 * (begun - before), "step": 1000 * (cpu_s(pids) - begun) / taken}
    client.delete(f"/sessions/{session['session_id']}").raise_for_status()
    return cost


def measure(source: Source, games: list[GameFile], rounds: int, steps: int) -> tuple[dict[str, dict[str, Cost]], dict[str, float]]:
    """Return each game's mean cost by arm, and what its first reset cost."""
    stock = stock_environment()
    stock.load(str(source.root / games[0].path))  # the imports and the first parse are not counted
    stock.reset()
    spent: dict[str, dict[str, list[Cost]]] = {game.task_id: {arm: [] for arm in ARMS} for game in games}
    cold = {}
    with tempfile.TemporaryDirectory() as cache:
        variables = {"ETO_ALFWORLD_CACHE": cache, "ETO_ALFWORLD_GAMES_AHEAD": "0"}
        options = ["--max-engines", "1", "--log-level", "warning"]
        with running_service("env_alfworld", options, variables, 300) as service, httpx.Client(base_url=service.url, timeout=300) as client:
            pids = tree(service.process.pid)
            others = [g.task_id for g in source.games if g.split == games[0].split and g.reason is None and g not in games]
            service_arm(client, pids, others[0], ["look"])  # the worker's imports
            for game in games:
                cold[game.task_id] = service_arm(client, pids, game.task_id, ["look"])["begin"]
            for number in range(rounds):
                for game in games:
                    cost, commands = stock_arm(stock, str(source.root / game.path), steps)
                    spent[game.task_id]["stock"].append(cost)
                    # Clocks tick in 10 ms: a dozen episodes make one figure.
                    several = [service_arm(client, pids, game.task_id, commands) for _ in range(12)]
                    spent[game.task_id]["service"].append(_mean(several))
                print(f"round {number + 1} of {rounds}", flush=True)
    return {task: {arm: _mean(costs) for arm, costs in arms.items()} for task, arms in spent.items()}, cold


def _mean(costs: list[Cost]) -> Cost:
    return {key: sum(cost[key] for cost in costs) / len(costs) for key in costs[0]}


def report(
    source: Source, costs: dict[str, dict[str, Cost]], cold: dict[str, float], options: argparse.Namespace, elapsed_s: float
) -> None:
    """Print the figures and write them."""
    print(f"{'CPU ms':48} {'stock begin':>12} {'service':>8} {'cold':>8} {'stock step':>11} {'service':>8}")
    for task, arms in costs.items():
        stock, service = arms["stock"], arms["service"]
        print(
            f"{task[:48]:48} {stock['begin']:12.0f} {service['begin']:8.1f} {cold[task]:8.0f} {stock['step']:11.1f} {service['step']:8.2f}"
        )
    figures, intervals = {}, {}
    for name, key in (("step_cheaper_than_stock", "step"), ("load_cheaper_than_stock", "begin")):
        ratios = [arms["stock"][key] / max(arms["service"][key], 0.01) for arms in costs.values()]
        sums = [sum(arms[arm][key] for arms in costs.values()) for arm in ARMS]
        figures[name], intervals[name] = sums[0] / sums[1], (min(ratios), max(ratios))
    figures["cold_load_cheaper_than_stock"] = sum(arms["stock"]["begin"] for arms in costs.values()) / sum(cold.values())
    for name, value in figures.items():
        low, high = intervals.get(name, (value, value))
        print(f"{name}: {value:.1f} (lowest game {low:.1f}, highest {high:.1f}, n = {len(costs)} games x {options.rounds} rounds)")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(
        json.dumps(
            {
                **figures,
                "intervals": intervals,
                "intervals_are": "lowest and highest game",
                "n": len(costs),
                "rounds": options.rounds,
                "steps": options.steps,
                "data": source.label,
                "cpu_ms": costs,
                "cold_begin_cpu_ms": cold,
                "counted": "user + system; stock: this process; service: HTTP server + worker, without the client",
                "elapsed_s": round(elapsed_s, 1),
                "machine": {"cores": os.cpu_count(), "load_average": os.getloadavg()[0]},
                "versions": {
                    "python": platform.python_version(),
                    **{name: version(name) for name in ("alfworld", "textworld", "fast-downward-textworld", "fastapi", "uvicorn")},
                },
            },
            indent=1,
        )
        + "\n"
    )


def main() -> None:
    """Measure, print and write."""
    sys.path.remove(str(Path(__file__).resolve().parent))  # this file would be taken for the package alfworld
    parser = argparse.ArgumentParser(description="CPU time of ALFWorld's load and step: service and stock textworld.")
    parser.add_argument("--games", type=int, default=6, help="games, each of another task type as far as they go (default 6)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--steps", type=int, default=20, help="steps of an episode (default 20)")
    options = parser.parse_args()
    started = time.monotonic()
    source = listed(AlfworldSettings())
    games = [game for game in source.games if game.split == "valid_seen" and game.reason is None]
    random.Random(SEED).shuffle(games)
    by_type: dict[str, list[GameFile]] = {}
    for game in games:
        by_type.setdefault(game.task_type, []).append(game)
    turns = [kind[n] for n in range(len(games)) for kind in by_type.values() if n < len(kind)]
    report(source, *measure(source, turns[: options.games], options.rounds, options.steps), options, time.monotonic() - started)


if __name__ == "__main__":
    main()
