"""Real services for the tests across them, started the way `eto` starts them, with state and ports of their own."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
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


@pytest.fixture(scope="session")
def sciworld(state: Path) -> Iterator[str]:
    """The URL of a ScienceWorld service with four sessions."""
    from orchestrator.config import EnvSection

    from orchestrator import process, services

    service = services.env_service(EnvSection(port=free_port(), max_engines=4))
    running = asyncio.run(services.ensure(service))
    yield service.url
    process.stop(running)
