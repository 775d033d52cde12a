#!.venv/bin/python
"""The compose system and the docker launcher on a real engine.

    make soak ONLY=containers, or benchmarks/soak/containers.py [--only system|jobs]

system: `docker compose up --wait` on sample data; an episode's first step at each environment from this machine; each container killed with
SIGKILL, after which its open session must go on; `down -v` must leave nothing.
jobs: a training job whose files travel; its orchestrator killed with SIGKILL in mid-job, after which the next must find the same container;
a job whose container is killed, which must say so and end when run again; a job that is cancelled, whose container must stop.
The images must be built before (docs/containers.md). Writes benchmarks/out/soak-containers.json.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROJECT = "eto-soak"
PORTS = {"webshop": 18001, "sciworld": 18002, "alfworld": 18003}
SPLITS = {"webshop": "sample-train", "sciworld": "train", "alfworld": "train"}
ACTIONS = {"webshop": "search[red shoes]", "sciworld": "look around", "alfworld": "look"}
PATIENCE_S = 120.0
failures: list[str] = []


def check(holds: bool, said: str) -> None:
    """Print a claim; a false one fails the soak."""
    print(("ok    " if holds else "FAILED ") + said, flush=True)
    if not holds:
        failures.append(said)


def docker(*arguments: str, must: bool = True) -> str:
    """The output of a docker command."""
    done = subprocess.run(["docker", *arguments], cwd=ROOT, capture_output=True, text=True, env=environment())
    if must and done.returncode:
        sys.exit(f"docker {' '.join(arguments)}: {done.stderr}")
    return done.stdout.strip()


def environment() -> dict[str, str]:
    """This process's, with ports of the soak's own and no other setting."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("ETO_")}
    return {**own, **{f"ETO_{name.upper()}_PORT": str(port) for name, port in PORTS.items()}, "ETO_UI_PORT": "18080"}


def compose(*arguments: str) -> str:
    """A compose command on the soak's own project."""
    return docker("compose", "--env-file", os.devnull, "-p", PROJECT, *arguments)


def left() -> list[str]:
    """What is there of the project: ids of containers, volumes, networks."""
    mine = ["--filter", f"label=com.docker.compose.project={PROJECT}", "-q"]
    return [x for kind in (["ps", "-a"], ["volume", "ls"], ["network", "ls"]) for x in docker(*kind, *mine).split()]


def post(client: Any, env: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A request, again until the service is back."""
    import httpx

    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            answer = client.post(f"http://127.0.0.1:{PORTS[env]}{path}", json=body)
            if answer.status_code != 503:
                return dict(answer.raise_for_status().json())
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline:
            sys.exit(f"{env} was not back after {PATIENCE_S:g} s")
        time.sleep(0.2)


def system() -> dict[str, Any]:
    """Start the system, kill each environment, take all down."""
    import httpx

    started = time.monotonic()
    compose("up", "--wait", "--no-build")
    figures: dict[str, Any] = {"healthy_s": round(time.monotonic() - started, 1), "recovery_s": {}}
    with httpx.Client(timeout=60) as client:
        for env in PORTS:
            session = post(client, env, "/reset", {"split": SPLITS[env], "index": 0})["metadata"]["session_id"]
            post(client, env, "/step", {"session_id": session, "action": {"action": ACTIONS[env]}, "request_id": "one"})
            name = f"{PROJECT}-env-{env}-1"
            os.kill(int(docker("inspect", "-f", "{{.State.Pid}}", name)), signal.SIGKILL)
            killed = time.monotonic()
            second = post(client, env, "/step", {"session_id": session, "action": {"action": ACTIONS[env]}, "request_id": "two"})
            figures["recovery_s"][env] = round(time.monotonic() - killed, 1)
            check(second["metadata"]["step"] == 2, f"{env}: killed; its session went on with step 2 after {figures['recovery_s'][env]} s")
            check(docker("inspect", "-f", "{{.RestartCount}}", name) == "1", f"{env}: the engine had restarted it")
    compose("down", "-v")
    check(not left(), "down -v left no container, volume or network")
    return figures


def job(folder: Path, number: int) -> dict[str, Any]:
    """A small job; `number` tells it from others."""
    turns = [{"role": "user", "content": "Open the door."}, {"role": "assistant", "content": "Thought: It is shut.\nAction: open door"}]
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps({"id": str(n), "messages": turns}) + "\n" for n in range(64)))
    shape = {"vocab_size": 320, "hidden_size": 64, "layers": 2, "heads": 2}
    return {"method": "init", "data": str(data), "output": str(folder / "checkpoint"), "init": shape, "seed": number}


def containers_of(work: dict[str, Any]) -> list[str]:
    """The ids of a job's containers, running or not."""
    from orchestrator.launchers.docker import LABEL, job_label

    return docker("ps", "-aq", "--no-trunc", "--filter", f"label={LABEL}={job_label(work)}").split()


def launch(work: dict[str, Any], folder: Path) -> subprocess.Popen[str]:
    """An orchestrator of its own, to be killed."""
    code = (
        "import asyncio, json, sys; from pathlib import Path; from orchestrator.config import DockerSection; "
        "from orchestrator.launchers import docker; "
        "asyncio.run(docker.run_job(json.loads(sys.argv[1]), Path(sys.argv[2]), print, DockerSection()))"
    )
    command = [sys.executable, "-c", code, json.dumps(work), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def running(work: dict[str, Any]) -> str:
    """The job's container, once it runs."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for found in containers_of(work):
            if docker("inspect", "-f", "{{.State.Running}}", found, must=False) == "true":
                return found
        time.sleep(0.05)
    sys.exit("the job's container never ran")


def jobs() -> dict[str, Any]:
    """Kill orchestrators and containers in mid-job, and cancel."""
    from orchestrator import versions

    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for number, part in enumerate(("found again", "killed", "cancelled")):
            folder = Path(name) / str(number)
            folder.mkdir()
            work = job(folder, number)
            began = time.monotonic()
            first = launch(work, folder)
            container = running(work)
            if part == "found again":
                first.kill()
                first.communicate()
                again = launch(work, folder)
                check(containers_of(work) == [container], "the orchestrator was killed; the next found its container and started no second")
            elif part == "killed":
                docker("kill", "-s", "KILL", container)
                check("SIGKILL" in first.communicate()[1], "a killed container is said to have been killed")
                again = launch(work, folder)
            else:
                first.send_signal(signal.SIGINT)
                first.communicate()
                stopped = docker("inspect", "-f", "{{.State.Running}}", container) == "false"
                check(stopped, "Ctrl-C stopped the job's container")
                again = launch(work, folder)
            told = again.communicate()[1]
            check(again.returncode == 0, f"{part}: run again it ended well {told[-300:]}")
            check(versions.read_checkpoint(folder / "checkpoint") is not None, f"{part}: its checkpoint came back")
            check(not containers_of(work), f"{part}: its container is gone")
            figures[part] = round(time.monotonic() - began, 1)
    return {"jobs_s": figures}


def main() -> int:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["system", "jobs"])
    only = parser.parse_args().only
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode or not docker("info", must=False):
        print("skipped: no container engine with compose answers here (docker info, docker compose version)")
        return 0
    figures: dict[str, Any] = {"load": os.getloadavg()[0]}
    for part in (system, jobs):
        if only in (None, part.__name__):
            figures |= part()
    figures["failures"] = failures
    out = ROOT / "benchmarks/out/soak-containers.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures, indent=1))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
