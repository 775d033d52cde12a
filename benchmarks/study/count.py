"""The numbers of a study's arms, and its table as docs/results.md shows it."""

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from orchestrator.statistics import TIE, PairedDifference, bootstrap_mean, paired_difference, wilson
from outcomes import Seeded

SCORED = ("arm", "score", "success", "difference", "by seed", "p", "wins, ties, losses")
BEHAVED = ("steps", "invalid turns", "repeated turns", "Δ chosen, rejected")

#: Draws of signs for p, which is therefore never below 1e-4.
FLIPS = 10_000

#: Names the world that a task is played in: tasks of one world are not independent, so intervals draw whole worlds.
World = Callable[[str], Hashable]


def world_of(sizes: Mapping[str, int]) -> World:
    """Tasks of types that begin with a key of `sizes` share a world with those of the same number // size; any other is its own."""

    def world(task: str) -> Hashable:
        kind, _, number = task.rpartition(":")
        return next(((begins, int(number) // size) for begins, size in sizes.items() if kind.startswith(begins)), task)

    return world


def row(name: str, played: Seeded, control: Seeded, trained: Sequence[Mapping[str, Any]], world: World) -> dict[str, Any]:
    """The numbers of an arm. `trained`: what the trainer says of each seed's last job."""
    splits = sorted({o.split or "" for o in played.values()})
    turns = sum(o.steps for o in played.values())
    return {
        "arm": name,
        "seeds": sorted({seed for seed, _ in played}),
        **totals(played, control, world),
        "splits": {s: totals({k: o for k, o in played.items() if o.split == s}, control, world) for s in splits} if len(splits) > 1 else {},
        "steps": turns / len(played),
        "invalid": sum(o.invalid for o in played.values()) / turns,
        "repeated": sum(o.repeated for o in played.values()) / turns,
        "trained": trained,
    }


def totals(played: Seeded, control: Seeded, world: World) -> dict[str, Any]:
    """Score and success with intervals of 95 %, and the difference to the control where both played the same."""
    worlds = [world(task) for _, task in played]
    scores = bootstrap_mean([o.score for o in played.values()], clusters=worlds)
    successes = [o.success for o in played.values()]
    # seeds play the same tasks, which are then not independent, and neither are those of a world: Wilson's interval would be too narrow
    won = wilson(sum(successes), len(worlds)) if len(set(worlds)) == len(worlds) else bootstrap_mean(successes, clusters=worlds)
    against: dict[str, Any] = {}
    if played.keys() & control.keys():
        difference, shared = _against(played, control, world), _p_of_worlds(played, control, world)
        against = {
            "difference": [difference.mean, difference.low, difference.high],
            "wins_ties_losses": [difference.wins, difference.ties, difference.losses],
            "p": difference.p if shared is None else shared,
            "by_seed": [
                _against({k: o for k, o in played.items() if k[0] == seed}, control, world).mean
                for seed in sorted({s for s, _ in played.keys() & control.keys()})
            ],
        }
    return {
        "episodes": len(played),
        "worlds": len(set(worlds)),
        "score": [scores.mean, scores.low, scores.high],
        "success": [won.mean, won.low, won.high],
        **against,
    }


def _against(played: Seeded, control: Seeded, world: World) -> PairedDifference:
    ours, theirs = ({key: outcome.score for key, outcome in side.items()} for side in (played, control))
    return paired_difference(ours, theirs, cluster_of=lambda key: world(key[1]))


def _p_of_worlds(played: Seeded, control: Seeded, world: World) -> float | None:
    """How often worlds whose signs are drawn by chance make as large a difference.

    None where no tasks share a world: the sign test holds there.
    """
    common = played.keys() & control.keys()
    gained: dict[Hashable, float] = defaultdict(float)
    for seed, task in sorted(common):  # in an order of its own, so that the same draws meet the same worlds each time
        gained[world(task)] += played[seed, task].score - control[seed, task].score
    if len(gained) == len({task for _, task in common}):
        return None
    draw, observed = random.Random(0), abs(sum(gained.values())) - TIE
    as_large = sum(abs(sum(draw.choice((g, -g)) for g in gained.values())) >= observed for _ in range(FLIPS))
    return (1 + as_large) / (1 + FLIPS)


def markdown(found: Mapping[str, Any], brief: bool = False) -> str:
    """The table of a summary; a brief one has neither splits nor turns.

    Δ: nats that each side of a pair has gained in training, mean of the last step's pairs and of the seeds.
    """
    columns = [f"difference to {found['control']}" if c == "difference" else c for c in (*SCORED, *(() if brief else BEHAVED))]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for arm in found["arms"]:
        lines.append(f"| {arm['arm']} | {_cells(arm)} |{'' if brief else f' {_behaviour(arm)} |'}")
        if not brief:
            lines += [f"| · {split} | {_cells(part)} |{' |' * len(BEHAVED)}" for split, part in arm["splits"].items()]
    return "\n".join(lines) + "\n"


def _cells(part: Mapping[str, Any]) -> str:
    cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*part["score"]), percent(part["success"])]
    if "difference" in part:
        cells += [
            signed("{:+.3f} [{:+.3f}, {:+.3f}]", part["difference"]),
            ", ".join(signed("{:+.3f}", [mean]) for mean in part["by_seed"]),
            f"{part['p']:.2g}",
            "{}, {}, {}".format(*part["wins_ties_losses"]),
        ]
    return " | ".join(cells + [""] * (len(SCORED) - 1 - len(cells)))


def percent(part: Sequence[float]) -> str:
    """A share and its interval."""
    return "{:.1%} [{:.1%}, {:.1%}]".format(*part).replace("%", " %")


def _behaviour(arm: Mapping[str, Any]) -> str:
    moved = [m["moved"] for m in arm["trained"] if "moved" in m]
    gained = signed("{:+.1f}, {:+.1f}", [sum(side) / len(moved) for side in zip(*moved, strict=True)]) if moved else ""
    return f"{arm['steps']:.1f} | {arm['invalid']:.1%} | {arm['repeated']:.1%} | {gained}".replace("%", " %")


def signed(form: str, numbers: Sequence[float]) -> str:
    """Numbers in a form, with a minus sign that is as wide as a plus."""
    return form.format(*numbers).replace("-", "\N{MINUS SIGN}")
