#!.venv/bin/python
"""Episodes an hour of `eto rollout` against a serial loop with one request in flight (the reference's way), on the same server and tasks.

    make bench ONLY=rollout, or benchmarks/rollout.py [--rounds 3] [--episodes 48] [--serial 4] [--concurrency 16]

One vLLM server (SmolLM2-135M on a CPU, compiled), one ScienceWorld service; episodes of `--max-steps` turns of at most `--max-tokens`
tokens, greedy, on the same tasks in the same order. The two arms alternate. The serial loop is written out here: it asks, acts, asks,
one episode after the other, over the same HTTP; the other arm is the command `eto rollout`, its start and end included.
Before every arm the server's prefix cache is emptied, so that neither profits from the other.
`policy_busy` is the share of looks at vLLM's own gauge `vllm:num_requests_running`, ten a second while `eto rollout` plays, that found a
request running. Writes benchmarks/out/rollout.json and prints a table.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
from orchestrator.config import DEFAULT_MODEL, TaskSet
from orchestrator.config_services import EnvSection, PolicySection
from orchestrator.env_client import EnvClient
from orchestrator.prompts import load_prompt, parse_action
from orchestrator.records import Episode, Message
from orchestrator.stages.choice import choose_tasks

from orchestrator import jsonl, process, services

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "out" / "rollout.json"
SPLIT = "eto-train"
TYPES = ["task-3-find-non-living-thing", "task-3-find-plant", "task-6-lifespan-(longest-lived)", "task-6-lifespan-(shortest-lived)"]
LOOKS_PER_S = 10


class Watch(threading.Thread):
    """Looks at the server's gauges until it is stopped."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.over = url, threading.Event()
        self.running: list[float] = []

    def run(self) -> None:
        """Look, ten times a second."""
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self.over.wait(1 / LOOKS_PER_S):
                self.running.append(metric(client.get("/metrics").text, "vllm:num_requests_running"))


def metric(text: str, name: str) -> float:
    """The sum of a metric over its labels."""
    return sum(float(value) for value in re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.M))


def serial(env_url: str, policy_url: str, tasks: list[str], options: argparse.Namespace) -> tuple[float, int]:
    """Play the tasks one after the other; seconds, and the turns that were taken."""
    prompt = load_prompt("sciworld")
    started, turns = time.monotonic(), 0
    with httpx.Client(base_url=env_url, timeout=300) as env, httpx.Client(base_url=policy_url, timeout=300) as policy:
        for task in tasks:
            reply = env.post("/reset", json={"task_id": task, "max_steps": options.max_steps}).raise_for_status().json()
            session = reply["metadata"]["session_id"]
            messages = prompt.opening(reply["observation"]["text"])
            for _ in range(options.max_steps):
                body = {"model": "policy", "messages": [m.model_dump() for m in messages], "temperature": 0, "seed": 0}
                answer = policy.post("/v1/chat/completions", json={**body, "max_tokens": options.max_tokens}).raise_for_status().json()
                text = answer["choices"][0]["message"]["content"]
                action, observation = parse_action(text), prompt.invalid_output
                if action is not None:
                    reply = env.post("/step", json={"session_id": session, "action": {"action": action}}).raise_for_status().json()
                    observation = reply["observation"]["text"]
                messages += [Message(role="assistant", content=text), prompt.observation(observation)]
                turns += 1
                if reply["done"]:
                    break
            env.delete(f"/sessions/{session}")
    return time.monotonic() - started, turns


def rollout(
    env_url: str, policy_url: str, out: Path, per_type: int, options: argparse.Namespace
) -> tuple[float, list[Episode], list[float]]:
    """`eto rollout` as a person types it; seconds, what it played, and the looks at the server."""
    command = [str(Path(sys.executable).with_name("eto")), "rollout", "--env-url", env_url, "--policy-url", policy_url, "--split", SPLIT]
    command += [part for name in TYPES for part in ("--type", name)] + ["--per-type", str(per_type), "--out", str(out), "--no-example"]
    command += ["--concurrency", str(options.concurrency), "--max-tokens", str(options.max_tokens), "--max-steps", str(options.max_steps)]
    watch = Watch(policy_url)
    watch.start()
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    elapsed = time.monotonic() - started
    watch.over.set()
    watch.join()
    return elapsed, list(jsonl.read(out, Episode)), watch.running


