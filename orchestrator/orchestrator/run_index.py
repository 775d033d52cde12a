"""What runs there are and how far each is: from small files alone, so that asking often costs little."""

import os
import re
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from orchestrator.config import ConfigError, RunConfig
from orchestrator.config_file import load_config
from orchestrator.report.load import kind_of, mapping, number, place, read_json
from orchestrator.run_store import RunStore, RunStoreError

State = Literal["running", "finished", "unfinished"]
StageState = Literal["done", "running", "unfinished", "waiting", "not needed", "set aside"]


@dataclass(frozen=True)
class StageInfo:
    """One stage. `expected` is how many episodes it will hold, None where the configuration does not tell."""

    name: str
    kind: str
    state: StageState
    started_at: str | None
    duration_s: float | None
    expected: int | None
    summary: dict[str, Any]


@dataclass(frozen=True)
class RunInfo:
    """A run at a glance. `policy`, `mean_score` (0..1) and `episodes` are the last finished evaluation's."""

    name: str
    path: str
    state: State
    created_at: str | None
    run_id: str | None
    code_version: str | None
    env: str | None
    model: str | None
    stages: list[StageInfo]
    policy: str | None = None
    mean_score: float | None = None
    episodes: int | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        """How many of the stages that the run needs are done."""
        return sum(s.state == "done" for s in self.stages)

    @property
    def needed(self) -> int:
        """How many stages the run needs."""
        return sum(s.state not in ("set aside", "not needed") for s in self.stages)

    @property
    def current(self) -> StageInfo | None:
        """The stage that is being carried out, or was when the run stopped."""
        return next((s for s in self.stages if s.state in ("running", "unfinished")), None)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "done": self.done, "needed": self.needed}


def is_run(folder: Path) -> bool:
    """Whether a folder looks like a run's, be it torn."""
    try:
        return folder.is_dir() and any((folder / name).exists() for name in ("manifest.json", "config.yaml", "stages"))
    except (OSError, ValueError):  # a name that no folder can have
        return False


def find_runs(runs: Path) -> list[Path]:
    """The run directories in a folder, by name. None where the folder is not there yet."""
    try:
        names = sorted(entry.name for entry in os.scandir(runs) if not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [runs / name for name in names if is_run(runs / name)]


def run_folder(runs: Path, name: str) -> Path:
    """The directory of a run, given by its name or its path. Raises RunStoreError with what there is."""
    for folder in (runs / name, Path(name)):
        if name and is_run(folder):
            return folder
    known = [f.name for f in find_runs(runs)]
    raise RunStoreError(
        f"no run {name!r} in {runs}; there {'are' if known else 'is'} {', '.join(known) or 'none'}. --runs names another folder."
    )


def split_name(runs: Path, text: str) -> tuple[str, str | None]:
    """RUN:PART in its two parts; a colon may also belong to a directory's name."""
    name, colon, part = text.rpartition(":")
    return (text, None) if not colon or (runs / text).is_dir() or Path(text).is_dir() else (name, part)


def read_run(folder: Path) -> RunInfo:
    """A run's state. What is torn or missing becomes a note."""
    notes: list[str] = []
    manifest = read_json(folder / "manifest.json", notes, "manifest.json")
    config, raw = _config(folder, notes)
    busy = RunStore(folder).busy()
    stages = _stages(folder, config, busy, notes)
    last = next((s for s in reversed(stages) if s.kind == "evaluate" and s.state == "done"), None)
    summary = last.summary if last is not None else {}
    episodes = number(summary.get("episodes"))
    complete = bool(stages) and all(s.state in ("done", "not needed", "set aside") for s in stages)
    return RunInfo(
        name=folder.name,
        path=str(folder),
        state="running" if busy else "finished" if complete else "unfinished",
        created_at=_text(manifest.get("created_at")),
        run_id=_text(manifest.get("run_id")),
        code_version=_text(manifest.get("code_version")),
        env=config.env.name if config is not None else _text(mapping(raw.get("env")).get("name")),
        model=config.base_model if config is not None else ("a fresh model" if mapping(raw.get("model")) else _text(raw.get("model"))),
        stages=stages,
        policy=last.name.removeprefix("evaluate-") if last is not None else None,
        mean_score=number(summary.get("mean_score")),
        episodes=int(episodes) if episodes is not None else None,
        notes=notes,
    )


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int | float) and value != "" else None


