"""An ALFWorld service on generated games as a real process, and what episodes in it look like."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from env_alfworld.catalogue import SPLITS
from env_alfworld.settings import AlfworldSettings
from env_alfworld.sources import Source, listed
from env_alfworld.store import Store
from env_core import testing
from env_core.running import RunningService, running_service
from env_core.testing import Serve, act, begin, expert, seen, workers

__all__ = ["act", "begin", "expert", "play", "seen", "workers"]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all services of a test run keep their translated games."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def serve(cache: Path) -> Serve:
    def serve_alfworld(*options: str, **variables: str) -> contextlib.AbstractContextManager[RunningService]:
        told = {"ETO_ALFWORLD_SAMPLE": "1", "ETO_ALFWORLD_CACHE": str(cache), "ETO_ALFWORLD_GAMES_AHEAD": "0", **variables}
        return running_service("env_alfworld", ["--log-level", "warning", *options], told, ready_timeout_s=120)

    return serve_alfworld


@pytest.fixture(scope="session")
def alfworld(serve: Serve) -> Iterator[RunningService]:
    with serve("--max-sessions", "64") as service:
        yield service


@pytest.fixture
def client(alfworld: RunningService) -> Iterator[httpx.Client]:
    with testing.client_of(alfworld) as client:
        yield client


@pytest.fixture(scope="session")
def source(cache: Path) -> Source:
    """The generated games, as the service finds them."""
    return listed(AlfworldSettings(sample=True, cache=cache))


@pytest.fixture
def store(source: Source) -> Iterator[Store]:
    store = Store(source.store)
    yield store
    store.close()


@pytest.fixture(scope="session")
def tasks(source: Source) -> dict[str, str]:
    """A task of each type, by type."""
    return {game.task_type: game.task_id for game in reversed(source.games) if game.split == SPLITS[1]}


play = functools.partial(testing.play, include=["valid_actions"])
