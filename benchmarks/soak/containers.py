#!.venv/bin/python
"""The compose system and the docker launcher on a real engine.

    make soak ONLY=containers, or benchmarks/soak/containers.py [--only PART,...]

build: every image from this tree, with times and sizes.
system: `docker compose up --wait` on sample data; an episode's first step at each environment from this machine; each environment's
container killed with SIGKILL, after which its open session must go on.
run: a whole ETO run of the smallest sizes in containers: jobs started by the docker SDK, weights changed in the running policy container.
kills: the same again, with the containers of the trainer, the policy, the page and the orchestrator killed in turn. After run.
overrides: compose.dev.yml; compose.remote-policy.yml with a policy server outside of the system, which serves a model of run.
scale: three replicas of ScienceWorld; sessions are spread over them and stay where they were made; one is removed for good in mid-rollout.
jobs: a training job whose files travel; its orchestrator killed with SIGKILL in mid-job, after which the next must find the same container;
jobs whose containers are killed, stopped or removed, which must say so and end within the same call; a job that is cancelled, whose
container must stop; one with too little memory.
ssh: a job on an engine behind a real sshd, whose connections are cut in mid-job. Needs openssh-server.
tls: a job on a second engine, started for it, that is reached by TCP with certificates on both sides.
remote: a whole ETO run of the smallest sizes whose trainer and policy are behind that ssh, with no disk shared; the connections are cut and
the server killed in its middle.
At the end `down -v` must leave nothing. Needs root and an engine with compose. Writes benchmarks/out/soak-containers.json.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from typing import Any

from containers_engine import build, check, compose, docker, failures, left, report
from containers_jobs import jobs
from containers_overrides import overrides
from containers_remote import remote
from containers_run import environments, kills, run
from containers_scale import scale
from containers_ssh import ssh
from containers_tls import tls


def system() -> dict[str, Any]:
    """Start the system and kill each environment."""
    began = time.monotonic()
    compose("up", "--wait", "--no-build")
    healthy = round(time.monotonic() - began, 1)
    check(True, f"four containers were healthy after {healthy} s")
    return {"healthy_s": healthy, **environments()}


PARTS = (build, system, run, kills, overrides, scale, jobs, ssh, tls, remote)


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
    down = ("--profile", "*", "down", "-v", "--remove-orphans")
    compose(*down)  # what an interrupted soak left
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is taken down then too
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a script it is ignored, by what is started here too
    try:
        for part in chosen:
            print(f"-- {part.__name__}, load {os.getloadavg()[0]:.1f}", flush=True)
            figures["load"][part.__name__] = round(os.getloadavg()[0], 1)
            try:
                figures |= part()
            except SystemExit as gave_up:  # the other parts are tried still
                check(False, f"{part.__name__}: {gave_up}")
    finally:
        compose(*down)
    check(not left(), "down -v left no container, volume or network")
    report({**figures, "failures": failures})
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
