"""Training jobs as containers: their orchestrators and containers are killed in mid-job, and a job is cancelled."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from containers_engine import check, docker, state, wait_for
from orchestrator.launchers.docker import LABEL, job_label

from orchestrator import versions


def job(folder: Path, number: int) -> dict[str, Any]:
    """A small job; `number` tells it from others."""
    turns = [{"role": "user", "content": "Open the door."}, {"role": "assistant", "content": "Thought: It is shut.\nAction: open door"}]
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps({"id": str(n), "messages": turns}) + "\n" for n in range(64)))
    shape = {"vocab_size": 320, "hidden_size": 64, "layers": 2, "heads": 2}
    return {"method": "init", "data": str(data), "output": str(folder / "checkpoint"), "init": shape, "seed": number}


def containers_of(work: dict[str, Any]) -> list[str]:
    """The ids of a job's containers, running or not."""
    return docker("ps", "-aq", "--no-trunc", "--filter", f"label={LABEL}={job_label(work)}").split()


#: What the progress must say of a job that was ended from outside.
REASONS = {"killed": "SIGKILL", "stopped": "SIGTERM", "removed": "was removed"}


def created(work: dict[str, Any], since: float) -> int:
    """How many containers the engine made for a job."""
    return len(
        docker(
            *("events", "--since", str(int(since)), "--until", str(int(time.time()) + 1), "--filter", "event=create"),
            *("--filter", f"label={LABEL}={job_label(work)}", "--format", "{{.ID}}"),
        ).split()
    )


def launch(work: dict[str, Any], folder: Path, env: dict[str, str] | None = None, **settings: str) -> subprocess.Popen[str]:
    """An orchestrator of its own, to be killed."""
    code = (
        "import asyncio, json, sys; from pathlib import Path; from orchestrator.config_training import DockerSection; "
        "from orchestrator.launchers import again, docker; "
        "job, folder, section = json.loads(sys.argv[1]), Path(sys.argv[2]), DockerSection(**json.loads(sys.argv[3])); "
        "asyncio.run(again.until_done(lambda: docker.run_job(job, folder, print, section), print, 2))"
    )
    command = [sys.executable, "-c", code, json.dumps(work), str(folder), json.dumps(settings)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})


def running(work: dict[str, Any]) -> str:
    """The job's container, once it runs."""
    ids = wait_for(lambda: [c for c in containers_of(work) if state(c, ".State.Running") == "true"], "the job's container runs")
    return str(ids[0])


def jobs() -> dict[str, Any]:
    """Kill orchestrators and containers in mid-job, and cancel."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for number, part in enumerate(("found again", "killed", "stopped", "removed", "cancelled")):
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
            elif part == "stopped":
                docker("stop", container)
                again = first
            elif part == "removed":
                docker("rm", "-f", "-v", container)
                again = first
            else:
                first.send_signal(signal.SIGINT)
                first.communicate()
                stopped = state(container, ".State.Running") == "false"
                check(stopped, "Ctrl-C stopped the job's container")
                again = launch(work, folder)
            said, told = again.communicate()
            if part in REASONS:
                told_why = REASONS[part] in said and "'attempt': 1" in said
                check(told_why, f"{part}: the call said {REASONS[part]!r} and started the job again")
            check(again.returncode == 0, f"{part}: it ended well" + (told[-300:] if again.returncode else ""))
            check(versions.read_checkpoint(folder / "checkpoint") is not None, f"{part}: its checkpoint came back")
            check(not containers_of(work), f"{part}: its container is gone")
            figures[part] = round(time.monotonic() - began, 1)
        folder = Path(name) / "memory"
        folder.mkdir()
        work = job(folder, 50)
        small = launch(work, folder, memory="64m")
        said, told = small.communicate()
        check(small.returncode != 0 and "out of memory" in told, "a job with too little memory says so")
        check("attempt" not in said, "it is not started again, which would help nothing")
        docker("rm", "-v", *containers_of(work))
    return {"jobs_s": figures}
