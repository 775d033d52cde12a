"""A counter service as a real process, and a client of it."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from env_core.running import RunningService, running_service
from env_core.testing import Serve, client_of

TESTS = str(Path(__file__).parent)


def serve_counter(*options: str, **variables: str) -> contextlib.AbstractContextManager[RunningService]:
    path = os.pathsep.join(filter(None, [TESTS, os.environ.get("PYTHONPATH")]))
    return running_service("counter_env", options, {"PYTHONPATH": path, **variables})


@pytest.fixture(scope="session")
def serve() -> Serve:
    return serve_counter


@pytest.fixture(scope="session")
def counter() -> Iterator[RunningService]:
    with serve_counter("--max-sessions", "50", "--step-timeout-s", "2", "--log-level", "warning") as service:
        yield service


@pytest.fixture
def client(counter: RunningService) -> Iterator[httpx.Client]:
    with client_of(counter) as client:
        yield client


@pytest.fixture
def begin(client: httpx.Client) -> Callable[..., str]:
    def begin(task_id: str = "count:10", **fields: object) -> str:
        reply = client.post("/reset", json={"task_id": task_id, **fields})
        assert reply.status_code == 200, reply.text
        return str(reply.json()["metadata"]["session_id"])

    return begin


@pytest.fixture
def step(client: httpx.Client) -> Callable[..., httpx.Response]:
    def step(session_id: str, action: str, **fields: object) -> httpx.Response:
        return client.post("/step", json={"session_id": session_id, "action": action, **fields})

    return step
