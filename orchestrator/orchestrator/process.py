"""One way to start a service's process, to wait until it is ready and to stop it: for the CLI, the pipeline, tests and benchmarks."""

import asyncio
import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator import places

POLL_S = 0.2
PR_SET_PDEATHSIG = 1  # linux/prctl.h
#: Begins a start's part of a log.
STARTED = "\n--- "
LONGEST_LINE = 400


class ServiceError(RuntimeError):
    """A local service could not be started or did not become ready; the message ends with its last words."""


class ServiceEnded(ServiceError):
    """Its process ended before it was ready."""


@dataclass(frozen=True)
class Service:
    """A process to run and how to tell that it is ready. `ready` answers without raising.

    One that `ends_with_starter` gets SIGTERM when the process that started it is gone, however that ended; others are left to be adopted.
    """

    name: str
    command: list[str]
    url: str
    ready: Callable[[], Awaitable[bool]]
    environment: dict[str, str] = field(default_factory=dict)
    ends_with_starter: bool = False
    start_timeout_s: float = 300.0


@dataclass(frozen=True)
class Running:
    """A service that runs here, as its state file tells. `owner` is the run that started it, if one did."""

    name: str
    url: str
    pid: int
    born: str  # the process's start time in clock ticks: a pid alone may have been given to another process
    command: list[str]
    log: str
    owner: str | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def alive(self) -> bool:
        """Whether that very process still runs."""
        return _born(self.pid) == self.born

    def last_words(self, lines: int = 8) -> str:
        """The first errors in its log since it was started, where the cause stands, and the log's end."""
        text = Path(self.log).read_text(errors="replace") if Path(self.log).exists() else ""
        said = text.rpartition(STARTED)[2].splitlines()
        errors = [line for line in said[:-lines] if "ERROR" in line or "Error:" in line]
        return "\n".join(line[:LONGEST_LINE] for line in [*errors[:4], *said[-lines:]])


def _born(pid: int) -> str | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]


def _state_file(name: str) -> Path:
    return places.state_dir() / "services" / f"{name}.json"


def find(name: str) -> Running | None:
    """The service as last started here, alive or not."""
    try:
        return Running(**json.loads(_state_file(name).read_text()))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return None


def find_all() -> list[Running]:
    """Every service with a state file."""
    files = sorted((places.state_dir() / "services").glob("*.json"))
    return [r for f in files if (r := find(f.stem)) is not None]


def remember(running: Running) -> None:
    """Write the state file, whole or not at all."""
    file = _state_file(running.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(asdict(running)))
    os.replace(part, file)


def end_with_parent() -> None:
    """Between fork and exec: the child gets SIGTERM when the thread that started it ends, which every process does with its last one."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def start(service: Service, owner: str | None = None, notes: dict[str, Any] | None = None) -> Running:
    """Start the process in a session of its own, so that it can outlive a killed orchestrator and be adopted by the next."""
    previous = find(service.name)
    if previous is not None:
        stop(previous)  # what a killed service left in its process group
    log = places.state_dir() / "logs" / f"{service.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as out:
        out.write(f"{STARTED}{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {' '.join(service.command)}\n".encode())
        process = subprocess.Popen(
            service.command,
            env={**os.environ, **service.environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent if service.ends_with_starter else None,
        )
    born = _born(process.pid) or "gone"
    running = Running(service.name, service.url, process.pid, born, service.command, str(log), owner, notes or {})
    remember(running)
    return running


async def wait_ready(service: Service, running: Running) -> None:
    """Poll until ready. Raises ServiceEnded when the process ends, ServiceError when the time is over."""
    deadline = time.monotonic() + service.start_timeout_s
    while not await service.ready():
        _reap(running.pid)
        if not running.alive():
            raise ServiceEnded(f"{service.name} ended while starting. Its last words ({running.log}):\n{running.last_words()}")
        if time.monotonic() > deadline:
            stop(running)
            raise ServiceError(
                f"{service.name} was not ready after {service.start_timeout_s:.0f} s and was stopped. "
                f"Its last words ({running.log}):\n{running.last_words()}"
            )
        await asyncio.sleep(POLL_S)


def stop(running: Running, timeout_s: float = 20.0) -> None:
    """End the process group: SIGTERM, then SIGKILL for what is left. Forgets the service."""
    if running.alive():
        _signal_group(running.pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        while running.alive() and time.monotonic() < deadline:
            _reap(running.pid)
            time.sleep(0.05)
    # the group may outlive its leader (a model server's engine after kill -9); its id cannot be reused while it has members
    if _born(running.pid) in (None, running.born):
        _signal_group(running.pid, signal.SIGKILL)
    _reap(running.pid)
    _state_file(running.name).unlink(missing_ok=True)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
