"""`eto run --from RUN:STAGE`: a run that goes on from a finished stage of another run, with settings of its own.

Every stage of the new plan up to STAGE is taken as it is there: files hashed, weights linked, and a word in its record of where it
comes from. Nothing is taken half: the stages appear in the new run together, by one rename.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator import pipeline, versions
from orchestrator.config import ConfigError, RunConfig
from orchestrator.config_file import load_config
from orchestrator.pipeline import Stage
from orchestrator.run_index import run_folder, split_name
from orchestrator.run_store import (
    OPERATIONAL,
    Origin,
    RunStore,
    RunStoreError,
    StageRecord,
    differences,
    read_manifest,
    run_id,
    write_atomically,
)
from orchestrator.stages.context import CHECKPOINT

#: What must be as it is there, or the stage's files mean something else here.
EVERYWHERE = ("env.name", "env.prompt")
TRAINED_ON = ("train_tasks", "dev.held_out")
FIXED = {"experts": TRAINED_ON, "explore": TRAINED_ON, "check": TRAINED_ON, "pairs": ("method", "pairs")}
#: What a stage was made with. An evaluation with other settings than those given now is played anew, since its numbers stand beside
#: the new ones; of other stages the difference is noted.
PLAYED = ("seed", "rollout", "policy.max_model_len", "policy.template")
MADE_WITH = {
    "experts": ("seed",),
    "init": ("seed",),
    "sft": ("seed", "sft"),
    "rft": ("seed", "sft"),
    "explore": (*PLAYED, "explore"),
    "check": (*PLAYED, "explore", "collapse"),
    "evaluate": (*PLAYED, "evaluate"),
    "dev": (*PLAYED, "dev"),
    "dpo": ("seed", "dpo"),
    "grpo": ("seed", "grpo"),
    "pairs": (),
}
#: Those from which nothing is trained.
LEAVES = ("evaluate", "dev", "check")


@dataclass(frozen=True)
class TakeOver:
    """What is taken from where; `anew` are evaluations that are not, and why."""

    source: RunStore
    run_id: str
    stage: str
    records: list[StageRecord] = field(default_factory=list)
    anew: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The stages that are taken."""
        return [r.stage for r in self.records]

    def told(self) -> str:
        """A sentence for whoever watches."""
        again = "".join(f"; {stage} is done anew: {why}" for stage, why in self.anew.items())
        return f"taken over from {self.source.path.name}: {', '.join(self.names)}{again}"

    def notes(self) -> Iterator[str]:
        """What was made with other settings than the new run's."""
        for record in self.records:
            if record.taken_from is not None and record.taken_from.settings:
                made = ", ".join(f"{k} {'not set' if v is None else v}" for k, v in record.taken_from.settings.items())
                yield f"{record.stage} was made with {made}; this run's own settings hold for the stages to come"


def find(runs: Path, text: str, config: RunConfig) -> TakeOver | None:
    """What `--from TEXT` asks for; None where the run has it already, and so needs its source no more. Raises as `prepare` does."""
    name, stage = split_name(runs, text)
    origin = _origin(runs / config.name)
    if (origin.get("run"), origin.get("stage")) == (Path(name).name, stage) and (runs / config.name / "stages").exists():
        return None
    folder = run_folder(runs, name)
    if folder.resolve() == (runs / config.name).resolve():
        raise ConfigError(f"--from {text} is the run itself. Give the new run another `name`, such as -s name={config.name}-2.")
    return prepare(folder, stage or "", config)


def prepare(source: Path, stage: str, config: RunConfig) -> TakeOver:
    """Look whether a run can go on from `source`'s stage. Raises RunStoreError where it cannot, or ConfigError where the two do not fit.

    Nothing is written. Files are hashed, weights too, so that what is damaged there is not carried on.
    """
    store = RunStore(source)
    if not stage:
        raise ConfigError(f"--from {source.name}: which stage? Write --from {source.name}:STAGE; it has {_finished(store)}.")
    try:
        old = load_config(source / "config.yaml")
    except ConfigError as error:
        raise RunStoreError(f"{source} cannot be gone on from, since its configuration cannot be read: {error}") from error
    planned = pipeline.plan(config)
    names = [s.name for s in planned]
    if stage not in names:
        raise ConfigError(f"--from {source.name}:{stage}: the new run has no stage {stage}; its stages are {', '.join(names)}.")
    if store.record(stage) is None:
        raise RunStoreError(f"--from {source.name}:{stage}: that stage has not finished there; finished are {_finished(store)}.")
    before = planned[: names.index(stage) + 1]
    _check_fit(old, config, before, source.name)
    taken = TakeOver(store, run_id(store), stage)
    for each in before:
        record = store.record(each.name)
        why = _why_anew(each, record, old, config, taken.records)
        if why is not None:
            if each.kind not in LEAVES:
                raise RunStoreError(f"--from {source.name}:{stage}: {each.name} is needed, but {why}.")
            taken.anew[each.name] = why
            continue
        assert record is not None  # noqa: S101 - else there was a reason
        store.check_outputs(record)
        _check_weights(store, record)
        made_with = _differing(each, old, config)
        origin = Origin(run=source.name, run_id=taken.run_id, settings=made_with, taken_from=record.taken_from)
        taken.records.append(record.model_copy(update={"taken_from": origin}))
    return taken


