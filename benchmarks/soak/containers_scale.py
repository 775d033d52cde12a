"""Several replicas of an environment, played by the orchestrator's container, which finds them by the one name that they share."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
from containers_engine import PROJECT, ROOT, check, compose, compose_command, docker, environment, runs, wait_for

REPLICAS = 3
PORTS = "18100-18119"
TYPES = ("task-6-lifespan-(longest-lived)", "task-6-lifespan-(shortest-lived)")
PER_TYPE = 8


def settings() -> dict[str, str]:
    """A range of ports, as several replicas need it."""
    return environment(ETO_SCIWORLD_PORT=PORTS, ETO_ENV_MAX_ENGINES="2")


def address(number: int) -> str:
    """A replica's published address."""
    return "http://" + docker("port", f"{PROJECT}-env-sciworld-{number}", "8002").splitlines()[0]


def resets(url: str) -> int:
    """How many episodes a replica has begun."""
    lines = [line for line in httpx.get(f"{url}/metrics", timeout=30).text.splitlines() if line.startswith("eto_env_reset_seconds_count")]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines)


def play(name: str) -> tuple[subprocess.Popen[str], Path]:
    """Gold paths of short tasks, replayed by the orchestrator's container; and the file that they go to."""
    types = [part for kind in TYPES for part in ("--type", kind)]
    command = compose_command(
        *("run", "--rm", "--no-deps", "-T", "orchestrator", "experts", "--env", "sciworld", "--split", "eto-train", *types),
        *("--per-type", str(PER_TYPE), "--out", f"/runs/scale/{name}.jsonl"),
    )
    process = subprocess.Popen(
        command, cwd=ROOT, env=settings(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return process, runs() / "scale" / f"{name}.jsonl"


def episodes(process: subprocess.Popen[str], file: Path) -> list[dict[str, Any]]:
    """What was played, when it has ended."""
    said, _ = process.communicate()
    check(process.returncode == 0, f"{file.stem}: the rollout ended with code {process.returncode}" + (said if process.returncode else ""))
    return [json.loads(line) for line in file.read_text().splitlines()]


def scale() -> dict[str, Any]:
    """`--scale env-sciworld=3`: the share of each replica, and what the loss of one costs."""
    began = time.monotonic()
    services = ("--scale", f"env-sciworld={REPLICAS}", "env-sciworld")
    docker(*compose_command("up", "--wait", "--no-build", "--no-deps", *services)[1:], env=settings())
    figures: dict[str, Any] = {"replicas_healthy_s": round(time.monotonic() - began, 1)}
    urls = [address(number) for number in range(1, REPLICAS + 1)]
    before = [resets(url) for url in urls]
    played = episodes(*play("all"))
    shares = [resets(url) - was for url, was in zip(urls, before, strict=True)]
    keys = {e["task_id"] for e in played}
    check(len(played) == len(keys) == 2 * PER_TYPE and all(e["success"] for e in played), f"{len(played)} gold paths succeeded")
    check(not sum(e["restarts"] for e in played), "no episode had to begin again: each session stayed at its replica")
    check(min(shares) >= len(played) // REPLICAS - 2, f"the replicas were given {', '.join(map(str, shares))} episodes")
    figures["replica_episodes"] = shares
    process, file = play("one-lost")
    wait_for(lambda: httpx.get(f"{urls[1]}/sessions", timeout=30).json()["sessions"], "the second replica holds a session")
    docker("rm", "-f", "-v", f"{PROJECT}-env-sciworld-2")
    played = episodes(process, file)
    restarts = sum(e["restarts"] for e in played)
    complete = len(played) == len({e["task_id"] for e in played}) == 2 * PER_TYPE and all(e["success"] for e in played)
    check(complete and restarts >= 1, f"a replica was removed in mid-rollout: all {len(played)} gold paths are there, {restarts} again")
    figures["replica_lost_restarts"] = restarts
    compose("rm", "-f", "-s", "-v", "env-sciworld")
    return figures
