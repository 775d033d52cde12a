"""The policy server as a container of a Docker engine, here or behind ssh: started, found again by its label, given weights.

It listens on its host's loopback only, since whoever reaches it may change its weights; an engine behind ssh is reached through a tunnel.
Weights travel: a checkpoint is copied into the container's volume, and the server loads it from there.
"""

import asyncio
import hashlib
import json
import os
import time
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import SplitResult, urlsplit

from orchestrator import engine, process, services, versions
from orchestrator.config_services import PolicyDockerSection, PolicySection
from orchestrator.policy_client import SwapFailed
from orchestrator.process import Service, ServiceError

LABEL = "eto.policy"
#: The settings that a container was made with, and the folder of its first model.
SETTINGS, FIRST = f"{LABEL}.settings", f"{LABEL}.first"
TUNNEL = "policy-tunnel"
#: A volume of the image's user (services/policy/Dockerfile).
INSIDE = PurePosixPath("/models")
PORT = 8000  # inside
STOP_S = 20
#: What of a model's config.json must be the same for its weights to fit into a running server.
SHAPE = frozenset(
    {
        *("architectures", "vocab_size", "hidden_size", "intermediate_size", "tie_word_embeddings"),
        *("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    }
)
LOG_LINES = 12


class PolicyContainer:
    """The server of a run."""

    def __init__(self, section: PolicySection, docker: PolicyDockerSection, owner: str) -> None:
        self._section, self._docker, self._owner = section, docker, owner
        self._network = f"eto-policy-{hashlib.sha256(owner.encode()).hexdigest()[:12]}"
        self._container: Any = None

    async def start(self, model: str) -> bool:
        """Have a server up that can take `model`: the one that there is, or a new one started on it. Returns whether it is new.

        Raises ServiceError, Unavailable.
        """
        docker = engine.sdk()
        label = self._label(model)
        try:
            client = await engine.reach(engine.connect, self._docker.engine)
            self._container = await engine.reach(self._found, client, label)
            new = self._container is None
            if new:
                self._container = await engine.reach(self._created, client, label, model)
                await engine.reach(self._filled_and_started, model)
        except docker.errors.ImageNotFound as missing:
            raise ServiceError(f"the engine has no image {self._docker.image}. Build it there first (docs/containers.md).") from missing
        except docker.errors.APIError as refusal:
            raise ServiceError(f"the engine refused the policy's container: {refusal.explanation or refusal}") from refusal
        await self.reachable()
        deadline, ready = time.monotonic() + services.POLICY_START_S, services.policy_ready(self._section)
        while not await ready():
            await engine.reach(self._container.reload)
            ended = self._container.attrs["RestartCount"] > 0 or not self._container.attrs["State"]["Running"]
            if ended or time.monotonic() > deadline:
                said = (await engine.reach(self._container.logs, tail=LOG_LINES)).decode(errors="replace")
                raise ServiceError(f"the policy's container {'ended' if ended else 'was not ready'}. Its last words:\n{said}")
            await asyncio.sleep(engine.POLL_S)
        return new

    async def reachable(self) -> None:
        """Have a tunnel to the server up, where it needs one. Raises ServiceError."""
        if (host := ssh_host(self._docker.engine)) is not None:
            await engine.reach(self._container.reload)
            published = self._container.ports.get(f"{PORT}/tcp")
            if not published:
                return  # it is starting again, and gets its port then
            command, address = tunnel(host, self._section.port, int(published[0]["HostPort"])), self._section.local_address
            await services.ensure(Service(TUNNEL, command, address, partial(_listening, self._section.port)), self._owner)

    async def bring(self, checkpoint: Path) -> PurePosixPath:
        """Copy a checkpoint to where the server reads it, unless it is there; returns its place. Raises SwapFailed.

        Of the others only that one stays on which the container starts again after a crash.
        """
        name, first = _place(checkpoint), self._container.labels[FIRST]
        try:
            there, _ = await engine.reach(self._container.exec_run, ["test", "-d", name], workdir=str(INSIDE))
            if there != 0:
                await engine.reach(engine.send, self._container, INSIDE, {f"{name}.part": checkpoint})
                others = f'for d in v-*; do [ "$d" = "{name}" ] || [ "$d" = "{first}" ] || rm -rf "$d"; done'
                keep = f"{{ [ -d {name} ] || mv {name}.part {name}; }} && {others}"
                code, said = await engine.reach(self._container.exec_run, ["sh", "-c", keep], workdir=str(INSIDE))
                if code != 0:
                    raise SwapFailed(f"{checkpoint} could not be put into the policy's container: {said.decode(errors='replace').strip()}")
        except engine.sdk().errors.APIError as refusal:
            raise SwapFailed(f"{checkpoint} could not be copied into the policy's container: {refusal.explanation or refusal}") from refusal
        return INSIDE / name

    def stop(self) -> None:
        """Remove the container with its volume and network, and the tunnel. Raises ServiceError where the engine does not answer."""
        if (tunnel := process.find(TUNNEL)) is not None and tunnel.owner == self._owner:
            process.stop(tunnel)
        if self._container is not None:
            try:
                self._container.stop(timeout=STOP_S)
                for ours in self._ours(self._container.client):
                    ours.remove(v=True, force=True)
                self._container.client.networks.get(self._network).remove()
            except OSError as error:  # what the SDK raises is one
                name, where = self._container.name, self._docker.engine or "this machine's engine"
                raise ServiceError(f"the policy's container {name} on {where} could not be removed: {error}. Remove it there.") from error

    def _found(self, client: Any, label: str) -> Any:
        """The run's running container of the same settings; others of the run are removed."""
        for found in self._ours(client):
            if found.labels.get(SETTINGS) == label and found.attrs["State"]["Running"]:
                return found
            found.remove(v=True, force=True)
        return None

    def _ours(self, client: Any) -> list[Any]:
        """All of the run: more than one where the answer to a creation was lost."""
        found: list[Any] = client.containers.list(all=True, filters={"label": f"{LABEL}={self._owner}"})
        return found

    def _created(self, client: Any, label: str, model: str) -> Any:
        path = Path(model)
        name = _place(path) if path.is_dir() else None
        options = container_options(self._section, self._docker, str(INSIDE / name) if name else model)
        if not client.networks.list(names=[f"^{self._network}$"]):
            client.networks.create(self._network)
        options["network"] = self._network  # of its own: others on a shared one could reach it too
        options["labels"] = {LABEL: self._owner, SETTINGS: label, FIRST: name or ""}
        return client.containers.create(**options)

    def _filled_and_started(self, model: str) -> None:
        if name := self._container.labels[FIRST]:
            engine.send(self._container, INSIDE, {name: Path(model)})
        self._container.start()

    def _label(self, model: str) -> str:
        """The same for all models that one server can take: settings and architecture, or the name of a model that is not here."""
        config = Path(model) / "config.json"
        shape = {k: v for k, v in json.loads(config.read_text()).items() if k in SHAPE} if config.is_file() else model
        settings = [self._section.model_dump(mode="json"), shape]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def ssh_host(address: str | None) -> SplitResult | None:
    """Where an engine behind ssh is, by its address or DOCKER_HOST; None for an engine that needs no tunnel."""
    parts = urlsplit(address or os.environ.get("DOCKER_HOST") or "")
    return parts if parts.scheme == "ssh" else None


def tunnel(host: SplitResult, port: int, there: int) -> list[str]:
    """The command that carries a port of our loopback to one of a host's loopback."""
    options = [word for option in ("BatchMode=yes", "ExitOnForwardFailure=yes", "ServerAliveInterval=15") for word in ("-o", option)]
    to = ["-p", str(host.port), host.netloc.rpartition(":")[0]] if host.port else [host.netloc]
    return ["ssh", "-N", *options, "-L", f"127.0.0.1:{port}:127.0.0.1:{there}", *to]


async def _listening(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def _place(model: Path) -> str:
    """A name for a directory's weights in the volume."""
    manifest = versions.read_checkpoint(model)
    return f"v-{manifest.version}" if manifest is not None else f"v-{hashlib.sha256(str(model.resolve()).encode()).hexdigest()[:12]}"


def container_options(section: PolicySection, docker: PolicyDockerSection, model: str) -> dict[str, Any]:
    """The arguments of the SDK's `containers.create`."""
    types = engine.sdk().types
    command = ["serve", "--model", model, "--host", "0.0.0.0", "--port", str(PORT)]  # noqa: S104 - published on loopback only
    return {
        "image": docker.image,
        "command": [*command, *services.policy_options(section), "--dev-endpoints", "--allow-anonymous"],
        "environment": {"ETO_POLICY_TOKEN": token} if (token := os.environ.get("ETO_POLICY_TOKEN")) else {},
        # behind ssh any port does, as the tunnel leads to it
        "ports": {f"{PORT}/tcp": ("127.0.0.1", None if ssh_host(docker.engine) else section.port)},
        "mounts": [types.Mount(str(INSIDE), None, type="volume")],
        "device_requests": [types.DeviceRequest(count=docker.gpus, capabilities=[["gpu"]])] if docker.gpus else None,
        "mem_limit": docker.memory,
        "shm_size": docker.shm_size,
        "restart_policy": {"Name": "unless-stopped"},
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "init": True,
        "tmpfs": {"/tmp": "exec,mode=1777", "/home/eto": "exec,uid=10001,gid=10001"},  # noqa: S108 - inside the container
    }
