"""The services of a run: started here or given by URL, restarted when they die, and the policy's weights put in place."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from orchestrator import chat_template, process, services, versions
from orchestrator.config import RolloutSection
from orchestrator.config_services import EnvSection, PolicySection
from orchestrator.endpoints import Endpoint
from orchestrator.env_client import EnvClient
from orchestrator.policy_client import PolicyClient, SwapFailed
from orchestrator.policy_container import PolicyContainer

#: Seconds between looks at a policy server whose clients are elsewhere.
WATCH_S = 2.0


class EnvPlacement:
    """The environment service of a run. What is started here outlives this process unless it `ends_with_starter`."""

    def __init__(self, section: EnvSection, owner: str, rollout: RolloutSection, ends_with_starter: bool = False) -> None:
        self._section, self._owner, self._ends_with_starter = section, owner, ends_with_starter
        self._recovering = asyncio.Lock()
        self.client = EnvClient(
            section.addresses, section.name, patience_s=rollout.patience_s, unreachable=None if section.url else self.start
        )

    async def start(self) -> None:
        """Bring it up if it is to run here and does not."""
        if self._section.url is None:
            async with self._recovering:
                service = replace(services.env_service(self._section), ends_with_starter=self._ends_with_starter)
                await services.ensure(service, self._owner)

    def stop(self) -> None:
        """Stop it if this run started it."""
        _stop_own(services.env_service(self._section).name if self._section.url is None else None, self._owner)


class PolicyPlacement:
    """The policy server of a run, and which version it serves."""

    def __init__(self, section: PolicySection, owner: str, rollout: RolloutSection, note: Callable[[str], None] = print) -> None:
        self._section, self._owner, self.note = section, owner, note
        self._recovering = asyncio.Lock()
        self._model: str | None = None
        self.urls = section.addresses
        #: Makes a client in any process that reaches the servers.
        self.connect = partial(
            PolicyClient,
            self.urls,
            section.served_name,
            patience_s=rollout.patience_s,
            turn_timeout_s=rollout.turn_timeout_s,
            template=chat_template.load(section.template) if section.template is not None else None,
        )
        self._container = PolicyContainer(section, section.docker, owner) if section.docker is not None else None
        recover = self._container.reachable if self._container is not None else self._restart_if_dead
        self.client = self.connect(unreachable=None if section.url else recover)

    async def serve(self, model: str) -> str:
        """Have every server answer with `model` (hub id, name or checkpoint directory); returns the version.

        Several servers are changed one at a time, and go on answering meanwhile; one that is started here must be idle.
        """
        self._model = model
        manifest = versions.read_checkpoint(Path(model))
        version = manifest.version if manifest is not None else model
        if self._container is not None and await self._container.start(model):
            self.client.endpoints.all[0].version = None  # what it answered with went with the container before
        if self._section.url is not None or self._container is not None:
            await self._serve_remotely(version, Path(model) if manifest is not None and manifest.probe is not None else None)
        else:
            await self._serve_here(model, swappable=manifest is not None and manifest.probe is not None)
            self.client.endpoints.all[0].version = version
        return version

    async def _serve_here(self, model: str, swappable: bool) -> None:
        running = process.find("policy")
        if running is not None and running.alive() and running.notes.get("loaded") != model:
            if swappable and running.notes.get("settings") == self._settings():
                process.remember(replace(running, notes={**running.notes, "loaded": None}))  # neither, until proved
                try:
                    await versions.swap(self.client, self.client.endpoints.all[0], Path(model), _version(running.notes.get("loaded")))
                except SwapFailed:
                    process.stop(running)
                else:
                    process.remember(replace(running, notes={**running.notes, "loaded": model}))
            else:
                process.stop(running)
        await self._start(model)

    async def _serve_remotely(self, version: str, checkpoint: Path | None) -> None:
        """Without a checkpoint the servers keep the model that they have: `version` names it."""

        async def prepare(endpoint: Endpoint) -> None:
            if checkpoint is not None:
                replaced, endpoint.version = endpoint.version, None  # neither, until proved
                inside = await self._container.bring(checkpoint) if self._container is not None else None
                await versions.swap(self.client, endpoint, checkpoint, replaced, inside)
            endpoint.version = version

        for failure in await self.client.endpoints.replace(prepare):
            self.note(failure)

    async def _start(self, model: str) -> None:
        notes = {"loaded": model, "settings": self._settings()}
        # it may have been started on another version, and swapped since
        await services.ensure(
            services.policy_service(self._section, model), self._owner, notes, same=lambda running: running.notes.get("loaded") == model
        )

    async def _restart_if_dead(self) -> None:
        async with self._recovering:
            if self._model is not None:
                await self._start(self._model)

    @asynccontextmanager
    async def kept_up(self) -> AsyncIterator[None]:
        """Restart a server of this machine when it dies: for rollouts whose clients are elsewhere and cannot. Raises ServiceError."""
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._keep_up())
                yield
                watch.cancel()
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _keep_up(self) -> None:
        while self._section.url is None and self._container is None:
            await asyncio.sleep(WATCH_S)
            running = process.find("policy")
            if running is None or not running.alive():
                await self._restart_if_dead()

    def _settings(self) -> dict[str, object]:
        return self._section.model_dump(mode="json")

    def stop(self) -> None:
        """Stop it if this run started it."""
        if self._container is not None:
            self._container.stop()
        else:
            _stop_own("policy" if self._section.url is None else None, self._owner)


def _version(model: str | None) -> str | None:
    manifest = versions.read_checkpoint(Path(model)) if model is not None else None
    return manifest.version if manifest is not None else None


def _stop_own(name: str | None, owner: str) -> None:
    running = process.find(name) if name is not None else None
    if running is not None and running.owner == owner:
        process.stop(running)