def _config(folder: Path, notes: list[str]) -> tuple[RunConfig | None, dict[str, Any]]:
    """The configuration, and what its file says where that is none of this version of eto."""
    file = folder / "config.yaml"
    try:
        stat = file.stat()
        config, raw = _load_config(file, stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        notes.append("config.yaml is missing" if isinstance(error, FileNotFoundError) else f"config.yaml cannot be read: {error.strerror}")
        return None, {}
    if config is None:
        other = "of another version of eto" if raw else "damaged"
        notes.append(f"config.yaml is {other}: the stages still to come are not known")
    return config, raw


@lru_cache(maxsize=512)
def _load_config(file: Path, mtime_ns: int, size: int) -> tuple[RunConfig | None, dict[str, Any]]:
    try:
        return load_config(file), {}
    except (ConfigError, ValueError, RecursionError):
        pass
    try:
        return None, mapping(yaml.safe_load(file.read_text(encoding="utf-8", errors="replace")))
    except (yaml.YAMLError, OSError, ValueError, RecursionError):
        return None, {}


def _stages(folder: Path, config: RunConfig | None, busy: bool, notes: list[str]) -> list[StageInfo]:
    from orchestrator import pipeline

    planned = {s.name: s.kind for s in pipeline.plan(config)} if config is not None else {}
    there = _folders(folder / "stages", notes)
    done = {name: read_json(folder / "stages" / name / "done.json", notes, f"{name}/done.json") for name in there if there[name]}
    others = sorted((n for n in there if n not in planned), key=lambda n: place(n, kind_of(n), done.get(n, {})))
    kinds = {**planned, **{n: str(done.get(n, {}).get("kind") or kind_of(n)) for n in others}}
    # a run whose explored episodes all tie, with the experts' or (grpo) with each other, ends there; a check or dev may end it too
    said = {n: mapping(d.get("summary")) for n, d in done.items()}
    nothing = any(0 in (s.get("pairs"), s.get("mixed")) for s in said.values())
    ended = nothing or any(kinds[n] in ("check", "dev") and "stopped" in s for n, s in said.items())
    stages: list[StageInfo] = []
    working = False
    for name, kind in kinds.items():
        record = done.get(name, {})
        state: StageState = "waiting"
        if re.search(r"\.stale-\d+$", name):
            state = "set aside"
        elif record:
            state = "done"
        elif ended:
            state = "not needed"
        elif not working and (busy or name in there):
            state, working = "running" if busy else "unfinished", True
        stages.append(
            StageInfo(
                name=name,
                kind=kind,
                state=state,
                started_at=_text(record.get("started_at")),
                duration_s=number(record.get("duration_s")),
                expected=_expected(config, kind, done) if kind in ("experts", "explore", "evaluate", "dev") else None,
                summary=mapping(record.get("summary")),
            )
        )
    return stages


def _folders(stages: Path, notes: list[str]) -> dict[str, bool]:
    """The stages that have a folder, and whether each has a record of its end."""
    try:
        return {e.name: (stages / e.name / "done.json").exists() for e in sorted(os.scandir(stages), key=lambda e: e.name) if e.is_dir()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        notes.append(f"the folder of the stages cannot be read: {error.strerror}")
        return {}


def _expected(config: RunConfig | None, kind: str, done: dict[str, dict[str, Any]]) -> int | None:
    """From a stage that played the same tasks; else from the configuration, where it gives types and a number for each."""
    summaries = {name: mapping(record.get("summary")) for name, record in done.items()}
    if kind == "explore":
        successful = number(summaries.get("experts", {}).get("successful"))
        return int(successful) * config.explore.samples if successful is not None and config is not None else None
    played = (number(s.get("episodes")) for n, s in summaries.items() if kind_of(n) == kind)
    if (same := next((n for n in played if n is not None), None)) is not None:
        return int(same)
    if config is None:
        return None
    if kind == "dev" or (kind == "experts" and config.dev is not None):
        return None
    sets = [(config.train_tasks, 1)] if kind == "experts" else [(t, t.samples) for t in config.evaluate]
    return sum(len(t.types or []) * (t.per_type or 0) * n for t, n in sets) if all(t.types and t.per_type for t, _ in sets) else None
