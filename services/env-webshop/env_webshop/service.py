"""What the core is told about WebShop."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Literal

from env_core.environment import Environment, EnvironmentUnavailableError
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from env_webshop import agentgym, sample
from env_webshop.build import catalogue_folder, is_built
from env_webshop.sources import FILES, Name, Source, find_source
from env_webshop.taskset import WebshopTasks

#: Engines in one worker process. They share one search engine and one catalogue; a session costs some kilobytes.
SESSIONS_PER_WORKER = 1024
USER_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eto"


class WebshopSettings(BaseSettings):
    """Settings of this environment alone, read from ETO_WEBSHOP_*."""

    model_config = SettingsConfigDict(env_prefix="ETO_WEBSHOP_", extra="ignore")

    catalogue: Literal["auto", "full", "1000", "sample"] = "auto"  # auto: the largest that is there
    search: Literal["lucene", "bm25s"] = "lucene"
    observation: Literal["text", "text_rich"] = "text"  # text is what ETO plays
    seed: int = Field(default=0, ge=0)  # of the price limits, and of prices that are given as a range
    cache: Path = USER_CACHE / "webshop"  # where the catalogue's files and its search index are made
    data: Path = Field(default=USER_CACHE / "data", validation_alias="ETO_DATA")


def choose_source(settings: WebshopSettings) -> Source:
    """Return the catalogue to serve. Raises EnvironmentUnavailableError where its files are not there."""
    folder = settings.data / "webshop"
    asked: dict[str, tuple[Name, ...]] = {"auto": ("full", "1000"), "full": ("full",), "1000": ("1000",), "sample": ()}
    for name in asked[settings.catalogue]:
        if (source := find_source(folder, name)) is not None:
            return source
    if settings.catalogue == "auto" or settings.catalogue == "sample":  # mypy narrows these
        return sample.source(settings.cache)
    products, attributes = FILES[settings.catalogue]
    raise EnvironmentUnavailableError(
        f"the catalogue {settings.catalogue} was asked for, but {folder} does not hold both {products} and {attributes}; "
        "put WebShop's files there (its setup.sh names their download), set ETO_DATA to the folder that has them in webshop/, "
        "or serve the generated sample with ETO_WEBSHOP_CATALOGUE=sample."
    )


def check(settings: WebshopSettings, source: Source, folder: Path) -> None:
    """Make what is missing of the catalogue, in a process whose memory is then given back."""
    if is_built(folder, settings.search):
        return
    arguments = [str(source.products.parent), source.name, str(folder), settings.search, str(settings.seed)]
    done = subprocess.run([sys.executable, "-m", "env_webshop.build", *arguments], stdout=sys.stderr.fileno(), check=False)
    if done.returncode != 0:
        raise EnvironmentUnavailableError(
            f"the catalogue {source.name} was to be made in {folder}, but that ended with status {done.returncode}; "
            "the lines above say why. Its files must be WebShop's own, and the folder must be writable (ETO_WEBSHOP_CACHE)."
        )


def create_environment() -> Environment:
    """Return WebShop for the core."""
    settings = WebshopSettings()
    source = choose_source(settings)
    folder = catalogue_folder(settings.cache, source, settings.seed)
    kind = "a generated sample of products" if source.name == "sample" else f"WebShop's products ({source.name})"
    tasks = WebshopTasks(folder, sample=source.name == "sample")
    return Environment(
        name="webshop",
        description=f"WebShop: buy what an instruction asks for in a text shop, scored from 0 to 1. Here: {kind}.",
        version=folder.name,
        tasks=tasks,
        engine="env_webshop.engine:create",
        engine_options={"folder": str(folder), "search": settings.search, "observation": settings.observation},
        check=partial(check, settings, source, folder),
        expert_source="webshop-scripted",
        slots_per_worker=SESSIONS_PER_WORKER,
        renders=True,
        agentgym=lambda gym: agentgym.routes(gym, tasks),
    )
