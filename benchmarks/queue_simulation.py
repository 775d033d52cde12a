#!.venv/bin/python
"""How many episodes a second a cluster of 8, 64 or 512 GPUs plays: a simulation of the rollout's queue, checked against one real rollout.

    make bench ONLY=queue_simulation, or benchmarks/queue_simulation.py [--seeds 5] [--without-check]

What is simulated: `sessions` episodes at a time on each policy server; a turn is an answer of the server, whose pace falls with the sequences
it decodes at once, then a step on one of the node's environment engines, first come first served; an ended episode passes through the
orchestrator, one at a time. A server's pace within a turn is that of the turn's begin. Not simulated: faults, network delays, prompts that miss
the prefix cache. ASSUMED marks what no measurement of ours stands behind; the rest names its source.
The check: a rollout of real ScienceWorld episodes with a policy that takes a known time, at 8 episodes at a time on 2 engines, whose wall time is
predicted from its own episodes played one at a time. Writes benchmarks/out/queue_simulation.json.
"""

import argparse
import asyncio
import heapq
import json
import os
import pickle
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "out" / "queue_simulation.json"
GOLD = [len(path) for path in json.loads((ROOT / "services" / "env-sciworld" / "tests" / "gold.json").read_text("utf-8")).values()]
SIZES = (8, 64, 512)
GPUS_A_NODE = 8
#: Waves of episodes: the last one has the tail, so fewer waves show a worse share.
WAVES = 3


@dataclass(frozen=True)
class Inputs:
    """Seconds. The defaults are a 7-8 B model, one server a GPU, on nodes of eight H100-class GPUs."""

    sessions: int = 64  # of a server; ASSUMED to fit its key-value cache
    token_s: float = 0.008  # ASSUMED: one sequence's token, the weights read once (16 GB at 2 TB/s)
    token_s_per_sequence: float = 0.00006  # ASSUMED: what each further sequence of the batch adds
    first_token_s: float = 0.03  # ASSUMED: prefill of a turn's new tokens, prefix cached
    tokens: float = 40.0  # ASSUMED: of a turn, exponentially distributed about this mean, at least 8
    engines: int = 64  # of a node, one a core; ASSUMED
    step_s: float = 0.00953  # measured: CPU of a ScienceWorld step, docs/performance.md
    reset_s: float = 0.3  # ASSUMED; the check measures this machine's
    driver_s: float = 0.002  # the check measures it


@dataclass
class Told:
    """What a simulated rollout took; shares are of the time until nine tenths of the episodes had ended."""

    episodes_per_s: float
    turns_per_s: float
    makespan_s: float
    tail_s: float  # from nine tenths of the episodes to the last
    servers_busy: float
    engines_busy: float
    driver_busy: float


