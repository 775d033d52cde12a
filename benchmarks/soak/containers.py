#!.venv/bin/python
"""The compose system and the docker launcher on a real engine.

    make soak ONLY=containers, or benchmarks/soak/containers.py [--only build,system,run,kills,jobs]

build: every image from this tree, with times and sizes.
system: `docker compose up --wait` on sample data; an episode's first step at each environment from this machine; each environment's
container killed with SIGKILL, after which its open session must go on.
run: a whole ETO run of the smallest sizes in containers: jobs started by the docker SDK, weights changed in the running policy container.
kills: the same again, with the containers of the trainer, the policy, the page and the orchestrator killed in turn.
jobs: a training job whose files travel; its orchestrator killed with SIGKILL in mid-job, after which the next must find the same container;
a job whose container is killed, which must say so and end within the same call; a job that is cancelled, whose container must stop.
At the end `down -v` must leave nothing. Needs an engine with compose. Writes benchmarks/out/soak-containers.json.
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

from containers_engine import build, check, compose, docker, failures, left, report, wait_for
from containers_run import environments, kills, run


def system() -> dict[str, Any]:
    """Start the system and kill each environment."""
    began = time.monotonic()
    compose("up", "--wait", "--no-build")
    healthy = round(time.monotonic() - began, 1)
    check(True, f"four containers were healthy after {healthy} s")
    return {"healthy_s": healthy, **environments()}


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
        "from orchestrator.launchers import again, docker; "
        "job, folder = json.loads(sys.argv[1]), Path(sys.argv[2]); "
        "asyncio.run(again.until_done(lambda: docker.run_job(job, folder, print, DockerSection()), print, 2))"
    )
    command = [sys.executable, "-c", code, json.dumps(work), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def running(work: dict[str, Any]) -> str:
    """The job's container, once it runs."""
    ids = wait_for(
        lambda: [c for c in containers_of(work) if docker("inspect", "-f", "{{.State.Running}}", c, must=False) == "true"],
        "the job's container runs",
    )
    return str(ids[0])


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
                again = first
            else:
                first.send_signal(signal.SIGINT)
                first.communicate()
                stopped = docker("inspect", "-f", "{{.State.Running}}", container) == "false"
                check(stopped, "Ctrl-C stopped the job's container")
                again = launch(work, folder)
            said, told = again.communicate()
            if part == "killed":
                check("SIGKILL" in said and "'attempt': 1" in said, "a killed container is said to have been killed, and was started again")
            check(again.returncode == 0, f"{part}: it ended well {told[-300:]}")
            check(versions.read_checkpoint(folder / "checkpoint") is not None, f"{part}: its checkpoint came back")
            check(not containers_of(work), f"{part}: its container is gone")
            figures[part] = round(time.monotonic() - began, 1)
    return {"jobs_s": figures}


PARTS = (build, system, run, kills, jobs)


def main() -> int:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="PART,...", help=f"of {', '.join(part.__name__ for part in PARTS)}")
    only = parser.parse_args().only
    chosen = [part for part in PARTS if only is None or part.__name__ in only.split(",")]
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode or not docker("info", must=False):
        print("skipped: no container engine with compose answers here (docker info, docker compose version)")
        return 0
    figures: dict[str, Any] = {"load": {}}
    try:
        for part in chosen:
            print(f"-- {part.__name__}, load {os.getloadavg()[0]:.1f}", flush=True)
            figures["load"][part.__name__] = round(os.getloadavg()[0], 1)
            figures |= part()
    finally:
        compose("--profile", "*", "down", "-v")
    check(not left(), "down -v left no container, volume or network")
    report({**figures, "failures": failures})
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
