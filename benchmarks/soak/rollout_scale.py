#!.venv/bin/python
"""2,000 episodes at a time in one orchestrator process, against what the services that it drives can do without it.

    make soak ONLY=rollout_scale, or benchmarks/soak/rollout_scale.py [--concurrency 2000] [--episodes 12000]

The command `eto rollout` plays WebShop's sample (search, look at a product, buy: three turns) with a scripted policy server
(tests/chat_server.py, a process of its own), twice: with one that answers SLOTS requests at a time, each in SERVICE_S, as a model's server
is bound by its batch; and with one that answers at once, so that only CPU bounds the run. Claims of both: no episode is lost, each is
there once; so many sessions were open at once; the orchestrator's largest resident memory is under 1 GB; and its throughput is at least
80 % of the bottleneck's own maximum:

- Throughput: all turns by all seconds of the command, its start and its tail included.
- The bottleneck: the slower of the two services, environment and policy server, each alone.
- Its own maximum: the same requests of the same episodes, as many at a time, sent by a generator that does nothing else
  (load_generator.py), in the same run. Told of the environment beside it: with 64 at a time, which is easier, and no yardstick for 2,000.

So the orchestrator itself is never the yardstick. The environment has half of the machine's cores in every measurement, and all else the
other half: what drives a service, orchestrator or generator, never takes its CPU. Told beside it: the CPU of every part for a turn.
Writes benchmarks/out/soak-rollout_scale.json.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
from orchestrator.config_services import EnvSection
from orchestrator.records import Episode

from orchestrator import jsonl, process, services

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "benchmarks" / "soak"))
LARGEST_RSS_MB = 1000
LEAST_SHARE = 0.8
FEW_CONNECTIONS = 64
SLOTS, SERVICE_S = 256, 1.0
TICK = os.sysconf("SC_CLK_TCK")


class Sessions(threading.Thread):
    """Looks once a second at how many sessions are open, until it is stopped."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.over, self.most = url, threading.Event(), 0

    def run(self) -> None:
        """Look: a gauge of the service's metrics."""
        with httpx.Client(base_url=self.url, timeout=60) as client:
            while not self.over.wait(1):
                lines = client.get("/metrics").text.splitlines()
                states = (line for line in lines if line.startswith("eto_env_sessions{") and 'state="done"' not in line)
                self.most = max(self.most, round(sum(float(line.rpartition(" ")[2]) for line in states)))


def cpu_s(pid: int) -> float:
    """User and system seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def below(pid: int) -> list[int]:
    """The process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(p for child in children for p in below(int(child)))]


def halves() -> tuple[set[int], set[int]]:
    """The cores of the environment, and those of all else. Raises SystemExit where there is one core."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        sys.exit("this needs two cores: one for the environment, one for what drives it")
    return set(cores[: len(cores) // 2]), set(cores[len(cores) // 2 :])


class Parts:
    """The services' processes, and their CPU since the last look."""

    def __init__(self, env: int, policy: int) -> None:
        self._pids = {"environment": [env], "environment's worker": below(env)[1:], "policy": [policy]}
        self._seen: dict[str, float] = {}
        self.ms_a_turn(1)

    def ms_a_turn(self, turns: int) -> dict[str, float]:
        """Milliseconds of each part for a turn since the last call."""
        now = {name: sum(map(cpu_s, pids)) for name, pids in self._pids.items()}
        told = {name: round(1000 * (now[name] - self._seen.get(name, 0)) / turns, 3) for name in now}
        self._seen = now
        return told


def rollout(env_url: str, policy_url: str, out: Path, samples: int, options: argparse.Namespace) -> tuple[float, float, float]:
    """`eto rollout` as a person types it: seconds, seconds of CPU, largest resident memory in MB. Raises CalledProcessError."""
    command = [str(Path(sys.executable).with_name("eto")), "rollout", "--env", "webshop", "--split", "sample-train", "--no-example"]
    command += ["--env-url", env_url, "--policy-url", policy_url, "--samples", str(samples), "--max-steps", "10"]
    command += ["--concurrency", str(options.concurrency), "--out", str(out)]
    started = time.perf_counter()
    running = subprocess.Popen(command)
    _, status, used = os.wait4(running.pid, 0)
    running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode != 0:
        raise subprocess.CalledProcessError(running.returncode, command)
    return time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def alone(env_url: str, policy_url: str, played: list[Episode], parts: Parts, options: argparse.Namespace) -> dict[str, Any]:
    """What each service does in a second without the orchestrator, and its CPU."""
    import load_generator

    told: dict[str, Any] = {}
    turns = sum(len(e.steps) for e in played)
    for name, url, script in (("environment", env_url, load_generator.environment), ("policy", policy_url, load_generator.policy)):
        told[name] = {}
        for connections in (FEW_CONNECTIONS, options.concurrency) if name == "environment" else (options.concurrency,):
            seconds = asyncio.run(load_generator.drive(url, script, played, connections))
            told[name][f"with {connections}"] = {"turns_per_s": round(turns / seconds, 1), "cpu_ms_per_turn": parts.ms_a_turn(turns)}
            print(f"{name} alone, {connections} connections: {turns / seconds:.0f} turns/s", flush=True)
        told[name]["turns_per_s"] = told[name][f"with {options.concurrency}"]["turns_per_s"]
    return told


