"""Which of the agent's own episodes become training data of rejection-sampling fine-tuning (RFT, arXiv 2308.01825). Pure functions."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.records import Episode


@dataclass
class Selection:
    """What is kept, at most one episode a task, and why the others are not."""

    kept: list[Episode] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)

    def summary(self) -> dict[str, object]:
        """Counts for a stage's record."""
        return {"own": len(self.kept), "dropped": dict(self.dropped)}


def actions(episode: Episode) -> tuple[str | None, ...]:
    """What the environment saw: two episodes of a task with the same actions are one, whatever was thought."""
    return tuple(step.action for step in episode.steps)


def select_successes(explored: Iterable[Episode], experts: Mapping[str, Episode]) -> Selection:
    """The best success of each task: highest reward, then fewest steps, then the earliest; not what the expert already shows."""
    result = Selection()
    best: dict[str, Episode] = {}
    for episode in explored:
        if not episode.success:
            result.dropped["no success"] += 1
            continue
        expert = experts.get(episode.task_id)
        if expert is not None and actions(expert) == actions(episode):
            result.dropped["the expert's own actions"] += 1
            continue
        rival = best.get(episode.task_id)
        if rival is not None:
            same = actions(rival) == actions(episode)
            result.dropped["the same actions as another sample" if same else "another sample is better"] += 1
            if _rank(rival) <= _rank(episode):
                continue
        best[episode.task_id] = episode
    result.kept = [best[task] for task in sorted(best)]
    return result


def _rank(episode: Episode) -> tuple[float, int, int]:
    return (-episode.reward, len(episode.steps), episode.sample)
