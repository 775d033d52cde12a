"""A Docker engine, here or elsewhere: reached again after a cut, and files sent into its containers."""

import asyncio
import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from urllib3.exceptions import HTTPError

from orchestrator.http import Unavailable

POLL_S = 1.0
#: Seconds for which the engine may be away.
PATIENCE_S = 600.0
#: The user of all our images.
USER = 10001


def sdk() -> Any:
    """The Docker SDK, imported here so that --help stays instant."""
    import docker

    return docker


def connect(address: str | None) -> Any:
    """A client of the engine at an address; None: DOCKER_HOST, or this machine's socket. Raises Unavailable."""
    docker = sdk()
    environment = {**os.environ, **({"DOCKER_HOST": address} if address else {})}
    made = partial(docker.from_env, environment=environment, use_ssh_client=True)
    try:
        # `trust_env`: requests would put REQUESTS_CA_BUNDLE in the place of the engine's own authority. A client that is not told a
        # version asks for it while it is made, before that can be said.
        asking = made(version=docker.constants.MINIMUM_DOCKER_API_VERSION)
        asking.api.trust_env = False
        client = made(version=asking.version(api_version=False)["ApiVersion"])
        client.api.trust_env = False
        asking.close()
        return client
    except (docker.errors.DockerException, OSError) as error:
        raise Unavailable(f"no container engine at {address or environment.get('DOCKER_HOST', 'its usual socket')}: {error}") from error


async def reach(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """A blocking call of the SDK, again while the engine cannot be reached. Raises Unavailable, or the SDK's APIError at once.

    A connection may break after the engine has done what it was asked, so the call must be one that may be made twice.
    """
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        try:
            return await asyncio.to_thread(call, *arguments, **options)
        except (OSError, HTTPError) as error:  # of requests and, while a log is read, of urllib3; refusals by the engine too
            if isinstance(error, sdk().errors.APIError):
                raise
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(f"the container engine cannot be reached: {error}") from error
        await asyncio.sleep(POLL_S)


def send(container: Any, inside: PurePosixPath, files: Mapping[str, Path], texts: Mapping[str, bytes] | None = None) -> None:
    """Copy files and folders of this machine, and texts, into a container's folder, by their names there."""

    def readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = USER
        entry.mode |= 0o444 | (0o111 if entry.isdir() else 0)
        return entry

    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w", dereference=True) as tar:
            for name, path in files.items():
                tar.add(path, name, filter=readable)
            for name, text in (texts or {}).items():
                entry = tarfile.TarInfo(name)
                entry.size = len(text)
                tar.addfile(readable(entry), io.BytesIO(text))
        file.seek(0)
        container.put_archive(str(inside), file)
