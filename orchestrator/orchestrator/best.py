"""Which of a run's policies is best: by its dev tasks alone, never by those that it is evaluated on. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """The best policy so far, its mean dev score (0..1), and how many policies after it were not better."""

    policy: str
    score: float
    since: int


def standing(scores: Sequence[tuple[str, float]]) -> Standing:
    """Of policies in the order in which they were trained. Of equals the earlier one is best: it cost less. Raises ValueError of none."""
    at = max(range(len(scores)), key=lambda i: (scores[i][1], -i))
    return Standing(*scores[at], len(scores) - 1 - at)


def verdict(now: Standing, patience: int | None) -> str | None:
    """Why no further iteration is worth it; None to go on."""
    if patience is None or now.since < patience:
        return None
    times = "1 iteration has" if now.since == 1 else f"{now.since} iterations have"
    return f"{times} brought no better dev score than {now.policy}'s {now.score:.3f}"
