"""Real services for the tests across them, started the way `eto` starts them, with state and ports of their own."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from orchestrator.config_services import EnvSection
from tiny_run import free_port


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Pid files and logs of this test session; whatever is left running is stopped."""
    folder = tmp_path_factory.mktemp("state")
    os.environ["ETO_STATE"] = str(folder)
    from orchestrator import process

    yield folder
    for running in process.find_all():
        process.stop(running)


def served(section: EnvSection) -> Iterator[str]:
    """The URL of an environment's service on a port of its own, on generated data where the environment has such."""
    from orchestrator import process, services

    os.environ |= {"ETO_WEBSHOP_CATALOGUE": "sample", "ETO_ALFWORLD_SAMPLE": "1"}
    service = services.env_service(section)
    running = asyncio.run(services.ensure(service))
    yield service.url
    process.stop(running)


@pytest.fixture(scope="session")
def sciworld(state: Path) -> Iterator[str]:
    """The URL of a ScienceWorld service with four sessions."""
    yield from served(EnvSection(port=free_port(), max_engines=4))


@pytest.fixture(scope="session")
def webshop(state: Path) -> Iterator[str]:
    """The URL of a WebShop service on the sample."""
    yield from served(EnvSection(name="webshop", port=free_port(), max_engines=8))


@pytest.fixture(scope="session")
def alfworld(state: Path) -> Iterator[str]:
    """The URL of an ALFWorld service on the sample."""
    yield from served(EnvSection(name="alfworld", port=free_port(), max_engines=4))
