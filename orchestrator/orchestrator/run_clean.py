"""What in a run directory nothing refers to any more, and its removal (`eto runs gc`)."""

import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.report.load import mapping
from orchestrator.run_index import RunInfo, StageInfo, read_run
from orchestrator.run_store import RunStore
from orchestrator.stages.context import CHECKPOINT

WEIGHTS = "*.safetensors"


@dataclass(frozen=True)
class Waste:
    """A file or folder that may go. `bytes` is what its removal frees: files that another run shares free nothing."""

    run: str
    path: Path
    bytes: int
    why: str

    @property
    def within(self) -> Path:
        """The path inside the run, for those who know the run."""
        parts = self.path.parts
        return Path(*parts[parts.index(self.run) + 1 :]) if self.run in parts[:-1] else self.path


def find(folder: Path, keep: Collection[str] = ()) -> list[Waste]:
    """What may go from a run that nobody works on; `keep` names stages whose weights stay."""
    info = read_run(folder)
    found = [*_left_behind(folder, info), *_weights(folder, info, keep)]
    return [Waste(info.name, path, _frees(path), why) for path, why in found]


def find_removed(runs: Path) -> list[Waste]:
    """Runs whose removal was cut off."""
    return [Waste(p.name, p, _frees(p), "a removal that was cut off") for p in sorted(runs.glob(".*.removed-*")) if p.is_dir()]


def remove(folder: Path, waste: Collection[Waste]) -> None:
    """Remove them. Raises RunStoreError if an `eto` works on the run."""
    with RunStore(folder).locked():
        for each in waste:
            discard(each.path)


def discard(path: Path) -> None:
    """Remove a file or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _left_behind(folder: Path, info: RunInfo) -> Iterator[tuple[Path, str]]:
    stages = folder / "stages"
    if (folder / "stages.part").exists() and stages.exists():
        yield folder / "stages.part", "a taking over that was cut off"
    for part in sorted(folder.glob("*.part")):
        if part.is_file():
            yield part, "a write that was cut off"
    for stage in info.stages:
        own = stages / stage.name
        if stage.state == "set aside":
            yield own, "set aside: what it was made from has changed"
        elif stage.state == "done":  # an unfinished one goes on with them
            for part in sorted([*own.glob("*.part"), *own.glob("*.partial"), *own.glob("tmp*/")]):
                yield part, "left over from the stage's work"


def _weights(folder: Path, info: RunInfo, keep: Collection[str]) -> Iterator[tuple[Path, str]]:
    """Of a finished run, all but the last policy's and the best one's. Manifests stay: they say what the weights were."""
    trained = [s for s in info.stages if s.state == "done" and (folder / "stages" / s.name / CHECKPOINT).is_dir()]
    if info.state != "finished" or not trained:
        return
    wanted = {trained[-1].name, *keep, *_best(info.stages, {s.name for s in trained})}
    for stage in trained:
        if stage.name not in wanted:
            for file in sorted((folder / "stages" / stage.name / CHECKPOINT).glob(WEIGHTS)):
                yield file, "neither the last nor the best policy's weights"


def _best(stages: list[StageInfo], with_weights: Collection[str]) -> Iterator[str]:
    """The stages whose weights must stay because a check or the dev tasks chose them."""
    trained: dict[str, str] = {}
    current = ""
    for stage in stages:
        current = stage.name if stage.name in with_weights else current
        if stage.kind in ("evaluate", "dev", "check"):
            trained[str(mapping(stage.summary).get("policy"))] = current
        if stage.kind == "check" and "stopped" in stage.summary:
            yield Path(str(stage.summary.get("good"))).parent.name
    dev = [s for s in stages if s.kind == "dev" and s.state == "done"]
    if dev and (name := trained.get(str(dev[-1].summary.get("best")))):
        yield name


def _frees(path: Path) -> int:
    files = [path] if not path.is_dir() else [Path(top) / name for top, _, names in os.walk(path) for name in names]
    stats = [file.lstat() for file in files]
    return sum(s.st_size for s in stats if s.st_nlink == 1)
