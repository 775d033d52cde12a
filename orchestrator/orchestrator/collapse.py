"""Whether a new policy has broken down: the sign that a few episodes show, invalid actions. Pure functions."""

from collections.abc import Iterable

from orchestrator.records import Episode


def invalid_share(episodes: Iterable[Episode]) -> float:
    """The share of turns, 0..1, whose action the environment refused or that held none; 0 without turns."""
    turns = [step.valid for episode in episodes for step in episode.steps]
    return turns.count(False) / len(turns) if turns else 0.0


def verdict(before: float, now: float, tasks: int, bound: float) -> str | None:
    """A sentence if the share of invalid turns rose by more than `bound`, else None."""
    if now - before <= bound:
        return None
    return f"invalid turns rose from {before:.0%} to {now:.0%} on {tasks} training tasks, by more than collapse.invalid_rise {bound:g}"