async def chosen(env_url: str, per_type: int) -> list[str]:
    """The tasks that `eto rollout` plays."""
    async with EnvClient(env_url, "sciworld") as env:
        return [t.task_id for t in await choose_tasks(env, TaskSet(split=SPLIT, types=TYPES, per_type=per_type))]


def empty_cache(policy_url: str) -> None:
    """Forget all prefixes."""
    httpx.post(f"{policy_url}/reset_prefix_cache", timeout=60).raise_for_status()


def interval(values: list[float]) -> list[float]:
    """Lowest and highest of the rounds."""
    return [min(values), max(values)]


async def start(options: argparse.Namespace) -> tuple[str, str]:
    """Both services, ready; their URLs."""
    from tiny_run import free_port

    model = await services.prepare_model(options.model)
    env = services.env_service(EnvSection(port=free_port(), max_engines=options.concurrency))
    section = PolicySection(port=free_port(), max_model_len=4096, max_num_seqs=options.concurrency, compile=not options.eager)
    policy = services.policy_service(section, model)
    await services.ensure(policy)
    await services.ensure(env)
    return env.url, policy.url


def main() -> None:
    """Start, warm up, measure, print, write."""
    parser = argparse.ArgumentParser(description="eto rollout against a serial loop.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=48, help="of `eto rollout` in a round, a multiple of 4")
    parser.add_argument("--serial", type=int, default=4, help="episodes of the serial loop in a round, from the same tasks")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--max-steps", type=int, default=8)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--eager", action="store_true", help="without torch.compile: starts sooner, decodes slower")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["ETO_STATE"] = str(Path(scratch) / "state")
        try:
            result = measure(Path(scratch), options)
        finally:
            for running in process.find_all():
                process.stop(running)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n")


def measure(scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The rounds, as ratios."""
    begun = time.monotonic()
    env_url, policy_url = asyncio.run(start(options))
    per_type = options.episodes // len(TYPES)
    tasks = asyncio.run(chosen(env_url, per_type))
    every = len(tasks) // options.serial
    some = tasks[::every][: options.serial]
    rollout(env_url, policy_url, scratch / "warm.jsonl", 4, options)  # JVMs, the compiled model's shapes
    print(f"ready and warm after {time.monotonic() - begun:.0f} s")
    print(" round   serial      eto  ratio   busy   (episodes an hour)", flush=True)
    rows = []
    for number in range(options.rounds):
        empty_cache(policy_url)
        alone_s, alone_turns = serial(env_url, policy_url, some, options)
        empty_cache(policy_url)
        took_s, played, looks = rollout(env_url, policy_url, scratch / f"{number}.jsonl", per_type, options)
        assert len(played) == len(tasks)
        turns = sum(len(e.steps) for e in played)
        row = {
            "serial_episodes_per_h": 3600 * len(some) / alone_s,
            "eto_episodes_per_h": 3600 * len(played) / took_s,
            "serial_turns_per_s": alone_turns / alone_s,
            "eto_turns_per_s": turns / took_s,
            "policy_busy": sum(r > 0 for r in looks) / len(looks),
            "requests_running": statistics.fmean(looks),
            "looks": len(looks),
            "env_s_per_turn": sum(s.env_s for e in played for s in e.steps) / turns,
            "policy_s_per_turn": sum(s.policy_s for e in played for s in e.steps) / turns,
        }
        row["speedup_vs_serial"] = row["eto_episodes_per_h"] / row["serial_episodes_per_h"]
        rows.append(row)
        numbers = (row["serial_episodes_per_h"], row["eto_episodes_per_h"], row["speedup_vs_serial"], row["policy_busy"])
        print(f"{number + 1:5} {numbers[0]:8.0f} {numbers[1]:8.0f} {numbers[2]:6.2f} {numbers[3]:6.3f}", flush=True)
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    spread = {f"{name}_range": interval([row[name] for row in rows]) for name in ("speedup_vs_serial", "policy_busy")}
    print(f"median {medians['speedup_vs_serial']:.2f} {spread['speedup_vs_serial_range']}, busy {medians['policy_busy']:.3f}")
    settings = {k: v for k, v in vars(options).items() if k != "rounds"}
    machine = {"cores": os.cpu_count(), "load_average": os.getloadavg()}
    return {**medians, **spread, "rounds": len(rows), "each": rows, "settings": settings, "machine": machine}


if __name__ == "__main__":
    main()
