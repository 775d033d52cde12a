"""The services that can run on this machine: how each is started and when it is ready."""

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from orchestrator import places, process
from orchestrator.config import DEFAULT_MODEL
from orchestrator.config_services import EnvSection, PolicySection
from orchestrator.process import Running, Service

#: A model of some billion weights is downloaded, loaded and compiled in less.
POLICY_START_S = 600.0


@cache
def _tls() -> ssl.SSLContext:
    """One for all: to make it takes longer than a request."""
    return httpx.create_ssl_context()


def _get_ok(url: str, headers: dict[str, str] | None = None) -> Callable[[], Awaitable[bool]]:
    async def ok() -> bool:
        try:
            async with httpx.AsyncClient(timeout=5.0, verify=_tls()) as client:
                return (await client.get(url, headers=headers)).status_code == 200
        except httpx.TransportError:
            return False

    return ok


def env_service(section: EnvSection) -> Service:
    """An environment service on loopback."""
    name, url = f"env-{section.name}", f"http://127.0.0.1:{section.local_port}"
    module = f"env_{section.name}"
    command = [str(places.service_python(name)), "-m", module, "serve", "--port", str(section.local_port)]
    command += ["--max-engines", str(section.max_engines), "--engines-warm", str(min(2, section.max_engines))]
    token = os.environ.get("ETO_ENV_TOKEN")
    return Service(name, command, url, _get_ok(f"{url}/ready", {"Authorization": f"Bearer {token}"} if token else None))


def policy_service(section: PolicySection, model: str) -> Service:
    """vLLM on loopback."""
    command = [str(places.service_python("policy")), "-m", "policy", "serve", "--model", model, "--port", str(section.port)]
    ready = policy_ready(section)
    return Service("policy", [*command, *policy_options(section)], section.local_address, ready, start_timeout_s=POLICY_START_S)


def policy_options(section: PolicySection) -> list[str]:
    """What `python -m policy serve` is told of a section, wherever it runs."""
    options = ["--served-name", section.served_name, "--max-model-len", str(section.max_model_len)]
    options += ["--max-num-seqs", str(section.max_num_seqs), "--device", section.device]
    if section.kv_cache_gib is not None:
        options += ["--kv-cache-gib", f"{section.kv_cache_gib:g}"]
    if section.compile is not None:
        options.append("--compile" if section.compile else "--eager")
    return options


def policy_ready(section: PolicySection) -> Callable[[], Awaitable[bool]]:
    """Whether the server on our loopback answers a one-token completion."""
    url = section.local_address

    async def ready() -> bool:
        if not await _get_ok(f"{url}/health")():
            return False
        token = os.environ.get("ETO_POLICY_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        body = {"model": section.served_name, "prompt": "a", "max_tokens": 1}
        try:
            async with httpx.AsyncClient(timeout=60.0, verify=_tls()) as client:
                return (await client.post(f"{url}/v1/completions", json=body, headers=headers)).status_code == 200
        except httpx.TransportError:
            return False

    return ready


async def prepare_model(name: str) -> str:
    """What both server and trainer load for a model's name: a directory, or the name itself where a hub or the server elsewhere knows it.

    Raises ServiceError where the model cannot be had.
    """
    try:
        python = places.service_python("policy")
    except FileNotFoundError:
        # policy.url names a server elsewhere, which may share its folder of prepared models with us, as in docker-compose.yml
        prepared = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "eto" / "models" / name
        return str(prepared) if (prepared / "manifest.json").exists() else name
    command = [str(python), "-m", "policy", "prepare", name]
    done = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    out, err = await done.communicate()
    if done.returncode != 0:
        raise process.ServiceError(err.decode(errors="replace").strip() or f"{' '.join(command)} ended with code {done.returncode}.")
    return out.decode().strip()


def catalogue() -> dict[str, Callable[[], Service]]:
    """What `eto services` knows, with default settings."""
    return {
        "env-sciworld": lambda: env_service(EnvSection()),
        "env-webshop": lambda: env_service(EnvSection(name="webshop", max_engines=64)),
        "env-alfworld": lambda: env_service(EnvSection(name="alfworld", max_engines=32)),
        "policy": lambda: policy_service(PolicySection(), DEFAULT_MODEL),
    }


async def ensure(
    service: Service, owner: str | None = None, notes: dict[str, Any] | None = None, same: Callable[[Running], bool] = lambda running: False
) -> Running:
    """The service, running and ready. One that runs already is adopted, unless a run of other settings left it behind.

    `same`: whether a running one is what is wanted although it was started by another command.
    """
    running = process.find(service.name)
    if running is not None and running.alive():
        if running.command == service.command or (running.owner is None and running.url == service.url) or same(running):
            # a killed process closes its connections, at which others notice, before it is gone: then it is replaced
            with suppress(process.ServiceEnded):
                await process.wait_ready(service, running)
                return running
        elif running.owner is None:
            raise process.ServiceError(
                f"{service.name} was asked for at {service.url}, but runs here at {running.url}, started by hand. "
                f"Stop it (`eto services down {service.name}`), or give that URL or port in the config."
            )
        else:
            process.stop(running)
    elif await service.ready():
        raise process.ServiceError(
            f"{service.name}: something that was not started here answers at {service.url}. Stop it, or give its URL in the config."
        )
    running = process.start(service, owner, notes)
    try:
        await process.wait_ready(service, running)
    except asyncio.CancelledError:
        process.stop(running)
        raise
    return running
