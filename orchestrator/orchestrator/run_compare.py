"""Two policies, of one run or of two, on the tasks that both played."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator import jsonl
from orchestrator.records import Episode
from orchestrator.run_index import read_run
from orchestrator.statistics import Interval, PairedDifference, bootstrap_mean, paired_difference, wilson


class CompareError(ValueError):
    """There is nothing to compare; the message says why."""


@dataclass(frozen=True)
class Selection:
    """A policy's evaluation in a run; without a policy, the last that was evaluated."""

    folder: Path
    policy: str | None = None


@dataclass(frozen=True)
class SplitComparison:
    """B against A on one split. `score_*` and `success_*` (0..1) are over all of a policy's episodes, the differences (B minus A) over
    those of the same task and sample."""

    split: str
    score_a: Interval
    score_b: Interval
    success_a: Interval
    success_b: Interval
    score: PairedDifference
    success: PairedDifference


@dataclass(frozen=True)
class RunComparison:
    """B against A, split by split; `left_out` are splits that only one of them played."""

    a: str
    b: str
    splits: list[SplitComparison]
    left_out: list[str]
    notes: list[str]


def compare(a: Selection, b: Selection) -> RunComparison:
    """Raises CompareError where no task was played by both, DataFileError where a file is damaged."""
    (name_a, old), (name_b, new) = _episodes(a), _episodes(b)
    splits, left_out = [], sorted(set(old) ^ set(new))
    for split in sorted(set(old) & set(new)):
        before, after = ({e.key: e for e in side[split]} for side in (old, new))
        if not before.keys() & after.keys():
            left_out.append(split)
            continue
        splits.append(
            SplitComparison(
                split=split,
                score_a=_mean(before.values()),
                score_b=_mean(after.values()),
                success_a=wilson(sum(e.success for e in before.values()), len(before)),
                success_b=wilson(sum(e.success for e in after.values()), len(after)),
                score=_paired({k: e.score for k, e in after.items()}, {k: e.score for k, e in before.items()}),
                success=_paired({k: float(e.success) for k, e in after.items()}, {k: float(e.success) for k, e in before.items()}),
            )
        )
    if not splits:
        raise CompareError(
            f"{name_a} and {name_b} share no task: {_played(old)} against {_played(new)}. Compare policies evaluated on the same split."
        )
    envs = [{e.env for episodes in side.values() for e in episodes} for side in (old, new)]
    notes = [f"environments differ: {' '.join(sorted(envs[0]))} and {' '.join(sorted(envs[1]))}"] if envs[0] != envs[1] else []
    return RunComparison(name_a, name_b, splits, left_out, notes)


def _mean(episodes: Iterable[Episode]) -> Interval:
    known = list(episodes)
    return bootstrap_mean([e.score for e in known], clusters=[e.task_id for e in known])


def _paired(new: dict[tuple[str, int], float], old: dict[tuple[str, int], float]) -> PairedDifference:
    return paired_difference(new, old, cluster_of=lambda key: key[0])


def _played(splits: dict[str, list[Episode]]) -> str:
    return ", ".join(f"{split} ({len(episodes)} episodes)" for split, episodes in sorted(splits.items())) or "nothing"


def _episodes(chosen: Selection) -> tuple[str, dict[str, list[Episode]]]:
    """The policy's full name and its episodes by split."""
    info = read_run(chosen.folder)
    stages = [s for s in info.stages if s.kind == "evaluate" and s.state in ("done", "running", "unfinished")]
    known = [s.name.removeprefix("evaluate-") for s in stages]
    finished = [s.name.removeprefix("evaluate-") for s in stages if s.state == "done"]
    policy = chosen.policy or (finished or known or [""])[-1]
    if policy not in known:
        what = f"no evaluation of {policy}" if policy else "no evaluation"
        raise CompareError(f"{info.name} has {what}; it has {', '.join(known) or 'none yet'}.")
    file = chosen.folder / "stages" / f"evaluate-{policy}" / "episodes.jsonl"
    splits: dict[str, list[Episode]] = {}
    # in the report's order, so that the bootstrap's intervals are the report's
    for episode in sorted(jsonl.read(file, Episode), key=lambda e: e.key) if file.exists() else ():
        splits.setdefault(episode.split or "unnamed", []).append(episode)
    return f"{info.name}:{policy}", splits
