"""Training jobs as subprocesses of this machine, under accelerate when a config file is given."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from orchestrator import places
from orchestrator.process import end_with_parent

#: A progress line is short; a longer one is none of ours.
LINE_LIMIT = 1 << 20
#: By hand, by the kernel for want of memory, or by a scheduler that preempts.
ENDED_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)


class JobFailed(RuntimeError):
    """A training job ended without a checkpoint."""


class JobKilled(JobFailed):
    """It was ended from outside, and would resume from its last saved state. `reason` in a few words."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


def job_command(job_file: Path, accelerate: Path | None, python: str | None = None) -> list[str]:
    """The command line of a job, by the trainer's interpreter of this checkout unless another is given."""
    python = python or str(places.service_python("trainer"))
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(accelerate)] if accelerate else []
    return [python, *launcher, "-m", "trainer", str(job_file)]


def check_trackers(names: Sequence[str]) -> None:
    """Look whether the trainer of this machine has the packages that report_to names. Raises JobFailed."""
    code = "import sys; from importlib.util import find_spec; print(*(n for n in sys.argv[1:] if find_spec(n) is None))"
    python = places.service_python("trainer")
    done = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, timeout=60, check=True)
    if missing := done.stdout.split():
        raise JobFailed(
            f"trainer.report_to names {', '.join(missing)}, not installed beside the trainer: install it with "
            f"`uv pip install --python {python.parent.parent} {' '.join(missing)}`, or leave it out."
        )


async def run_job(job: dict[str, Any], folder: Path, progress: Callable[[dict[str, Any]], None], accelerate: Path | None = None) -> None:
    """Run a job to its end, passing on its progress lines. Raises JobFailed, JobKilled; cancelling stops the process."""
    folder.mkdir(parents=True, exist_ok=True)
    job_file, log = folder / "job.json", folder / "trainer.log"
    job_file.write_text(json.dumps(job, indent=1))
    error = ""
    with open(log, "ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *job_command(job_file, accelerate),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            limit=LINE_LIMIT,
            start_new_session=True,
            # a job whose orchestrator was killed would train against the one that a resumed run starts
            preexec_fn=end_with_parent,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None  # noqa: S101 - asked for above
        try:
            async for line in process.stdout:
                event = progress_event(line)
                if event.get("event") == "error":
                    error = str(event.get("message", ""))
                progress(event)
            code = await process.wait()
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    await asyncio.wait_for(process.wait(), 20)
                except TimeoutError:
                    os.killpg(process.pid, signal.SIGKILL)
    if code != 0:
        reason = f"the {job['method']} job ended with {_exit(code)}"
        message = f"{reason}: {error or _tail(log)}\nJob: {job_file}. Log: {log}. Run again to resume."
        raise JobKilled(reason, message) if code in ENDED_FROM_OUTSIDE else JobFailed(message)


def progress_event(line: bytes) -> dict[str, Any]:
    """A progress line's content; empty for lines of another kind."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _exit(code: int) -> str:
    if code == -signal.SIGKILL:
        return "SIGKILL (out of memory, or killed by hand)"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-10:])
