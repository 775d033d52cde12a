"""Training jobs as containers of a Docker engine, here or elsewhere. One outlives its orchestrator and is found again by its label.

With mounts (a volume or a folder that both sides see under the same path) the job file's paths are used as they are. Without,
the job's files are copied into a volume of the container's own, and the checkpoint is copied back.
"""

import asyncio
import hashlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator import engine, versions
from orchestrator.config_training import DockerSection
from orchestrator.launchers import local
from orchestrator.launchers.local import JobFailed, JobKilled
from orchestrator.run_store import file_sha256

LABEL = "eto.job"
#: The image's folder for a job whose files travel (services/trainer/Dockerfile).
INSIDE = PurePosixPath("/job")
STOP_S = 20
#: The trainer's exit code for a job that it refuses: to start it again would change nothing.
REFUSED = 2
#: The engine's answers about a container that is not there, or is being removed.
GONE = (404, 409)
#: Exit codes of SIGKILL and SIGTERM.
ENDED_FROM_OUTSIDE = {137: "SIGKILL (killed by hand, or the machine was out of memory)", 143: "SIGTERM (stopped or preempted)"}
#: The parts of a job that may name a file or folder; `model` may be a hub id as well.
FILES = ("model", "data")

Progress = Callable[[dict[str, Any]], None]


def job_label(job: dict[str, Any], mounts: Sequence[str] = ()) -> str:
    """What tells a job's container from others: the same job on the same files, the same container.

    Paths are not enough: runs of one name lie at /runs/NAME in every system of containers, and several may use one engine.
    """
    files = {key: _content(Path(str(job.get(key)))) for key in FILES}
    return hashlib.sha256(json.dumps([job, list(mounts), files], sort_keys=True).encode()).hexdigest()[:16]


def _content(path: Path) -> str | None:
    """A file's SHA-256, a checkpoint's version."""
    if path.is_file():
        return file_sha256(path)
    manifest = versions.read_checkpoint(path)
    return manifest.version if manifest is not None else None


def packed(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Path]]:
    """The job as it reads inside the container, and the files and folders of this machine that it needs, by their name in /job."""
    inside, needs = {**job, "output": str(INSIDE / "output")}, {}
    for key in FILES:
        path = Path(str(job.get(key)))
        if path.exists():
            name = key + (path.suffix if path.is_file() else "")
            needs[name] = path
            inside[key] = str(INSIDE / name)
    return inside, needs


def container_options(job: dict[str, Any], job_file: str, section: DockerSection) -> dict[str, Any]:
    """The arguments of the SDK's `containers.create`."""
    types = engine.sdk().types
    mounts = []
    for text in section.mounts:
        source, target, *mode = text.split(":")
        kind = "bind" if source.startswith("/") else "volume"
        mounts.append(types.Mount(target, source, type=kind, read_only=mode == ["ro"]))
    if not mounts:
        mounts.append(types.Mount(str(INSIDE), None, type="volume"))
    gpus = [types.DeviceRequest(count=section.gpus, capabilities=[["gpu"]])] if section.gpus else None
    label = job_label(job, section.mounts)
    return {
        "image": section.image,
        "command": [job_file],
        "name": f"eto-{job['method']}-{label}",
        "labels": {LABEL: label},
        "mounts": mounts,
        "device_requests": gpus,
        "mem_limit": section.memory,
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "network_mode": "none",
        "init": True,
        "tmpfs": {"/tmp": "exec,mode=1777", "/home/eto": "exec,uid=10001,gid=10001"},  # noqa: S108 - inside the container
    }


def exit_reason(state: dict[str, Any], error: str) -> str:
    """Why a container ended, from its `State`."""
    code = int(state.get("ExitCode", -1))
    if state.get("OOMKilled"):
        return "out of memory (raise trainer.docker.memory, or train with less at a time)"
    if code in ENDED_FROM_OUTSIDE:
        return ENDED_FROM_OUTSIDE[code]
    return f"exit code {code}: {error or state.get('Error') or 'its log says why'}"


