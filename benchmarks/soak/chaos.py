#!.venv/bin/python
"""1,000 episodes against three policy servers of which one request in ten fails, and one server dies every few seconds.

    make soak ONLY=chaos, or benchmarks/soak/chaos.py [--episodes 1000] [--concurrency 64] [--seed 0]

WebShop on its sample, and scripted servers (tests/chat_server.py): each request fails with a chance of 10 %, alike in five ways (500;
429 with Retry-After; an answer later than the turn's limit; half of the JSON; a reset connection), and every 3 s at random one server
gets SIGKILL, to be back a second later. Claims: every episode ends, each once, with the very turns, score and end that it has against a
server without faults; the episodes' `retries` are no fewer than the faults that the servers say they gave, and in a second run without
kills exactly as many. Writes benchmarks/out/soak-chaos.json.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from orchestrator.config_services import EnvSection

from orchestrator import process, services

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "benchmarks" / "soak"))
FAULTS = {"faults": 0.1, "slow_s": 60.0, "script": "webshop", "slots": 16, "service_s": 0.1}


def main() -> None:
    """Play three times, compare."""
    parser = argparse.ArgumentParser(description="Episodes against failing policy servers.")
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=64, help="episodes at a time")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import playing
    from tiny_run import free_port

    with tempfile.TemporaryDirectory() as scratch:
        os.environ["ETO_STATE"] = str(Path(scratch) / "state")
        service = services.env_service(EnvSection(name="webshop", port=free_port(), max_engines=options.concurrency))
        try:
            asyncio.run(services.ensure(service))
            claims, figures = soak(Path(scratch), service.url, options)
        finally:
            for running in process.find_all():
                process.stop(running)
    playing.finish("chaos", claims, figures)


def soak(scratch: Path, env_url: str, options: argparse.Namespace) -> tuple[dict[str, bool], dict[str, Any]]:
    """What was claimed and whether it holds, and the figures."""
    import chaos_run

    def play(name: str, servers: chaos_run.Servers, **how: Any) -> tuple[chaos_run.Rollout, float]:
        out = scratch / f"{name}.jsonl"
        return chaos_run.rollout(
            "webshop", env_url, servers, out, options.episodes, options.concurrency, split="sample-train", max_steps=10, **how
        )

    with chaos_run.Servers(1, scratch / "calm", {"script": "webshop"}) as servers:
        play("calm", servers)
    calm = chaos_run.contents(scratch / "calm.jsonl")
    claims = {f"undisturbed, {options.episodes} episodes end": len(calm) == options.episodes}
    figures: dict[str, Any] = {"episodes": options.episodes, "concurrency": options.concurrency, "seed": options.seed}
    for name, kill_every_s in (("faults", None), ("faults and kills", 3.0)):
        with chaos_run.Servers(3, scratch / name, FAULTS) as servers:
            played, elapsed_s = play(name, servers, turn_timeout_s=3.0, kill_every_s=kill_every_s, seed=options.seed)
            kills = servers.kills
        told = servers.told()
        faults = {kind: told[kind] for kind in (*chaos_run.chat_server.FAULTS, "cut off by a kill")}
        retries = sum(e.retries for e in played.episodes)
        same = chaos_run.contents(scratch / f"{name}.jsonl") == calm
        claims[f"{name}: {options.episodes} episodes end, each once, as undisturbed"] = same
        claims[f"{name}: no episode failed"] = not played.failures
        accounted = retries == sum(faults.values()) if kill_every_s is None else retries >= sum(faults.values()) and kills > 0
        claims[f"{name}: every fault is accounted for by a retry"] = accounted
        figures[name] = {
            "ended": len(played.episodes),
            "requests": told["begin"],
            "faults": faults,
            "kills": kills,
            "retries": retries,
            "retries_of_refused_connections": retries - sum(faults.values()),
            "most_retries_of_an_episode": max(e.retries for e in played.episodes),
            "restarts": sum(e.restarts for e in played.episodes),
            "elapsed_s": round(elapsed_s, 1),
        }
    return claims, figures


if __name__ == "__main__":
    main()