def arm(
    name: str, env: process.Running, out: Path, tasks: int, options: argparse.Namespace, **server: float
) -> tuple[dict[str, bool], dict[str, Any]]:
    """What was claimed with a policy server of these options and whether it holds, and the figures."""
    import chat_server
    from tiny_run import free_port

    samples = -(-(options.paced_episodes if server else options.episodes) // tasks)
    port = free_port()
    policy_url, policy = f"http://127.0.0.1:{port}", chat_server.start(port, script="webshop", **server)
    try:
        parts, sessions = Parts(env.pid, policy.pid), Sessions(env.url)
        sessions.start()
        seconds, cpu, rss_mb = rollout(env.url, policy_url, out, samples, options)
        sessions.over.set()
        sessions.join()
        played = list(jsonl.read(out, Episode))
        turns = sum(len(e.steps) for e in played)
        cpu_ms = {"orchestrator": round(1000 * cpu / turns, 3), **parts.ms_a_turn(turns)}
        print(f"{name}: {turns / seconds:.0f} turns/s, {rss_mb:.0f} MB", flush=True)
        services_alone = alone(env.url, policy_url, played, parts, options)
    finally:
        policy.kill()
        policy.wait()
    slower = min(services_alone, key=lambda name: float(services_alone[name]["turns_per_s"]))
    share = turns / seconds / services_alone[slower]["turns_per_s"]
    claims = {
        f"{name}: no episode is lost: {tasks * samples}, each once": len(played) == len({e.key for e in played}) == tasks * samples,
        f"{name}: none began anew and no request was sent again": not any(e.restarts or e.retries for e in played),
        f"{name}: {options.concurrency} sessions were open at once": sessions.most >= 0.99 * options.concurrency,
        f"{name}: the orchestrator's memory stays under {LARGEST_RSS_MB} MB": rss_mb < LARGEST_RSS_MB,
        f"{name}: throughput is at least {LEAST_SHARE:.0%} of the bottleneck's own maximum": share >= LEAST_SHARE,
    }
    return claims, {
        "most_sessions_seen": sessions.most,
        "episodes": len(played),
        "turns": turns,
        "seconds": round(seconds, 1),
        "turns_per_s": round(turns / seconds, 1),
        "rss_mb": round(rss_mb),
        "cpu_ms_per_turn": cpu_ms,
        "orchestrator_busy": round(cpu / seconds, 3),
        "bottleneck": slower,
        "share_of_its_maximum": round(share, 3),
        "alone": services_alone,
        "load_average": os.getloadavg(),
    }


def soak(scratch: Path, options: argparse.Namespace) -> tuple[dict[str, bool], dict[str, Any]]:
    """Both arms on one environment service."""
    from tiny_run import free_port

    os.environ["ETO_WEBSHOP_CATALOGUE"] = "sample"
    os.environ["ETO_ENV_MAX_SESSIONS"] = str(options.concurrency + FEW_CONNECTIONS)
    service = services.env_service(EnvSection(name="webshop", port=free_port(), max_engines=options.concurrency))
    cores = halves()
    os.sched_setaffinity(0, cores[0])  # what is started inherits it
    env = asyncio.run(services.ensure(service))
    os.sched_setaffinity(0, cores[1])
    tasks = len(httpx.post(f"{env.url}/webshop/tasks", json={"split": "sample-train"}, timeout=60).json()["tasks"])
    claims, paced = arm("bound by the model", env, scratch / "paced.jsonl", tasks, options, slots=SLOTS, service_s=SERVICE_S)
    more, unpaced = arm("bound by CPU", env, scratch / "unpaced.jsonl", tasks, options)
    figures = {"cores": [len(half) for half in cores], "concurrency": options.concurrency, "slots": SLOTS, "service_s": SERVICE_S}
    figures |= {"bound_by_model": paced, "bound_by_cpu": unpaced}
    return claims | more, figures


def main() -> None:
    """Play, drive the services alone, compare."""
    parser = argparse.ArgumentParser(description="Thousands of episodes at a time in one orchestrator process.")
    parser.add_argument("--concurrency", type=int, default=2000, help="episodes at a time (default 2000)")
    parser.add_argument(
        "--episodes", type=int, default=12000, help="bound by CPU, at least so many: whole samples of the split (default 12000)"
    )
    parser.add_argument("--paced-episodes", type=int, default=2400, help="bound by the model (default 2400)")
    options = parser.parse_args()
    import playing

    with tempfile.TemporaryDirectory() as scratch:
        os.environ["ETO_STATE"] = str(Path(scratch) / "state")
        try:
            claims, figures = soak(Path(scratch), options)
        finally:
            for running in process.find_all():
                process.stop(running)
    playing.finish("rollout_scale", claims, figures)


if __name__ == "__main__":
    main()
