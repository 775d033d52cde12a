"""A run's directory: its configuration, its lock, and what each finished stage left behind. Plain files are the truth."""

import fcntl
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from orchestrator import places
from orchestrator.config import RunConfig

#: Settings that change how a run is carried out but not what it computes: a resumed run may have others.
OPERATIONAL = {
    *("env.url", "env.port", "env.max_engines", "trainer.accelerate", "trainer.ray", "trainer.docker", "trainer.retries"),
    *(f"trainer.docker.{name}" for name in ("engine", "image", "gpus", "memory", "mounts")),
    *(f"trainer.ray.{name}" for name in ("address", "gpus", "cpus", "resources", "python")),
    *("policy.url", "policy.port", "policy.max_num_seqs", "policy.kv_cache_gib", "policy.compile"),
    *("rollout.concurrency", "rollout.turn_timeout_s", "rollout.patience_s"),
    *("rollout.ray", "rollout.ray.address", "rollout.ray.shards"),
}


class RunStoreError(RuntimeError):
    """The run directory cannot be used as it is; the message says what to do."""


class Origin(BaseModel):
    """Where a stage was taken from (`eto run --from`): `settings` are those that it was made with and that the run that took it has
    otherwise. `taken_from`, where that run had it from another."""

    run: str
    run_id: str
    settings: dict[str, Any] = {}
    taken_from: "Origin | None" = None


class StageRecord(BaseModel):
    """`done.json`: written last, so a stage that has it is complete. Hashes are SHA-256 of files, by name."""

    schema_: str = "eto.stage/1"
    stage: str
    kind: str
    started_at: str
    duration_s: float
    inputs: dict[str, str]
    outputs: dict[str, str]
    summary: dict[str, Any]
    taken_from: Origin | None = None


#: Seconds for which a taker of the lock waits for those who only look whether it is taken.
LOOK_S = 0.3


@dataclass(frozen=True)
class RunStore:
    """One run's directory."""

    path: Path

    def stage_dir(self, stage: str) -> Path:
        """Where a stage writes."""
        return self.path / "stages" / stage

    def record(self, stage: str) -> StageRecord | None:
        """What a finished stage left, None if it has not finished. Raises RunStoreError if the record is damaged."""
        file = self.stage_dir(stage) / "done.json"
        try:
            data = json.loads(file.read_text())
            return StageRecord.model_validate({**data, "schema_": data["schema"]})
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:  # pydantic's ValidationError is a ValueError
            reason = str(error).splitlines()[0]
            raise RunStoreError(f"{file} is damaged ({reason}). Remove the folder {file.parent} to run the stage again.") from error

    def check_outputs(self, record: StageRecord) -> None:
        """Raises RunStoreError if a finished stage's files are not those it left."""
        for name, sha in record.outputs.items():
            file = self.stage_dir(record.stage) / name
            if not file.exists() or file_sha256(file) != sha:
                state = "was changed" if file.exists() else "is missing"
                raise RunStoreError(
                    f"{file} {state} since stage {record.stage} finished. "
                    f"Restore it, or remove the folder {file.parent} to run the stage again."
                )

    def write_record(self, record: StageRecord) -> None:
        """Mark a stage as finished."""
        data = record.model_dump()
        if record.taken_from is None:
            del data["taken_from"]
        write_atomically(self.stage_dir(record.stage) / "done.json", json.dumps({"schema": data.pop("schema_"), **data}, indent=1))

    def set_aside(self, stage: str) -> Path:
        """Move a stage's folder away, whose inputs have changed since; nothing is deleted."""
        source = self.stage_dir(stage)
        number = 1
        while (target := source.with_name(f"{stage}.stale-{number}")).exists():
            number += 1
        source.rename(target)
        return target

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One orchestrator at a time. The lock ends with the process, however it ends."""
        with open(self.path / "lock", "w") as lock:
            deadline = time.monotonic() + LOOK_S
            while not _lock(lock.fileno(), fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise RunStoreError(f"another `eto` works on {self.path}. Wait for it or stop it.")
                time.sleep(LOOK_S / 10)
            yield

    def busy(self) -> bool:
        """Whether an orchestrator works on the run now. Looking takes a shared lock for an instant."""
        try:
            with open(self.path / "lock", "rb") as lock:
                return not _lock(lock.fileno(), fcntl.LOCK_SH)
        except OSError:
            return False


def _lock(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_run(runs: Path, config: RunConfig) -> RunStore:
    """Create the run's directory, or go on in it. Raises RunStoreError if it holds a run of another configuration."""
    store = RunStore(runs / config.name)
    resolved = config.model_dump(mode="json")
    file = store.path / "config.yaml"
    if file.exists():
        changed = [k for k in differences(_with_defaults(_read_yaml(file)), resolved) if k not in OPERATIONAL]
        if changed:
            raise RunStoreError(
                f"{store.path} was begun with another configuration; different: {', '.join(changed)}. "
                "Give the run another `name`, or remove the folder to begin anew."
            )
    store.path.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(resolved, sort_keys=False)
    write_atomically(file, text)
    manifest = store.path / "manifest.json"
    if not manifest.exists():
        about = {
            "schema": "eto.run/1",
            "name": config.name,
            "run_id": f"{config.name}-{uuid.uuid4().hex[:8]}",
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "code_version": places.code_version(),
            "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
        write_atomically(manifest, json.dumps(about, indent=1))
    return store


def run_id(store: RunStore) -> str:
    """The run's unique name."""
    return str(read_manifest(store)["run_id"])


def read_manifest(store: RunStore) -> dict[str, Any]:
    """What `manifest.json` says; at least a `run_id`. Raises RunStoreError if it is damaged."""
    try:
        data: dict[str, Any] = json.loads((store.path / "manifest.json").read_text())
        return {**data, "run_id": data["run_id"]}
    except (ValueError, KeyError, TypeError) as error:
        raise RunStoreError(f"{store.path / 'manifest.json'} is damaged. Remove it: a new one is written on the next start.") from error


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(file.read_text())
    except yaml.YAMLError:
        data = None
    if not isinstance(data, dict):
        raise RunStoreError(f"{file} is damaged. Remove it: the configuration given now takes its place.")
    return data


def _with_defaults(old: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run that an older release began: settings that it did not know have their defaults."""
    try:
        return RunConfig.model_validate(old).model_dump(mode="json")
    except ValidationError:
        return old


def differences(old: Any, new: Any, at: str = "") -> list[str]:
    """Dotted keys whose values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*new, *(k for k in old if k not in new)]
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{at}.{k}" if at else k)]
    return [] if old == new else [at]


def write_atomically(file: Path, text: str) -> None:
    """A whole file or none."""
    part = file.with_name(file.name + ".part")
    with open(part, "w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(part, file)


def file_sha256(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
