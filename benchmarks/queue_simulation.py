#!.venv/bin/python
"""How many episodes a second a cluster of 8, 64 or 512 GPUs plays: a simulation of the rollout's queue, checked against one real rollout.

    make bench ONLY=queue_simulation, or benchmarks/queue_simulation.py [--seeds 3] [--without-check]

The simulation is queue_model.py, where its inputs stand, most of them assumptions. Each size twice: with an engine for each session of a
node, and with one for each core, where sessions take turns on them and are replayed.
The check: a rollout of real ScienceWorld episodes with a policy that takes a known time, 8 at a time on 2 engines, whose wall time is
predicted from episodes played one at a time. Writes benchmarks/out/queue_simulation.json.
"""

import argparse
import asyncio
import json
import os
import pickle
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from queue_model import Inputs, simulate

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "out" / "queue_simulation.json"
GOLD = [len(path) for path in json.loads((ROOT / "services" / "env-sciworld" / "tests" / "gold.json").read_text("utf-8")).values()]
SIZES = (8, 64, 512)
#: Above so many GPUs one seed is enough: so many episodes differ by less than the last digit.
LARGE = 64
#: Waves of episodes: the last one has the tail, so fewer waves show a worse share.
WAVES = 3


def check(episodes: int = 32, at_once: int = 8, engines: int = 2, answer_s: float = 0.2) -> dict[str, Any]:
    """The real rollout and its prediction; also what an episode costs the orchestrator."""
    sys.path.insert(0, str(ROOT / "tests"))
    from scripted_policy import ScriptedPolicy

    from orchestrator import process

    words = ["look around", "open door to hallway", "go to hallway", "inventory"]

    def scripted(messages: list[dict[str, str]], number: int) -> str:
        time.sleep(answer_s)
        return f"Thought: On.\nAction: {words[len(messages) // 2 % len(words)]}"

    with tempfile.TemporaryDirectory(prefix="eto-queue-") as folder:
        os.environ["ETO_STATE"] = str(Path(folder) / "state")
        try:
            with ScriptedPolicy(scripted) as policy:
                real = partial(_rollout, Path(folder), policy.url, engines)
                one_s, ones = real("one", episodes // 4, 1)
                many_s, many = real("many", episodes, at_once)
                driver_s = _driver_s(Path(folder), engines, ones[0])
        finally:
            for running in process.find_all():
                process.stop(running)
    step_s = statistics.mean(s.env_s for e in ones for s in e.steps)
    asked_s = statistics.mean(s.policy_s for e in ones for s in e.steps)
    spent = sum(s.env_s + s.policy_s for e in ones for s in e.steps)
    reset_s = (one_s - spent) / len(ones)
    inputs = Inputs(sessions=at_once, engines=engines, cores=os.cpu_count() or 1, step_s=step_s, reset_s=reset_s, driver_s=driver_s)
    told = simulate([len(e.steps) for e in many], 1, inputs, random.Random(0), lambda busy: asked_s)
    return {
        "episodes": episodes,
        "at_once": at_once,
        "engines": engines,
        "turns": sum(len(e.steps) for e in many),
        "measured_s": round(many_s, 2),
        "predicted_s": round(told.makespan_s, 2),
        "predicted_to_measured": round(told.makespan_s / many_s, 3),
        "from_one_at_a_time": {"step_s": round(step_s, 4), "answer_s": round(asked_s, 4), "reset_s": round(reset_s, 4), "n": len(ones)},
        "driver_s_per_episode": round(driver_s, 5),
        "bytes_per_episode": len(ones[0].model_dump_json(by_alias=True)),
    }


def _with_service(engines: int, work: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    """What `work` returns of a client of a service of its own."""
    from orchestrator.config import RolloutSection
    from orchestrator.config_services import EnvSection
    from orchestrator.placement import EnvPlacement
    from tiny_run import free_port

    async def main() -> Any:
        place = EnvPlacement(EnvSection(port=free_port(), max_engines=engines), "bench", RolloutSection())
        await place.start()
        try:
            async with place.client as env:
                return await work(env)
        finally:
            place.stop()

    return asyncio.run(main())


def _rollout(folder: Path, policy_url: str, engines: int, name: str, episodes: int, at_once: int) -> tuple[float, list[Any]]:
    """Seconds and episodes of a real rollout, its engines warm."""
    from orchestrator.episode import Assignment, Player
    from orchestrator.policy_client import PolicyClient, Sampling
    from orchestrator.prompts import load_prompt

    from orchestrator import rollout

    async def work(env: Any) -> tuple[float, list[Any]]:
        async with PolicyClient([policy_url], "m") as client:
            player = Player(client, "agent", None, Sampling(), load_prompt("sciworld"), max_steps=15)
            tasks = await env.tasks("eto-unseen")
            todo = [Assignment(tasks[i * len(tasks) // episodes]) for i in range(episodes)]
            warm = [Assignment(tasks[n], sample=9) for n in range(engines * 2)]
            await rollout.run(warm, env, player, folder / f"{name}-warm.jsonl", concurrency=engines, run_id="warm")
            started = time.perf_counter()
            played = await rollout.run(todo, env, player, folder / f"{name}.jsonl", concurrency=at_once, run_id=name)
            return time.perf_counter() - started, played.episodes

    told: tuple[float, list[Any]] = _with_service(engines, work)
    return told


def _driver_s(folder: Path, engines: int, episode: Any, times: int = 2000, at_once: int = 512) -> float:
    """Seconds of the orchestrator for an episode that a shard sends: unpacked, written, counted. Ray's own part in it is not in them."""
    from orchestrator.env_client import Task
    from orchestrator.episode import Assignment

    from orchestrator import rollout

    packed = pickle.dumps(episode)

    async def elsewhere(what: Assignment) -> Any:
        await asyncio.sleep(0)
        return pickle.loads(packed).model_copy(update={"sample": what.sample})  # noqa: S301 - packed above

    async def work(env: Any) -> float:
        task = Task(task_id=episode.task_id, task_type=episode.task_type, max_steps=1)
        todo = [Assignment(task, sample=n) for n in range(times)]
        player: Any = None  # nobody plays here
        started = time.perf_counter()
        await rollout.run(todo, env, player, folder / "driver.jsonl", concurrency=at_once, run_id="driver", elsewhere=elsewhere)
        return (time.perf_counter() - started) / times

    told: float = _with_service(engines, work)
    return told


def spread(values: list[float]) -> list[float]:
    """Mean, lowest and highest."""
    return [round(f(values), 4) for f in (statistics.mean, min, max)]


def main() -> None:
    """Check, simulate, print and write."""
    parser = argparse.ArgumentParser(description="Episodes a second by number of GPUs: a simulation, checked against a real rollout.")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions of each size up to 64 GPUs (default 3)")
    parser.add_argument("--without-check", action="store_true", help="simulate only: no service is started")
    options = parser.parse_args()
    checked = None if options.without_check else check()
    if checked:
        print(f"check: {json.dumps(checked)}", flush=True)
    inputs = Inputs() if checked is None else Inputs(driver_s=checked["driver_s_per_episode"])
    rows = []
    print(f"{'GPUs':>5} {'engines':>8} {'episodes at once':>17} {'episodes/s':>24} {'turns/s':>9} {'tail s':>7} {'cores':>8} {'driver':>7}")
    for gpus, engines in [(gpus, engines) for engines in (inputs.engines, inputs.cores) for gpus in SIZES]:
        told = []
        for seed in range(options.seeds if gpus <= LARGE else 1):
            rng = random.Random(seed)
            turns = rng.choices(GOLD, k=gpus * inputs.sessions * WAVES)
            told.append(simulate(turns, gpus, replace(inputs, engines=engines), rng))
        row = {"gpus": gpus, "engines_of_a_node": engines, **{name: spread([getattr(t, name) for t in told]) for name in asdict(told[0])}}
        rows.append(row)
        e, low, high = row["episodes_per_s"]
        columns = f"{e:9.1f} [{low:.1f}, {high:.1f}]"
        print(
            f"{gpus:5} {engines:8} {gpus * inputs.sessions:17} {columns:>24} {row['turns_per_s'][0]:9.0f} {row['tail_s'][0]:7.1f} "
            f"{row['cores_busy'][0]:7.1%} {row['replays_per_turn'][0]:8.2f} {row['driver_busy'][0]:7.1%}",
            flush=True,
        )
    OUT.parent.mkdir(exist_ok=True)
    machine = {"cores": os.cpu_count(), "load_average": os.getloadavg()}
    about = {
        "mean_lowest_highest_of": f"{options.seeds} seeds, above {LARGE} GPUs one",
        "waves": WAVES,
        "turns": f"ScienceWorld's {len(GOLD)} gold paths in tests",
    }
    OUT.write_text(json.dumps({"inputs": asdict(inputs), **about, "check": checked, "rows": rows, "machine": machine}, indent=1) + "\n")


if __name__ == "__main__":
    main()
