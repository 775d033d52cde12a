"""Settings of this environment alone, read from ETO_ALFWORLD_*, and ETO_DATA."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def user_cache() -> Path:
    """Return the folder in which data of all kinds are looked for, and what is worked out is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eto"


class AlfworldSettings(BaseSettings):
    """All of them."""

    model_config = SettingsConfigDict(env_prefix="ETO_ALFWORLD_", extra="ignore")

    data: Path | None = Field(default=None, validation_alias="ETO_DATA")  # holds alfworld/json_2.1.1 and experts/
    sample: bool = False  # play the generated games even where there are real ones
    required: list[Literal["train", "valid_seen", "valid_unseen", "valid_train"]] = ["train", "valid_seen", "valid_unseen"]
    cache: Path = Field(default_factory=lambda: user_cache() / "env-alfworld")  # the store of translated games and plans
    expert: Literal["gold", "planner", "handcoded"] = "gold"  # gold: imported where there is one, else the planner's
    put_or_move: bool = False  # take both `put X in/on Y` and `move X to Y`; off as the games know only one of them
    games_kept: int = Field(default=64, ge=1, le=4096)  # ready games in a worker's memory, about 0.5 MB each
    games_ahead: int = Field(default=16, ge=0, le=4096)  # games of a split that are translated before they are asked for
    recycle_rss_mb: int = Field(default=600, ge=200)
