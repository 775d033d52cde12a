#!.venv/bin/python
"""A real Ray cluster of three nodes on this machine: sharded rollouts, training by Ray Jobs, nodes killed in the middle.

    make soak ONLY=ray_cluster, or benchmarks/soak/ray_cluster.py [--tasks 24] [--only rollouts]

1. ScienceWorld tasks played by a scripted policy behind a real server: in one process; by three shards, each with a service of its own on
   its node; and again while a node is killed with SIGKILL, all its processes at once. The episodes must be the same but for their timings.
2. One training job by Ray Jobs (ray_jobs.py) that is cancelled, whose orchestrator is killed, and whose node is.
3. The whole loop at its smallest (tests/tiny_run.py: experts, SFT, DPO, vLLM), its rollouts on the cluster and its three training jobs by
   Ray Jobs; a node is killed in exploration. It must end complete, each episode once.
Writes benchmarks/out/soak-ray_cluster.json, with --only soak-ray_cluster-part.json. Ray is an extra: `make ray` installs it, `make soak`
does so by itself.
"""

import argparse
import asyncio
import hashlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
CONCURRENCY = 9
PARTS = ("rollouts", "jobs", "loop")
ACTIONS = ["look around", "open door to hallway", "go to hallway", "inventory", "open door to kitchen", "go to kitchen", "examine air", ""]


def scripted(messages: list[dict[str, str]], number: int) -> str:
    """An action that the conversation so far decides, so that the order of requests cannot matter."""
    told = hashlib.sha256("\0".join(m["content"] for m in messages).encode()).digest()
    time.sleep(0.05)  # a model's pace: episodes overlap, and a kill meets some of them
    return f"Thought: On.\nAction: {ACTIONS[told[0] % len(ACTIONS)]}"


def story(episode: Any) -> dict[str, Any]:
    """An episode without its timings, and without what had to be done again after a fault."""
    told = episode.model_dump(exclude={"started_at", "duration_s", "retries", "restarts"})
    for step in told["steps"]:
        del step["policy_s"], step["env_s"]
    return told