def carry_out(taken: TakeOver, store: RunStore) -> None:
    """Bring the stages into a run that has none yet. The caller holds the run's lock."""
    folder = store.path / "stages"
    if folder.exists():
        raise RunStoreError(
            f"{store.path} has begun already, and not from {taken.source.path.name}:{taken.stage}. "
            "Give the run another `name`, or remove the folder to begin anew."
        )
    origin = {"run": taken.source.path.name, "run_id": taken.run_id, "stage": taken.stage, "stages": taken.names}
    manifest = {**read_manifest(store), "from": origin}
    write_atomically(store.path / "manifest.json", json.dumps(manifest, indent=1))  # first: what is cut off now is noticed
    part = store.path / "stages.part"
    shutil.rmtree(part, ignore_errors=True)
    incoming = RunStore(part / "run")
    for record in taken.records:
        _bring(taken.source.stage_dir(record.stage), incoming.stage_dir(record.stage))
        incoming.check_outputs(record)
        incoming.write_record(record)
    (incoming.path / "stages").rename(folder)
    shutil.rmtree(part)


def check_whole(store: RunStore) -> None:
    """Raises RunStoreError for a run whose taking over was cut off."""
    origin = _origin(store.path)
    if origin and not (store.path / "stages").exists():
        where = f"{origin.get('run')}:{origin.get('stage')}"
        raise RunStoreError(f"{store.path} was to go on from {where}, and what is taken from there was cut off. Give --from {where} again.")


def _origin(run: Path) -> Mapping[str, Any]:
    if not (run / "manifest.json").exists():
        return {}
    origin = read_manifest(RunStore(run)).get("from")
    return origin if isinstance(origin, dict) else {}


def _check_fit(old: RunConfig, new: RunConfig, stages: list[Stage], name: str) -> None:
    model = ["model"] if any(s.kind != "experts" for s in stages) else []  # no model has a part in the experts
    keys = dict.fromkeys([*EVERYWHERE, *model, *(key for s in stages for key in FIXED.get(s.kind, ()))])
    faults = [f"  {d}: {_at(old, d)!r} there, {_at(new, d)!r} here" for key in keys for d in _differ(old, new, key)]
    if faults:
        wrong = "\n".join(faults)
        raise ConfigError(
            f"this configuration does not fit what {name} has done; different:\n{wrong}\n"
            f"Set them as they are there ({name}'s config.yaml), or begin the run without --from."
        )


def _why_anew(stage: Stage, record: StageRecord | None, old: RunConfig, new: RunConfig, taken: list[StageRecord]) -> str | None:
    """Why a stage cannot be taken as it is; None if it can."""
    if record is None:
        return "it has not finished there"
    known = {r.stage: r for r in taken}
    missing = [name for name in stage.needs if name not in known]
    if missing:
        return f"it reads {', '.join(missing)}"
    inputs = {f"{name}/{file}": sha for name in stage.needs for file, sha in known[name].outputs.items()}
    if record.inputs != inputs:
        return "it was made from other files than the stages before it hold now"
    if stage.kind in ("evaluate", "dev") and (other := _differing(stage, old, new)):
        return f"{', '.join(other)} {'differ' if len(other) > 1 else 'differs'} from there"
    return None


def _differing(stage: Stage, old: RunConfig, new: RunConfig) -> dict[str, Any]:
    """The settings that the stage was made with and that are other ones now, as they were."""
    ignored = () if stage.kind in ("evaluate", "dev") else ("rollout.temperature",)  # exploration has one of its own
    found: dict[str, Any] = {}
    for key in MADE_WITH.get(stage.kind, PLAYED):
        if key == "dpo":
            number = int(stage.name.rpartition("-")[2])
            before, now = (c.dpo[min(number, len(c.dpo)) - 1].model_dump(mode="json") for c in (old, new))
            found |= {f"dpo.{d}": _inside(before, d) for d in differences(before, now)}
        else:
            found |= {d: _at(old, d) for d in _differ(old, new, key) if d not in OPERATIONAL and d not in ignored}
    return found


def _differ(old: RunConfig, new: RunConfig, key: str) -> list[str]:
    before, now = _at(old, key), _at(new, key)
    if key == "model" and isinstance(before, str) and isinstance(now, str) and Path(before).is_dir() and Path(now).is_dir():
        before, now = (str(Path(p).resolve()) for p in (before, now))
    return differences(before, now, key)


def _at(config: RunConfig, key: str) -> Any:
    return _inside(config.model_dump(mode="json"), key)


def _inside(data: Any, key: str) -> Any:
    for part in key.split("."):
        data = data.get(part) if isinstance(data, dict) else None
    return data


def _check_weights(store: RunStore, record: StageRecord) -> None:
    """A record's hash covers the checkpoint's manifest alone; the manifest names the weights."""
    directory = store.stage_dir(record.stage) / CHECKPOINT
    checkpoint = versions.read_checkpoint(directory)
    if checkpoint is not None and (found := versions.weights_version(directory)) != checkpoint.version:
        raise RunStoreError(
            f"the weights in {directory} are {found or 'missing'}, not {checkpoint.version} as their manifest says: "
            "restore them, or go on from a stage before."
        )


def _bring(source: Path, target: Path) -> None:
    """A finished stage's files. A checkpoint is never written again, so it is linked where that can be; the rest is copied."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file() and file.name != "done.json" and not file.name.endswith(".part"):
            shutil.copy2(file, target / file.name)
    if (source / CHECKPOINT).is_dir():
        shutil.copytree(source / CHECKPOINT, target / CHECKPOINT, copy_function=_link_or_copy)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def _finished(store: RunStore) -> str:
    folders = sorted((store.path / "stages").glob("*/done.json"), key=lambda file: file.stat().st_mtime)
    return ", ".join(f.parent.name for f in folders if ".stale-" not in f.parent.name) or "none"
