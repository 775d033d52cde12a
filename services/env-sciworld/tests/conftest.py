"""A ScienceWorld service as a real process, and what episodes in it look like."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from env_core.process_tree import command, tree
from env_core.running import RunningService, running_service

# Gold paths of two variations (one of train, one of test) of each of ETO's 24 task types, as /tasks/{id}/expert gave them.
GOLD: dict[str, list[str]] = json.loads((Path(__file__).parent / "gold.json").read_text("utf-8"))

Serve = Callable[..., contextlib.AbstractContextManager[RunningService]]


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
    with httpx.Client(base_url=sciworld.url, timeout=120) as client:
        yield client
        for state in client.get("/sessions").json()["sessions"]:
            client.delete(f"/sessions/{state['session_id']}")


def begin(client: httpx.Client, task_id: str, **fields: object) -> dict:
    reply = client.post("/reset", json={"task_id": task_id, "max_steps": 1000, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()


def act(client: httpx.Client, session_id: str, action: str, **fields: object) -> dict:
    reply = client.post("/step", json={"session_id": session_id, "action": action, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()


def seen(reply: dict) -> tuple:
    """What must be the same each time an episode is played: all but the session's id."""
    metadata = {name: value for name, value in reply["metadata"].items() if name != "session_id"}
    return reply["observation"]["text"], reply["reward"], reply["done"], metadata


def play(client: httpx.Client, task_id: str, actions: list[str]) -> list[tuple]:
    """Play actions, to the end of the episode at most; return all that was seen."""
    reply = begin(client, task_id)
    session = reply["metadata"]["session_id"]
    stream = [seen(reply)]
    for action in actions:
        reply = act(client, session, action)
        stream.append(seen(reply))
        if reply["done"]:
            break
    client.delete(f"/sessions/{session}")
    return stream


def processes(service: RunningService, part: str) -> list[int]:
    """Return the service's processes whose command line has `part` in it."""
    return [pid for pid in tree(service.process.pid)[1:] if part in command(pid)]
