"""A WebShop service as a real process on the generated sample, and what episodes in it look like."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from env_core.process_tree import command, tree
from env_core.running import RunningService, running_service
from env_webshop import build, sample
from env_webshop.catalogue import DiskCatalogue
from env_webshop.goals import Goal
from env_webshop.products import Product
from env_webshop.search import open_searcher
from env_webshop.shop import Searcher

Serve = Callable[..., contextlib.AbstractContextManager[RunningService]]
TASKS = [f"sample:{place}" for place in range(0, 160, 10)]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("webshop-cache")


@pytest.fixture(scope="session")
def folder(cache: Path) -> Path:
    """The sample's catalogue and index, as the service makes them."""
    source = sample.source(cache)
    folder = build.catalogue_folder(cache, source, seed=0)
    build.build(source, folder, "lucene", 0)
    return folder


@pytest.fixture(scope="session")
def catalogue(folder: Path) -> Iterator[DiskCatalogue]:
    catalogue = DiskCatalogue(folder)
    yield catalogue
    catalogue.close()


@pytest.fixture(scope="session")
def searcher(folder: Path) -> Searcher:
    return open_searcher("lucene", folder / "lucene")


@pytest.fixture(scope="session")
def serve(cache: Path) -> Serve:
    def serve_webshop(*options: str, **variables: str) -> contextlib.AbstractContextManager[RunningService]:
        known = {"ETO_WEBSHOP_CACHE": str(cache), "ETO_WEBSHOP_CATALOGUE": "sample", **variables}
        return running_service("env_webshop", options, known, ready_timeout_s=120)

    return serve_webshop


@pytest.fixture(scope="session")
def webshop(serve: Serve) -> Iterator[RunningService]:
    with serve("--log-level", "warning") as service:
        yield service


@pytest.fixture
def client(webshop: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=webshop.url, timeout=120) as client:
        yield client
        for state in client.get("/sessions").json()["sessions"]:
            client.delete(f"/sessions/{state['session_id']}")


def begin(client: httpx.Client, task_id: str, **fields: object) -> dict:
    reply = client.post("/reset", json={"task_id": task_id, **fields})
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


def expert(client: httpx.Client, task_id: str) -> list[str]:
    return client.get(f"/tasks/{task_id}/expert").json()["actions"]


def detour(actions: list[str]) -> list[str]:
    """An expert's actions with looks at other pages on the way: every kind of page is seen."""
    at = next(number for number, action in enumerate(actions) if action.startswith("click[SMPL")) + 1
    looks = [
        "click[Description]",
        "click[< Prev]",
        "click[Features]",
        "no action",
        "click[< Prev]",
        "click[< Prev]",
        "click[Next >]",
        "click[< Prev]",
    ]
    return [*actions[:at], *looks, *actions[at - 1 :]]


def play(client: httpx.Client, task_id: str, actions: list[str]) -> list[tuple]:
    """Play actions, to the end of the episode at most; return all that was seen."""
    reply = begin(client, task_id, max_steps=1000)
    session = reply["metadata"]["session_id"]
    stream = [seen(reply)]
    for action in actions:
        reply = act(client, session, action)
        stream.append(seen(reply))
        if reply["done"]:
            break
    client.delete(f"/sessions/{session}")
    return stream


def workers(service: RunningService) -> list[int]:
    return [pid for pid in tree(service.process.pid)[1:] if "env_core.worker" in command(pid)]


def product(**fields: object) -> Product:
    known: dict = {
        "asin": "A",
        "title": "Red Cotton Shirt",
        "description": "A shirt.",
        "bullets": ["Soft"],
        "price_tag": "$10.0",
        "price": 10.0,
        "options": {},
        "attributes": ["machine wash"],
        "category": "fashion",
        "query": "shirts",
        "product_category": "Clothing \u203a Men \u203a Shirts",
    }
    return Product(**{**known, **fields})


def goal(**fields: object) -> Goal:
    known: dict = {"asin": "A", "instruction": "Find me a shirt", "attributes": ["machine wash"], "options": [], "price_limit": 30.0}
    return Goal(**{**known, **fields})
