"""A configuration file with every setting, its default and what it does: drawn from the settings' own definitions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from orchestrator.config import ConfigError, RunConfig
from orchestrator.config_services import EnvSection

#: What an environment's splits are called, and how many tasks of each type a first run takes: it shall end within the hour on a CPU.
SPLITS = {
    "sciworld": ({"split": "eto-train", "per_type": 5}, [{"split": "eto-unseen", "per_type": 2}]),
    "webshop": ({"split": "sample-train", "per_type": 20}, [{"split": "sample-test", "per_type": 10}]),
    "alfworld": ({"split": "train", "per_type": 20}, [{"split": "valid_unseen", "per_type": 5}]),
}
#: What the definitions leave to the name.
ABOUT = {
    "seed": "of sampling, training and the choice of a fresh model's weights",
    "model": "a hub id, a local directory, or the small model that a package carries",
    "split": "its name in the environment",
    "temperature": "0: greedy",
    "top_p": "nucleus sampling; 1: off",
    "turn_timeout_s": "seconds for one answer of the model",
    "episode_deadline_s": "seconds for an episode",
    "epochs": "times over the data",
    "learning_rate": "the highest; a warm-up leads to it",
    "warmup_ratio": "part of the steps over which the learning rate rises",
    "max_steps": "optimiser steps; null: as the epochs give",
    "gradient_checkpointing": "less memory, slower steps",
    "scheduler": "how the learning rate falls",
}
WIDTH = 34
HEAD = """\
# A run of `eto run FILE`. Every setting stands here with its default; what you do not change you may delete.
# `eto run FILE --dry-run` prints the stages, `eto doctor FILE` looks at what the machine lacks,
# `-s KEY=VALUE` overrides a setting for one call: -s rollout.concurrency=16.
"""


def environments() -> list[str]:
    """The environments that a configuration may name."""
    return [str(name) for name in get_args(EnvSection.model_fields["name"].annotation)]


def write_template(path: Path, env: str) -> None:
    """Write the file. Raises ConfigError if the environment is unknown or the file is there."""
    if env not in environments():
        raise ConfigError(f"there is no environment {env!r}; known: {', '.join(environments())}.")
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(template(path.stem, env))
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already and was left as it is. Give another name, or remove it first.") from error


def template(name: str, env: str) -> str:
    """The file's text. A run's name is the file's, without what a folder's name must not hold."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name).lstrip("._-") or "run"
    train, evaluate = SPLITS.get(env, SPLITS["sciworld"])
    chosen: dict[str, Any] = {"name": safe, "env": {"name": env}, "train_tasks": train, "evaluate": evaluate}
    return HEAD + "\n" + "\n".join(_section(RunConfig, chosen, "")) + "\n"


def _section(model: type[BaseModel], chosen: dict[str, Any], indent: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        value = chosen.get(name, _default(field))
        inner = _model(field)
        if inner is not None and (isinstance(value, BaseModel | dict) or value is None):
            given = value if isinstance(value, dict) else {}
            about = _comment(field.description or (inner.__doc__ or ""), field)
            if value is None:
                yield _line(f"{indent}{name}: null", about)
                continue
            if not indent:
                yield ""
            yield _line(f"{indent}{name}:", about)
            yield from _section(inner, given, indent + "  ")
        elif inner is not None and isinstance(value, list):
            yield ""
            yield _line(f"{indent}{name}:", _comment(field.description or (inner.__doc__ or ""), field))
            for item in value:
                lines = list(_section(inner, item if isinstance(item, dict) else {}, indent + "    "))
                yield f"{indent}  - {lines[0].lstrip()}"
                yield from lines[1:]
        else:
            yield _line(f"{indent}{name}: {_plain(value)}", _comment(field.description or ABOUT.get(name, ""), field))


def _default(field: FieldInfo) -> Any:
    value = field.get_default(call_default_factory=True)
    return None if value is PydanticUndefined else value


def _model(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a field holds, alone or in a list."""
    kinds = [field.annotation, *get_args(field.annotation)]
    found = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
    return found[0] if found else None


def _plain(value: Any) -> str:
    plain = TypeAdapter(Any).dump_python(value, mode="json")
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")


def _comment(text: str, field: FieldInfo) -> str:
    """What a setting does, and what it may be where that is a choice."""
    choices = [str(c) for kind in (field.annotation, *get_args(field.annotation)) for c in get_args(kind) if isinstance(c, str)]
    first = " ".join(text.split("\n\n")[0].split()).rstrip(".")
    return "; ".join(part for part in (first, " or ".join(choices)) if part)


def _line(setting: str, comment: str) -> str:
    return f"{setting:<{WIDTH}}  # {comment}" if comment else setting
