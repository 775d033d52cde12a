"""Reads a run's YAML file and validates it before anything starts; faults are named with their path and line."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from orchestrator.config import (
    FRESH,
    NAMED,
    ConfigError,
    DevSection,
    EarlyStopSection,
    EvaluateSet,
    ExploreSection,
    RaySection,
    RolloutSection,
    RunConfig,
    ScratchModel,
    TaskSet,
)
from orchestrator.config_services import EnvSection, PolicySection
from orchestrator.config_training import (
    CollapseSection,
    DockerSection,
    GrpoSection,
    LoraSection,
    RayJobsSection,
    SourceSection,
    TrainerSection,
    TrainSection,
)


def load_config(path: Path, overrides: dict[str, Any] | None = None) -> RunConfig:
    """Read and validate a file; `overrides` are dotted keys, such as `rollout.concurrency`. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}. Give the path of a YAML file, such as configs/quickstart.yaml."
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} is empty or no mapping; see configs/quickstart.yaml for an example.")
    for dotted, value in (overrides or {}).items():
        _set(data, dotted.split("."), value)
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        faults = [_fault(fault, node) for fault in error.errors()]
        raise ConfigError(f"{path} has {len(faults)} fault{'s' * (len(faults) > 1)}:\n" + "\n".join(faults)) from error


def _set(data: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise ConfigError(f"{'.'.join(keys)} cannot be set: {key} is no section.")
    data[keys[-1]] = value


def _fault(fault: Any, node: yaml.Node | None) -> str:
    loc = [p for p in fault["loc"] if p not in (NAMED, FRESH)]  # pydantic puts a union's tag into the path
    if loc[:2] == ["dpo", 0] and not _is_list(node, "dpo"):
        del loc[1]
    line = _line(node, loc)
    where = ".".join(str(p) for p in loc) or "the file"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        message = f"unknown key; known here: {', '.join(_known(loc[:-1]))}"
    return f"  line {line}: {where}: {message}" if line else f"  {where}: {message}"


def _is_list(node: yaml.Node | None, key: str) -> bool:
    return isinstance(node, yaml.MappingNode) and any(k.value == key and isinstance(v, yaml.SequenceNode) for k, v in node.value)


def _line(node: yaml.Node | None, loc: list[Any]) -> int | None:
    """The line of the deepest part of the path that the file holds."""
    line = None
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            entry = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if entry is None:
                break
            line, node = entry[0].start_mark.line + 1, entry[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _known(loc: list[Any]) -> list[str]:
    """The keys of the section at a path."""
    sections: dict[str, type[BaseModel]] = {
        "": RunConfig,
        "model": ScratchModel,
        "env": EnvSection,
        "policy": PolicySection,
        "train_tasks": TaskSet,
        "evaluate": EvaluateSet,
        "dev": DevSection,
        "early_stop": EarlyStopSection,
        "rollout": RolloutSection,
        "explore": ExploreSection,
        "sft": TrainSection,
        "dpo": TrainSection,
        "grpo": GrpoSection,
        "collapse": CollapseSection,
        "trainer": TrainerSection,
    }
    nested: dict[str, type[BaseModel]] = {
        "lora": LoraSection,
        "data": SourceSection,
        "docker": DockerSection,
        "ray": RayJobsSection if loc[:1] == ["trainer"] else RaySection,
    }
    named = [part for part in loc if isinstance(part, str)]  # a list's items have numbers
    section = nested.get(named[-1] if named else "") or sections[str(loc[0]) if loc else ""]
    return list(section.model_fields)