async def run_job(job: dict[str, Any], folder: Path, progress: Progress, section: DockerSection) -> None:
    """Run a job to its end, or go on with its container if there is one. Cancelling stops the container.

    Raises JobFailed; JobKilled where to run it again would help; Unavailable.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    here = {key: str(Path(job[key]).resolve()) for key in FILES if Path(str(job.get(key))).exists()}
    job = {**job, **here}
    (folder / "job.json").write_text(json.dumps(job, indent=1))
    sdk = engine.sdk()
    try:
        client = await engine.reach(engine.connect, section.engine)
        container = await _started(client, job, folder, section)
        try:
            error = await _follow(container, progress)
            await engine.reach(container.reload)
            log = await engine.reach(container.logs, stdout=False, stderr=True)
        except sdk.errors.APIError as gone:
            if gone.status_code not in GONE:
                raise
            with suppress(sdk.errors.NotFound):
                await engine.reach(container.wait, condition="removed")
            reason = f"the container of the {job['method']} job was removed"
            raise JobKilled(reason, f"{reason}. Run again to resume.") from gone
        (folder / "trainer.log").write_bytes(log)
        state = container.attrs["State"]
        output = Path(job["output"])
        if state["ExitCode"] == 0 and not section.mounts:
            await engine.reach(_fetch, container, output)
    except sdk.errors.APIError as refusal:
        raise JobFailed(f"the engine refused the {job['method']} job: {refusal.explanation or refusal}") from refusal
    if state["ExitCode"] != 0:
        reason = f"the {job['method']} job ended: {exit_reason(state, error)}"
        message = f"{reason}\nLog: {folder / 'trainer.log'}. Run again to resume."
        killed = state["ExitCode"] in ENDED_FROM_OUTSIDE and not state.get("OOMKilled")
        raise JobKilled(reason, message) if killed else JobFailed(message)
    if versions.read_checkpoint(output) is None:
        raise JobFailed(f"the job ended well, but {output} is not to be seen here: do trainer.docker.mounts name what both sides share?")
    await engine.reach(container.remove, v=True)


async def _started(client: Any, job: dict[str, Any], folder: Path, section: DockerSection) -> Any:
    """The job's container. Cancelled while it starts, it is stopped when it has: the thread that starts it cannot be interrupted."""
    starting = asyncio.create_task(engine.reach(_container, client, job, folder, section))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        container = await starting
        await asyncio.to_thread(container.stop, timeout=STOP_S)
        raise


def _container(client: Any, job: dict[str, Any], folder: Path, section: DockerSection) -> Any:
    """The job's container, started: the one that there is, or a new one."""
    image = client.images.get(section.image)
    for found in client.containers.list(all=True, filters={"label": f"{LABEL}={job_label(job, section.mounts)}"}):
        state = found.attrs["State"]
        if state["Running"] or (state["Status"] == "exited" and state["ExitCode"] == 0):
            return found
        if state["Status"] == "exited" and state["ExitCode"] != REFUSED and found.image.id == image.id:
            found.start()  # its volume holds what it had done
            found.reload()
            return found
        found.remove(v=True, force=True)
    if section.mounts:
        container = client.containers.create(**container_options(job, str(folder / "job.json"), section))
    else:
        inside, needs = packed(job)
        container = client.containers.create(**container_options(job, str(INSIDE / "job.json"), section))
        _send(container, inside, needs)
    container.start()
    container.reload()
    return container


def _send(container: Any, inside: dict[str, Any], needs: dict[str, Path]) -> None:
    engine.send(container, INSIDE, needs, {"job.json": json.dumps(inside).encode()})


def _fetch(container: Any, output: Path) -> None:
    """Copy the checkpoint here; it appears under its name when it is whole."""
    if versions.read_checkpoint(output) is not None:
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    chunks, _ = container.get_archive(str(INSIDE / "output"))
    with tempfile.TemporaryDirectory(dir=output.parent) as partial, tempfile.TemporaryFile() as file:
        for chunk in chunks:
            file.write(chunk)
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:
            tar.extractall(partial, filter="data")
        if output.exists():
            shutil.rmtree(output)
        (Path(partial) / "output").rename(output)


async def _follow(container: Any, progress: Progress) -> str:
    """Pass on progress lines until the container has ended; returns its last error line. A cut connection is taken up again."""
    loop = asyncio.get_running_loop()
    passed, error = 0, ""

    def read() -> None:
        nonlocal passed, error
        rest, number = b"", 0
        for chunk in container.logs(stdout=True, stderr=False, stream=True, follow=True):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                number += 1
                if number > passed:
                    passed = number
                    event = local.progress_event(line)
                    if event:
                        error = str(event.get("message", "")) if event.get("event") == "error" else error
                        loop.call_soon_threadsafe(progress, event)

    try:
        while True:
            await engine.reach(read)
            await engine.reach(container.reload)
            if not container.attrs["State"]["Running"]:
                return error
            await asyncio.sleep(engine.POLL_S)
    except asyncio.CancelledError:
        container.stop(timeout=STOP_S)
        raise
