"""Starts a service as a process, waits until it is ready, stops it: for tests, benchmarks and whoever runs services locally."""

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

STOP_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class RunningService:
    """A service that answers at `url`."""

    url: str
    process: subprocess.Popen[str]

    def stop(self) -> int:
        """End the service as SIGTERM does, or by force; return its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextlib.contextmanager
def running_service(
    module: str,
    options: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    ready_timeout_s: float = 60,
    python: str = sys.executable,
) -> Iterator[RunningService]:
    """Serve a module on a free port of this machine while the block runs. Its log goes to this process's standard error."""
    service = start_service(module, options, variables, python)
    try:
        wait_until_ready(service, ready_timeout_s)
        yield service
    finally:
        service.stop()


def start_service(
    module: str, options: Sequence[str] = (), variables: Mapping[str, str] | None = None, python: str = sys.executable
) -> RunningService:
    """Start a service on a free port; it listens, but may not be ready yet. `python` is the interpreter that has the module."""
    process = subprocess.Popen(
        [python, "-m", module, "serve", "--port", "0", *options],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(variables or {})},
    )
    assert process.stdout is not None  # noqa: S101 - asked for above
    url = process.stdout.readline().strip().rpartition(" ")[2]
    if not url.startswith("http"):
        raise RuntimeError(f"{module} was to be served, but ended with status {process.wait()}; read its log above")
    return RunningService(url, process)


def wait_until_ready(service: RunningService, timeout_s: float) -> None:
    """Return when an episode can start."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{service.url}/ready", timeout=5):  # noqa: S310
            return
        if (status := service.process.poll()) is not None:
            raise RuntimeError(f"The service at {service.url} was waited for, but ended with status {status}; read its log")
        time.sleep(0.05)
    raise TimeoutError(f"The service at {service.url} was waited for, but was not ready in {timeout_s:g} s; read its log")
