"""A ScienceWorld service as a real process, and what episodes in it look like."""

import contextlib
import functools
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from env_core import testing
from env_core.running import RunningService, running_service
from env_core.testing import Serve, act, processes, seen

__all__ = ["GOLD", "act", "begin", "play", "processes", "seen"]

# Gold paths of two variations (one of train, one of test) of each of ETO's 24 task types, as /tasks/{id}/expert gave them.
GOLD: dict[str, list[str]] = json.loads((Path(__file__).parent / "gold.json").read_text("utf-8"))


def serve_sciworld(*options: str, **variables: str) -> contextlib.AbstractContextManager[RunningService]:
    return running_service("env_sciworld", options, variables, ready_timeout_s=120)


@pytest.fixture(scope="session")
def serve() -> Serve:
    return serve_sciworld


@pytest.fixture(scope="session")
def sciworld() -> Iterator[RunningService]:
    with serve_sciworld("--max-sessions", "8", "--log-level", "warning") as service:
        yield service


@pytest.fixture
def client(sciworld: RunningService) -> Iterator[httpx.Client]:
    with testing.client_of(sciworld) as client:
        yield client


#: Experts of some tasks take more steps than the task allows an agent.
begin = functools.partial(testing.begin, max_steps=1000)
play = functools.partial(testing.play, max_steps=1000)
