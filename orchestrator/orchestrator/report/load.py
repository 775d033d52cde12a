"""Reads a run directory as it is: finished, half-way or torn. What is missing becomes a note, not an error."""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from orchestrator import jsonl
from orchestrator.records import Episode, Pair

#: The order of stages within an iteration (the paper's figure); iteration 0 is everything before exploration.
ORDER = (
    "init",
    "experts",
    "evaluate-base",
    "dev-base",
    "sft",
    "evaluate-sft",
    "dev-sft",
    "explore",
    "pairs",
    "dpo",
    "rft",
    "grpo",
    "check",
    "evaluate",
    "dev",
)
WITH_EPISODES = frozenset({"experts", "evaluate", "explore", "check", "dev"})


@dataclass(frozen=True)
class Stage:
    """One stage folder. `done` is empty while the stage is unfinished."""

    name: str
    kind: str
    done: dict[str, Any]
    episodes: list[Episode]
    pairs: list[Pair]
    progress: list[dict[str, Any]]
    checkpoint: dict[str, Any]

    @property
    def summary(self) -> dict[str, Any]:
        """What the stage said of itself when it ended."""
        return mapping(self.done.get("summary"))

    @property
    def origin(self) -> dict[str, Any]:
        """Where the stage was taken from, empty where the run carried it out itself."""
        return mapping(self.done.get("taken_from"))

    @property
    def policy(self) -> str:
        """Whose episodes an evaluation holds."""
        played = self.episodes[0].policy if self.episodes else self.name.removeprefix(f"{self.kind}-")
        return str(self.summary.get("policy") or played)


@dataclass(frozen=True)
class Run:
    """A run directory's content."""

    directory: Path
    manifest: dict[str, Any]
    config: dict[str, Any]
    config_text: str
    stages: list[Stage]
    notes: list[str] = field(default_factory=list)


def load_run(run_dir: Path) -> Run:
    """Read a run. Raises FileNotFoundError without the directory and DataFileError for damage inside a data file."""
    if not run_dir.is_dir():
        raise FileNotFoundError(f"no run at {run_dir}: nothing to report on. Give a directory that `eto run` has written.")
    notes: list[str] = []
    config_file = run_dir / "config.yaml"
    config_text = config_file.read_text(encoding="utf-8", errors="replace") if config_file.is_file() else ""
    if not config_text:
        notes.append("config.yaml is missing")
    manifest = read_json(run_dir / "manifest.json", notes, "manifest.json")
    folders = sorted(p for p in (run_dir / "stages").glob("*") if p.is_dir() and ".stale-" not in p.name)
    stages = sorted((_load_stage(p, notes) for p in folders), key=lambda s: place(s.name, s.kind, s.done))
    notes += [f"stage {s.name} is unfinished" for s in stages if not s.done]
    return Run(run_dir, manifest, _parse_yaml(config_text, notes), config_text, stages, notes)


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def number(value: Any) -> float | None:
    """The value as a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _parse_yaml(text: str, notes: list[str]) -> dict[str, Any]:
    try:
        return mapping(yaml.safe_load(text))
    except yaml.YAMLError:
        notes.append("config.yaml is not YAML")
        return {}


def read_json(path: Path, notes: list[str], name: str) -> dict[str, Any]:
    """A file's JSON object; what cannot be read is empty, with a note under the given name."""
    try:
        return mapping(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        notes.append(f"{name} is missing")
    except OSError as error:
        notes.append(f"{name} cannot be read: {error.strerror}")
    except (ValueError, RecursionError):  # not JSON, or not UTF-8, or brackets without end
        notes.append(f"{name} is not JSON")
    return {}


def kind_of(name: str) -> str:
    """A stage's kind, from its name."""
    return name.split("-", 1)[0]


def place(name: str, kind: str, done: dict[str, Any]) -> tuple[int, int, str, str]:
    """Where a stage stands in the pipeline, from its name; unknown names come last in their iteration, by start time."""
    end = re.search(r"-(\d+)$", name)
    order = next((ORDER.index(n) for n in (name, kind) if n in ORDER), len(ORDER))
    return (int(end.group(1)) if end else 0, order, str(done.get("started_at") or "9999"), name)


def _load_stage(folder: Path, notes: list[str]) -> Stage:
    done_file = folder / "done.json"
    done = read_json(done_file, notes, f"{folder.name}/done.json") if done_file.exists() else {}
    kind = str(done.get("kind") or kind_of(folder.name))
    episodes, pairs = folder / "episodes.jsonl", folder / "pairs.jsonl"
    checkpoint = folder / "checkpoint" / "manifest.json"
    return Stage(
        name=folder.name,
        kind=kind,
        done=done,
        # episodes stand in the file in the order in which they ended, which differs from run to run
        episodes=sorted(jsonl.read(episodes, Episode), key=lambda e: (e.split or "", e.key))
        if kind in WITH_EPISODES and episodes.is_file()
        else [],
        pairs=list(jsonl.read(pairs, Pair)) if kind == "pairs" and pairs.is_file() else [],
        progress=_read_progress(folder / "checkpoint.progress.jsonl"),
        checkpoint=read_json(checkpoint, notes, f"{folder.name}/checkpoint/manifest.json") if checkpoint.exists() else {},
    )


def _read_progress(path: Path) -> list[dict[str, Any]]:
    """Progress events. A line that does not parse is passed over.

    A killed job's torn line may stand anywhere, because a resumed job goes on in the same file.
    """
    if not path.is_file():
        return []
    events = []
    for line in path.read_bytes().splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            events.append(event)
    return events