def simulate(turns: list[int], servers: int, inputs: Inputs, rng: random.Random, answer_s: Callable[[int], float] | None = None) -> Told:
    """Play episodes of so many `turns` each; `answer_s(sequences at once)` in the place of the assumed pace."""

    def assumed(busy: int) -> float:
        tokens = max(8.0, rng.expovariate(1 / inputs.tokens))
        return inputs.first_token_s + tokens * (inputs.token_s + busy * inputs.token_s_per_sequence)

    answer = answer_s or assumed
    nodes = max(1, servers // GPUS_A_NODE)
    free = [[0.0] * inputs.engines for _ in range(nodes)]
    decoding = [0] * servers
    queue = iter(turns)
    events: list[tuple[float, int, int, int, bool]] = []  # when, tie-breaker, server, turns left, whether an answer has come
    count = 0
    driver_free = driver_used = engine_used = decode_used = 0.0
    ends: list[float] = []

    def on_engine(now: float, server: int, seconds: float) -> float:
        nonlocal engine_used
        pool = free[server * nodes // servers]
        begin = max(now, heapq.heappop(pool))
        heapq.heappush(pool, begin + seconds)
        engine_used += seconds
        return begin + seconds

    def push(when: float, server: int, left: int, answered: bool) -> None:
        nonlocal count
        count += 1
        heapq.heappush(events, (when, count, server, left, answered))

    def begin(now: float, server: int) -> None:
        left = next(queue, None)
        if left is not None:
            push(on_engine(now, server, inputs.reset_s), server, left, False)

    for _ in range(inputs.sessions):
        for server in range(servers):
            begin(0.0, server)
    while events:
        now, _, server, left, answered = heapq.heappop(events)
        if not answered:  # the observation is there: ask the model
            decoding[server] += 1
            took = answer(decoding[server])
            decode_used += took / inputs.sessions
            push(now + took, server, left, True)
            continue
        decoding[server] -= 1
        done = on_engine(now, server, inputs.step_s)
        if left > 1:
            push(done, server, left - 1, False)
            continue
        driver_free = max(done, driver_free) + inputs.driver_s
        driver_used += inputs.driver_s
        ends.append(driver_free)
        begin(driver_free, server)
    ends.sort()
    most = ends[len(ends) * 9 // 10 - 1]
    made = 0.9 * len(ends) / most
    last = ends[-1]
    return Told(
        episodes_per_s=made,
        turns_per_s=made * statistics.mean(turns),
        makespan_s=last,
        tail_s=last - most,
        servers_busy=decode_used / servers / last,
        engines_busy=engine_used / (nodes * inputs.engines) / last,
        driver_busy=driver_used / last,
    )


def check(episodes: int = 32, at_once: int = 8, engines: int = 2, answer_s: float = 0.2) -> dict[str, Any]:
    """The real rollout and its prediction; also what an episode costs the orchestrator."""
    sys.path.insert(0, str(ROOT / "tests"))
    from orchestrator.records import Episode
    from scripted_policy import ScriptedPolicy

    from orchestrator import jsonl, process

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
        finally:
            for running in process.find_all():
                process.stop(running)
        driver_s = _driver_s(Path(folder) / "driver.jsonl", ones[0], jsonl.JsonLinesWriter, Episode)
    step_s = statistics.mean(s.env_s for e in ones for s in e.steps)
    asked_s = statistics.mean(s.policy_s for e in ones for s in e.steps)
    spent = sum(s.env_s + s.policy_s for e in ones for s in e.steps)
    reset_s = (one_s - spent) / len(ones)
    inputs = Inputs(sessions=at_once, engines=engines, step_s=step_s, reset_s=reset_s, driver_s=driver_s)
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


def _rollout(folder: Path, policy_url: str, engines: int, name: str, episodes: int, at_once: int) -> tuple[float, list[Any]]:
    """Seconds and episodes of a real rollout, its service warm."""
    from orchestrator.config import EnvSection, RolloutSection
    from orchestrator.episode import Assignment, Player
    from orchestrator.placement import EnvPlacement
    from orchestrator.policy_client import PolicyClient, Sampling
    from orchestrator.prompts import load_prompt
    from tiny_run import free_port

    from orchestrator import rollout

    async def main() -> tuple[float, list[Any]]:
        place = EnvPlacement(EnvSection(port=free_port(), max_engines=engines), "bench", RolloutSection())
        await place.start()
        async with place.client as env, PolicyClient(policy_url, "m") as client:
            player = Player(client, "agent", None, Sampling(), load_prompt("sciworld"), max_steps=15)
            tasks = await env.tasks("eto-unseen")
            todo = [Assignment(tasks[i * len(tasks) // episodes]) for i in range(episodes)]
            warm = [Assignment(tasks[1], sample=9), Assignment(tasks[2], sample=9)]
            await rollout.run(warm, env, player, folder / f"{name}-warm.jsonl", concurrency=2, run_id="warm")
            started = time.perf_counter()
            played = await rollout.run(todo, env, player, folder / f"{name}.jsonl", concurrency=at_once, run_id=name)
            return time.perf_counter() - started, played.episodes

    return asyncio.run(main())


def _driver_s(file: Path, episode: Any, writer: Any, model: Any, times: int = 200) -> float:
    """Seconds of the orchestrator for an episode that a shard sends: unpacked, written and flushed to disk."""
    packed = pickle.dumps(episode)
    with writer(file) as out:
        started = time.perf_counter()
        for _ in range(times):
            out.append(model.model_validate(pickle.loads(packed)))  # noqa: S301 - packed above
        return (time.perf_counter() - started) / times


def spread(values: list[float]) -> list[float]:
    """Mean, lowest and highest."""
    return [round(f(values), 4) for f in (statistics.mean, min, max)]


def main() -> None:
    """Check, simulate, print and write."""
    parser = argparse.ArgumentParser(description="Episodes a second by number of GPUs: a simulation, checked against a real rollout.")
    parser.add_argument("--seeds", type=int, default=5, help="repetitions of each size (default 5)")
    parser.add_argument("--without-check", action="store_true", help="simulate only: no service is started")
    options = parser.parse_args()
    checked = None if options.without_check else check()
    if checked:
        print(f"check: {json.dumps(checked)}", flush=True)
    inputs = Inputs() if checked is None else Inputs(driver_s=checked["driver_s_per_episode"])
    rows = []
    print(f"{'GPUs':>5} {'episodes at once':>17} {'episodes/s':>24} {'turns/s':>9} {'tail s':>7} {'engines':>8} {'driver':>7}")
    for gpus in SIZES:
        told = []
        for seed in range(options.seeds):
            rng = random.Random(seed)
            told.append(simulate(rng.choices(GOLD, k=gpus * inputs.sessions * WAVES), gpus, inputs, rng))
        row = {"gpus": gpus, **{name: spread([getattr(t, name) for t in told]) for name in asdict(told[0])}}
        rows.append(row)
        e, low, high = row["episodes_per_s"]
        columns = f"{e:9.1f} [{low:.1f}, {high:.1f}]"
        print(
            f"{gpus:5} {gpus * inputs.sessions:17} {columns:>24} {row['turns_per_s'][0]:9.0f} {row['tail_s'][0]:7.1f} "
            f"{row['engines_busy'][0]:8.1%} {row['driver_busy'][0]:7.1%}",
            flush=True,
        )
    OUT.parent.mkdir(exist_ok=True)
    machine = {"cores": os.cpu_count(), "load_average": os.getloadavg()}
    about = {"mean_lowest_highest_of": f"{options.seeds} seeds", "waves": WAVES, "turns": f"ScienceWorld's {len(GOLD)} gold paths in tests"}
    OUT.write_text(json.dumps({"inputs": asdict(inputs), **about, "check": checked, "rows": rows, "machine": machine}, indent=1) + "\n")


if __name__ == "__main__":
    main()
