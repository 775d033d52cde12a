"""The way to a Ray cluster. Ray is an extra: imported where a configuration wants it and nowhere else."""

import asyncio
import importlib
import os
from typing import Any

from orchestrator import places
from orchestrator.config import ConfigError
from orchestrator.http import Unavailable

#: Ray would report how it is used.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
#: Seconds for the cluster's port to open.
KNOCK_S = 20.0


def load(module: str = "ray") -> Any:
    """The module. Raises ConfigError where Ray is not installed."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise ConfigError(
            f"the configuration uses Ray, which is not installed here. Run `make ray` in {places.root()} "
            "(it adds orchestrator/requirements-ray.txt), or take the `ray` sections out."
        ) from error


async def connect(address: str) -> Any:
    """Ray, connected to the cluster. Raises Unavailable."""
    ray = load()
    if ray.is_initialized():
        return ray
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit():  # Ray itself looks for a cluster that is not there for many minutes
            async with asyncio.timeout(KNOCK_S):
                (await asyncio.open_connection(host, int(port)))[1].close()
        # in a thread: in the main one Ray would take the handler of SIGTERM from us
        await asyncio.to_thread(ray.init, address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:  # a ConnectionError and a TimeoutError are OSErrors
        raise Unavailable(
            f"no Ray cluster answers at {address} ({_first_line(error)}). This machine must be a node of it: "
            "`ray start --address HEAD:6379 --num-cpus 0` makes it one without giving it work."
        ) from error
    return ray


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
