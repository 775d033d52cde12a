"""Whether two runs hold the same: each stage's episodes, pairs and weights, whatever the clocks said."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import jsonl, versions
from orchestrator.records import Episode, Pair
from orchestrator.run_index import read_run
from orchestrator.stages.context import CHECKPOINT, EPISODES, PAIRS

#: Of an episode and its steps: when and how long, and what had to be sent again. The rest is what was played.
CLOCKS = {"started_at", "duration_s", "code_version", "retries", "restarts", "policy_s", "env_s"}


@dataclass(frozen=True)
class StageSame:
    """A stage in two runs: how many of its `n` records (episodes, pairs, or one set of weights) are equal, and one that is not."""

    stage: str
    what: str
    n: int
    equal: int
    different: str | None = None

    @property
    def same(self) -> bool:
        """Whether everything is."""
        return self.equal == self.n


def compare(a: Path, b: Path) -> list[StageSame]:
    """Stage by stage, in the order of the first run; stages that only one of them finished are different."""
    names = [[s.name for s in read_run(run).stages if s.state == "done"] for run in (a, b)]
    result = []
    for name in dict.fromkeys([*names[0], *names[1]]):
        if any(name not in side for side in names):
            result.append(StageSame(name, "stage", 1, 0, f"finished in {(a if name in names[0] else b).name} only"))
            continue
        folders = [run / "stages" / name for run in (a, b)]
        if all((f / EPISODES).exists() for f in folders):
            result.append(_records(name, "episodes", *map(_episodes, folders)))
        if all((f / PAIRS).exists() for f in folders):
            result.append(_records(name, "pairs", *map(_pairs, folders)))
        checkpoints = [versions.read_checkpoint(f / CHECKPOINT) for f in folders]
        if all(checkpoints):
            first, second = (c.version for c in checkpoints if c is not None)
            result.append(StageSame(name, "weights", 1, int(first == second), None if first == second else f"{first} and {second}"))
    return result


def _records(stage: str, what: str, a: dict[str, Any], b: dict[str, Any]) -> StageSame:
    keys = sorted({*a, *b})
    different = [key for key in keys if a.get(key) != b.get(key)]
    return StageSame(stage, what, len(keys), len(keys) - len(different), different[0] if different else None)


def _episodes(stage: Path) -> dict[str, Any]:
    return {f"{e.task_id}, sample {e.sample}": _played(e) for e in jsonl.read(stage / EPISODES, Episode)}


def _played(episode: Episode) -> dict[str, Any]:
    data = {k: v for k, v in episode.model_dump(mode="json").items() if k not in CLOCKS}
    return {**data, "steps": [{k: v for k, v in step.items() if k not in CLOCKS} for step in data["steps"]]}


def _pairs(stage: Path) -> dict[str, Any]:
    return {f"{i}: {pair.task_id}": pair.model_dump(mode="json") for i, pair in enumerate(jsonl.read(stage / PAIRS, Pair))}