async def play(out: Path, policy_url: str, tasks: int, ray: dict[str, Any] | None, finished: Callable[[Any], None]) -> list[Any]:
    """The first tasks of the split, here or on the cluster."""
    from orchestrator.config import RaySection, RolloutSection
    from orchestrator.config_services import EnvSection
    from orchestrator.episode import Assignment, Player
    from orchestrator.placement import EnvPlacement
    from orchestrator.policy_client import PolicyClient, Sampling
    from orchestrator.prompts import load_prompt
    from orchestrator.shards import Orders, Shards
    from tiny_run import free_port

    from orchestrator import rollout

    settings = RolloutSection(ray=RaySection(**ray) if ray else None, patience_s=60)
    section = EnvSection(port=free_port(), max_engines=2)
    place = EnvPlacement(section, "soak", settings)
    await place.start()
    connect = partial(PolicyClient, [policy_url], "m", patience_s=60)
    cast = partial(Player, policy="agent", version="v1", sampling=Sampling(max_tokens=64), prompt=load_prompt("sciworld"), max_steps=12)
    try:
        async with place.client as env, connect() as client:
            known = await env.tasks("eto-unseen")
            todo = [Assignment(known[i * len(known) // tasks], "eto-unseen") for i in range(tasks)]
            go = partial(rollout.run, todo, env, cast(client), out, concurrency=CONCURRENCY, run_id="soak", finished=finished)
            if ray is None:
                return (await go()).episodes
            orders = Orders(cast, lambda env: connect(), [policy_url])
            async with Shards(section, settings, orders, "soak", CONCURRENCY) as shards:
                return (await go(elsewhere=shards.play)).episodes
    finally:
        place.stop()


def shard_nodes(jobs: str) -> dict[str, list[str]]:
    """The nodes of living shards and of drivers, as Ray tells."""
    from ray.util.state import list_actors, list_workers

    shards = [a.node_id for a in list_actors(address=jobs, filters=[("state", "=", "ALIVE")]) if a.class_name == "Shard"]
    drivers = [w.node_id for w in list_workers(address=jobs, filters=[("worker_type", "=", "DRIVER")], detail=True) if w.is_alive]
    return {"shards": shards, "drivers": drivers}


def victim(cluster: Any) -> str:
    """A node that plays, is not the head and has no driver on it. Raises StopIteration where there is none."""
    where = shard_nodes(cluster.jobs)
    return next(node for node in where["shards"] if node not in (cluster.head(), *where["drivers"]))


def rollouts(scratch: Path, cluster: Any, tasks: int) -> tuple[dict[str, bool], dict[str, Any]]:
    """Part 1."""
    from orchestrator.records import Episode
    from scripted_policy import ScriptedPolicy

    from orchestrator import jsonl

    ray = {"address": cluster.address, "shards": 3}
    seconds: dict[str, float] = {}
    played: dict[str, list[Any]] = {}
    killed: list[str] = []

    def kill_at_a_third(count: list[int], episode: Any) -> None:
        count.append(1)
        if len(count) == tasks // 3:
            killed.append(victim(cluster))
            cluster.kill(killed[0])

    with ScriptedPolicy(scripted) as policy:
        for name, where, finished in (
            ("alone", None, lambda e: None),
            ("sharded", ray, lambda e: None),
            ("node killed", ray, partial(kill_at_a_third, [])),
        ):
            started = time.monotonic()
            asyncio.run(play(scratch / f"{name}.jsonl", policy.url, tasks, where, finished))
            seconds[name] = round(time.monotonic() - started, 1)
            played[name] = list(jsonl.read(scratch / f"{name}.jsonl", Episode))
            print(f"{name}: {len(played[name])} episodes, {seconds[name]} s", flush=True)
    stories = {name: {e.key: story(e) for e in episodes} for name, episodes in played.items()}
    claims = {
        f"{name}: every episode once, as alone": len(played[name]) == len(stories[name]) == tasks and stories[name] == stories["alone"]
        for name in ("sharded", "node killed")
    }
    claims["a node was killed in mid-rollout"] = bool(killed) and killed[0] not in cluster.raylets()
    turns = sum(len(e.steps) for e in played["alone"])
    return claims, {"episodes": tasks, "turns": turns, "seconds": seconds}


def loop(scratch: Path, cluster: Any) -> tuple[dict[str, bool], dict[str, Any]]:
    """Part 3."""
    import yaml
    from ray.job_submission import JobSubmissionClient
    from tiny_run import STAGES, Run, wait_for

    run = Run(scratch)
    config = yaml.safe_load(run.config.read_text())
    config["rollout"]["ray"] = {"address": cluster.address, "shards": 3}
    config["trainer"] = {"ray": {"address": cluster.jobs}}
    run.config.write_text(yaml.safe_dump(config))
    started = time.monotonic()
    eto = run.start()
    wait_for(lambda: run.lines("explore-1") >= 2, eto, run, 600)
    node = victim(cluster)
    cluster.kill(node)
    code = eto.wait(600)
    print(run.log.read_text(), flush=True)
    run.check_complete()
    jobs = [j for j in JobSubmissionClient(cluster.jobs).list_jobs() if j.submission_id]  # the others are drivers
    counts = {stage: len(run.episodes(stage)) for stage, number in STAGES.items() if number}
    claims = {
        "the loop with a node killed ended complete, each episode once": code == 0 and counts == {s: n for s, n in STAGES.items() if n},
        "its three training jobs ran on the cluster": [str(j.status) for j in jobs] == ["SUCCEEDED"] * 3,
        "the killed node stayed away": node not in cluster.raylets(),
    }
    return claims, {"loop_s": round(time.monotonic() - started), "jobs": sorted(str(j.submission_id) for j in jobs)}


def main() -> None:
    """Start the cluster, play, kill, report."""
    parser = argparse.ArgumentParser(description="Rollouts and training on a Ray cluster of this machine, nodes killed.")
    parser.add_argument("--tasks", type=int, default=24, help="episodes of a rollout (default 24)")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; repeat for more (default: all)")
    options = parser.parse_args()
    from playing import finish
    from ray_jobs import jobs
    from ray_nodes import cluster

    from orchestrator import process, ray_cluster

    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a script it is ignored, by what is started here too
    parts = {"rollouts": partial(rollouts, tasks=options.tasks), "jobs": jobs, "loop": loop}
    with tempfile.TemporaryDirectory(prefix="eto-soak-") as folder:
        scratch = Path(folder)
        os.environ["ETO_STATE"] = str(scratch / "state")
        claims: dict[str, bool] = {}
        figures: dict[str, Any] = {"nodes": 3, "load_average_before": os.getloadavg()}
        try:
            for name in options.only or PARTS:
                (scratch / name).mkdir()
                started = time.monotonic()
                with cluster(workers=2) as nodes:
                    figures[f"{name}: cluster_start_s"] = round(time.monotonic() - started, 1)
                    try:
                        more, told = parts[name](scratch / name, nodes)
                    finally:
                        ray_cluster.load().shutdown()  # before its cluster ends: it would wait for it
                claims |= more
                figures |= told
                print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        finally:
            left = process.find_all()
            for running in left:
                process.stop(running)
    claims["nothing of ours runs on"] = left == []
    finish("ray_cluster" if options.only is None else "ray_cluster-part", claims, figures)


if __name__ == "__main__":
    main()
