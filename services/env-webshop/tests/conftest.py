"""A WebShop service as a real process on the generated sample, and what episodes in it look like."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from env_core import testing
from env_core.running import RunningService, running_service
from env_core.testing import Serve, act, begin, expert, seen, workers
from env_webshop import build, sample
from env_webshop.catalogue import DiskCatalogue
from env_webshop.goals import Goal
from env_webshop.products import Product
from env_webshop.search import open_searcher
from env_webshop.shop import Searcher

__all__ = ["TASKS", "act", "begin", "detour", "expert", "goal", "play", "product", "seen", "workers"]

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
    with testing.client_of(webshop) as client:
        yield client


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


#: A detour takes more steps than a task allows.
play = functools.partial(testing.play, max_steps=1000)


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
