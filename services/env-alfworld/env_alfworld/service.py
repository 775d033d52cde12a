"""What the core is told about ALFWorld."""

import functools
import logging
from importlib.metadata import version

from env_core.environment import Environment

from env_alfworld.agentgym import agentgym_routes
from env_alfworld.ahead import read_grammar
from env_alfworld.settings import AlfworldSettings
from env_alfworld.sources import listed
from env_alfworld.taskset import AlfworldTasks

SLOTS_PER_WORKER = 16
log = logging.getLogger(__name__)


def check() -> None:
    """Nothing is left to check: without games there is no environment (sources.listed raises)."""


def create_environment() -> Environment:
    """Return ALFWorld for the core."""
    settings = AlfworldSettings()
    source = listed(settings)
    tasks = AlfworldTasks(source.games)
    counts = "; ".join(str(found) for found in source.found)
    data = "generated sample games" if source.label == "sample" else f"games of {source.label}"
    log.warning("ALFWorld with %s. %s", data, counts)
    read_grammar(source.store, source.root)
    return Environment(
        name="alfworld",
        description=f"ALFWorld: household tasks in a text world, won or not. {data.capitalize()}: {counts}.",
        version=version("alfworld"),
        tasks=tasks,
        engine="env_alfworld.engine:create",
        engine_options={
            "store": str(source.store),
            "root": str(source.root),
            "label": source.label,
            "games_kept": settings.games_kept,
            "games_ahead": settings.games_ahead,
            "expert": settings.expert,
            "put_or_move": settings.put_or_move,
        },
        check=check,
        expert_source=f"alfworld-{settings.expert}",
        recycle_rss_mb=settings.recycle_rss_mb,
        slots_per_worker=SLOTS_PER_WORKER,
        agentgym=functools.partial(agentgym_routes, games=[t for s in ("train", "valid_train") for t in tasks.of(s)]),
    )
