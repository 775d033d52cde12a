"""The numbers of a study's arms, and its table as docs/results.md shows it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.records import Episode
from orchestrator.statistics import bootstrap_mean, paired_difference, wilson

#: Episodes by seed and task.
Seeded = Mapping[tuple[int, str], Episode]
SCORED = ("arm", "score", "success", "difference to the control", "p", "wins, ties, losses")
BEHAVED = ("steps", "invalid turns", "repeated turns", "Δ chosen, rejected")


def repeated(episode: Episode) -> Iterator[bool]:
    """For each turn, whether the same action was taken before in the episode with the same observation as answer: a loop."""
    seen: set[tuple[str | None, str]] = set()
    answers = [m.content for m in episode.turns if m.role == "user"]
    for step, answer in zip(episode.steps, answers, strict=False):
        yield (step.action, answer) in seen
        seen.add((step.action, answer))


def row(name: str, episodes: Seeded, control: Seeded, trained: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers of an arm. `trained`: what the trainer says of each seed's last job."""
    turns = [(step, loop) for e in episodes.values() for step, loop in zip(e.steps, repeated(e), strict=False)]
    splits = sorted({e.split for e in episodes.values()})
    return {
        "arm": name,
        "seeds": sorted({seed for seed, _ in episodes}),
        **outcome(episodes, control),
        "splits": {s: outcome({k: e for k, e in episodes.items() if e.split == s}, control) for s in splits} if len(splits) > 1 else {},
        "steps": sum(len(e.steps) for e in episodes.values()) / len(episodes),
        "invalid": sum(not step.valid for step, _ in turns) / len(turns),
        "repeated": sum(loop for _, loop in turns) / len(turns),
        "trained": trained,
    }


def outcome(episodes: Seeded, control: Seeded) -> dict[str, Any]:
    """Score and success with intervals of 95 %, and the difference to the control where both played the same."""
    scores = bootstrap_mean([e.score for e in episodes.values()], clusters=[task for _, task in episodes])
    won = wilson(sum(e.success for e in episodes.values()), len(episodes))
    against: dict[str, Any] = {}
    if episodes.keys() & control.keys():
        difference = paired_difference(
            {k: e.score for k, e in episodes.items()}, {k: e.score for k, e in control.items()}, cluster_of=lambda key: key[1]
        )
        against = {
            "difference": [difference.mean, difference.low, difference.high],
            "wins_ties_losses": [difference.wins, difference.ties, difference.losses],
            "p": difference.p,
        }
    return {
        "episodes": len(episodes),
        "score": [scores.mean, scores.low, scores.high],
        "success": [won.mean, won.low, won.high],
        **against,
    }


def markdown(found: Mapping[str, Any]) -> str:
    """The table of a summary. Δ: nats that each side of a pair has gained in training, mean of the last step's pairs and of the seeds."""
    columns = (*SCORED, *BEHAVED)
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for arm in found["arms"]:
        lines.append(f"| {arm['arm']}{' (the control)' if arm['arm'] == found['control'] else ''} | {_cells(arm)} | {_behaviour(arm)} |")
        lines += [f"| · {split} | {_cells(part)} | | | | |" for split, part in arm["splits"].items()]
    return "\n".join(lines) + "\n"


def _cells(part: Mapping[str, Any]) -> str:
    score, success = "{:.3f} [{:.3f}, {:.3f}]".format(*part["score"]), "{:.1%} [{:.1%}, {:.1%}]".format(*part["success"])
    cells = [score, success.replace("%", " %")]
    if "difference" in part:
        cells += [
            signed("{:+.3f} [{:+.3f}, {:+.3f}]", part["difference"]),
            f"{part['p']:.2g}",
            "{}, {}, {}".format(*part["wins_ties_losses"]),
        ]
    return " | ".join(cells + [""] * (5 - len(cells)))


def _behaviour(arm: Mapping[str, Any]) -> str:
    moved = [m["moved"] for m in arm["trained"] if "moved" in m]
    gained = signed("{:+.1f}, {:+.1f}", [sum(side) / len(moved) for side in zip(*moved, strict=True)]) if moved else ""
    return f"{arm['steps']:.1f} | {arm['invalid']:.1%} | {arm['repeated']:.1%} | {gained}".replace("%", " %")


def signed(form: str, numbers: Sequence[float]) -> str:
    """Numbers in a form, with a minus sign that is as wide as a plus."""
    return form.format(*numbers).replace("-", "\N{MINUS SIGN}")
