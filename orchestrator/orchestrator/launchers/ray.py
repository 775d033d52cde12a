"""Training jobs on a Ray cluster, by Ray Jobs: one outlives its orchestrator and is found again; one whose node died goes on elsewhere.

Nodes must see the run's folder and the model under the same paths (a shared disk), for the job file names them.
"""

import asyncio
import hashlib
import json
import logging
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator import ray_cluster, versions
from orchestrator.config_training import RayJobsSection
from orchestrator.http import Unavailable
from orchestrator.launchers import local
from orchestrator.launchers.local import JobFailed

#: How often a job whose node was lost is submitted again by one call.
RESUBMISSIONS = 5
#: Ray's names (JobErrorType) for a job that ended because its supervisor did, which is on its node.
LOST = frozenset({"JOB_SUPERVISOR_ACTOR_DIED", "JOB_SUPERVISOR_ACTOR_START_FAILURE", "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE"})
POLL_S = 1.0
#: Seconds for which the job server may be away.
PATIENCE_S = 600.0


async def run_job(
    job: dict[str, Any], folder: Path, progress: Callable[[dict[str, Any]], None], section: RayJobsSection, accelerate: Path | None = None
) -> None:
    """Run a job to its end, or go on with the one that runs already; one whose node is lost is submitted again, RESUBMISSIONS times.

    Raises JobFailed, Unavailable; cancelling stops it on the cluster.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    job_file = folder / "job.json"
    job_file.write_text(json.dumps(job, indent=1))
    client = await _reach(ray_cluster.load("ray.job_submission").JobSubmissionClient, section.address)
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # it tells of every connection that it closes
    base = f"eto-{job['method']}-{hashlib.sha256(job_file.read_bytes()).hexdigest()[:12]}"
    known = {j.submission_id: j for j in await _reach(client.list_jobs)}
    number = sum(1 for name in known if name and name.startswith(f"{base}-"))
    last = known.get(f"{base}-{number}")
    going = last is not None and not last.status.is_terminal()
    if going:
        _note(progress, f"{base}-{number} is on the cluster already: it goes on.")
    for left in reversed(range(RESUBMISSIONS + 1)):
        if not going:
            number += 1
            await _submit(client, f"{base}-{number}", job_file, section, accelerate)
        going = False
        told = await _follow(client, f"{base}-{number}", folder / "trainer.log", progress)
        info = told.info
        if str(info.status) == "SUCCEEDED" and versions.read_checkpoint(Path(job["output"])) is not None:
            return
        if not _lost(info):
            break
        if left:
            _note(progress, f"the node of {base}-{number} was lost: it is submitted again and resumes ({left} times at most).")
    raise JobFailed(
        f"the {job['method']} job ended on the cluster: {_why(info, told.error)}\nJob: {job_file}, {base}-{number} at {section.address}. "
        f"Log: {folder / 'trainer.log'}. Run again to resume."
    )


def _note(progress: Callable[[dict[str, Any]], None], message: str) -> None:
    progress({"event": "note", "message": message})


def _lost(info: Any) -> bool:
    return info.driver_exit_code is None and str(info.status) == "FAILED" and str(info.error_type) in LOST


def _why(info: Any, error: str) -> str:
    code = info.driver_exit_code
    if _lost(info):
        return f"its node was lost, and so were those of {RESUBMISSIONS} more tries: {str(info.message or '').strip()[:500]}"
    if code is None:
        return f"{info.status}, {str(info.message or '').strip()[:500]}"
    if code in (-9, 137):
        return "SIGKILL (out of memory, or killed by hand)"
    if code == 0:
        return "it said it was done, but its checkpoint is not to be seen here: is the run's folder on a disk that the nodes share?"
    return f"exit code {code}: {error or str(info.message or '').strip()[-1000:]}"


async def _reach(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """A call of Ray's blocking client, again while the server is away."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        try:
            return await asyncio.to_thread(call, *arguments, **options)
        except ConnectionError as error:
            reason = str(error)
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(f"no Ray job server: {reason} Is trainer.ray.address right?") from error
        await asyncio.sleep(POLL_S)


async def _submit(client: Any, name: str, job_file: Path, section: RayJobsSection, accelerate: Path | None) -> None:
    """Cancelled while it submits, the job is stopped when it is there: the thread that submits it cannot be interrupted."""
    command = local.job_command(job_file, accelerate, section.python)
    call = _reach(
        client.submit_job,
        entrypoint=shlex.join(command),
        submission_id=name,
        runtime_env={"env_vars": {"PYTHONUNBUFFERED": "1"}},
        entrypoint_num_cpus=section.cpus,
        entrypoint_num_gpus=section.gpus,
        entrypoint_resources=section.resources or None,
    )
    submitting = asyncio.create_task(call)
    try:
        await asyncio.shield(submitting)
    except asyncio.CancelledError:
        await submitting
        await _stop(client, name)
        raise


async def _stop(client: Any, name: str) -> None:
    """Raises JobFailed where it cannot be reached: it may run on."""
    try:
        await asyncio.to_thread(client.stop_job, name)
    except (ConnectionError, RuntimeError) as error:
        raise JobFailed(f"{name} could not be stopped and may run on: {error}") from error


class _Told:
    """What a job's log and state said."""

    def __init__(self) -> None:
        self.error = ""
        self.info: Any = None


async def _follow(client: Any, name: str, log: Path, progress: Callable[[dict[str, Any]], None]) -> _Told:
    """Pass on progress lines until the job has ended. Where the connection breaks, the log is read again from its beginning."""
    told = _Told()
    try:
        while True:
            told.info = await _reach(client.get_job_info, name)
            if str(told.info.status) != "PENDING":
                await _read(client, name, log, progress, told)
                told.info = await _reach(client.get_job_info, name)
            if told.info.status.is_terminal():
                return told
            await asyncio.sleep(POLL_S)
    except asyncio.CancelledError:
        await _stop(client, name)
        raise


async def _read(client: Any, name: str, log: Path, progress: Callable[[dict[str, Any]], None], told: _Told) -> None:
    rest = ""
    aiohttp = ray_cluster.load("aiohttp")
    with open(log, "w", encoding="utf-8") as out:
        try:
            async for chunk in client.tail_job_logs(name):
                *lines, rest = (rest + chunk).split("\n")
                for line in lines:
                    event = local.progress_event(line.encode())
                    if event:
                        told.error = str(event.get("message", "")) if event.get("event") == "error" else told.error
                        progress(event)
                    else:
                        out.write(line + "\n")
        except (RuntimeError, aiohttp.ClientError) as error:
            out.write(f"[the connection to the job's log broke: {error}]\n")
