"""Settings of a service, read from the environment (ETO_ENV_*) and overridden by the command line."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """All settings. Times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="ETO_ENV_", extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(default=8002, ge=0, le=65535, description="0 takes a free one")
    token: str | None = Field(default=None, description="bearer token asked of every call but /health")
    allow_anonymous: bool = Field(default=False, description="serve a non-loopback address without a token")
    max_sessions: int = Field(default=256, ge=1, le=1_000_000, description="live episodes at one time")
    max_engines: int = Field(default=8, ge=1, le=4096, description="engines at one time; sessions take turns on them")
    engines_warm: int = Field(default=1, ge=0, le=256, description="idle engines kept started")
    kept_sessions: int = Field(default=1000, ge=1, description="finished episodes that stay readable")
    journal: Path | None = Field(default=None, description="file that keeps sessions across a restart; none: they end with the process")
    idle_timeout_s: float = Field(default=1800, gt=0)
    step_timeout_s: float = Field(default=30, gt=0)
    load_timeout_s: float = Field(default=60, gt=0, description="to load a task, and to start an engine")
    expert_timeout_s: float = Field(default=120, gt=0)
    drain_timeout_s: float = Field(default=10, ge=0)
    log_level: str = "info"
