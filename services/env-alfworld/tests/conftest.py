"""An ALFWorld service on generated games as a real process, and what episodes in it look like."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from env_alfworld.catalogue import SPLITS
from env_alfworld.settings import AlfworldSettings
from env_alfworld.sources import Source, listed
from env_alfworld.store import Store
from env_core.process_tree import command, tree
from env_core.running import RunningService, running_service

Serve = Callable[..., contextlib.AbstractContextManager[RunningService]]


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
    with httpx.Client(base_url=alfworld.url, timeout=120) as client:
        yield client
        for state in client.get("/sessions").json()["sessions"]:
            client.delete(f"/sessions/{state['session_id']}")


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


def begin(client: httpx.Client, task_id: str, **fields: object) -> dict:
    reply = client.post("/reset", json={"task_id": task_id, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()


def act(client: httpx.Client, session_id: str, action: str, **fields: object) -> dict:
    reply = client.post("/step", json={"session_id": session_id, "action": action, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()


def expert(client: httpx.Client, task_id: str) -> list[str]:
    reply = client.get(f"/tasks/{task_id}/expert")
    assert reply.status_code == 200, reply.text
    return reply.json()["actions"]


def seen(reply: dict) -> tuple:
    """What must be the same each time an episode is played: all but the session's id."""
    metadata = {name: value for name, value in reply["metadata"].items() if name != "session_id"}
    return reply["observation"]["text"], reply["reward"], reply["done"], metadata


def play(client: httpx.Client, task_id: str, actions: list[str]) -> list[tuple]:
    """Play actions, to the end of the episode at most; return all that was seen."""
    reply = begin(client, task_id, include=["valid_actions"])
    session = reply["metadata"]["session_id"]
    stream = [seen(reply)]
    for action in actions:
        reply = act(client, session, action, include=["valid_actions"])
        stream.append(seen(reply))
        if reply["done"]:
            break
    client.delete(f"/sessions/{session}")
    return stream


def workers(service: RunningService) -> list[int]:
    """Return the service's worker processes."""
    return [pid for pid in tree(service.process.pid)[1:] if "env_core.worker" in command(pid)]
