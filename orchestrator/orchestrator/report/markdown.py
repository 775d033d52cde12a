"""The report as Markdown: for a pull request, a wiki, a message."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from orchestrator.report.charts import MINUS
from orchestrator.report.html import DASH, duration, interval, p_value, percent, plain, score, signed
from orchestrator.report.model import Report, StageRow

#: What Markdown or HTML would read as more than text. Names come from files, so each is escaped.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&!])")


def text(value: Any) -> str:
    """A value as plain text on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).split()))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def render_markdown(report: Report) -> str:
    """The numbers of the page, without charts and trajectories."""
    return "\n\n".join(part for part in _parts(report) if part) + "\n"


def _parts(r: Report) -> Iterable[str]:
    yield f"# {text(r.run.name)}"
    facts = {"run": r.run.run_id, "created": r.run.created_at, "code": r.run.code_version, "environment": r.run.env, "model": r.run.model}
    facts |= {"from": r.run.begun_from}
    yield ", ".join(f"{name} {text(value)}" for name, value in facts.items() if value) + "."
    yield (
        "Scores are 0 to 1. Intervals are 95 %: percentile bootstrap over tasks (2,000 resamples) for scores and paired differences, "
        "Wilson for success rates."
    )
    yield "\n".join(f"- note: {text(note)}" for note in r.notes)
    yield "## Results"
    yield _results(r) if r.policies else "No policy has been evaluated yet."
    if r.dev:
        yield "The dev tasks alone choose the best policy:"
        yield _table(
            ("Policy", "Split", "n", "Mean dev score", "Success rate", "Best", "Checkpoint"),
            (
                (
                    *(text(row.policy), text(row.split), str(row.n)),
                    f"{score(row.score.mean)} {interval(row.score)}",
                    f"{percent(row.success.mean)} {interval(row.success, percent)}",
                    *("best" if row.best else DASH, text(row.checkpoint or DASH)),
                )
                for row in r.dev
            ),
        )
    if sampled := [row for row in r.policies if row.best_of and row.success_at]:
        yield "Several samples of each task:"
        yield _table(
            ("Policy", "Split", "N", "Tasks", "Best of N", "Success at N"),
            (
                (
                    *(text(row.policy), text(row.split), str(row.samples), str(row.tasks)),
                    f"{score(row.best_of.mean)} {interval(row.best_of)}" if row.best_of else DASH,
                    f"{percent(row.success_at.mean)} {interval(row.success_at, percent)}" if row.success_at else DASH,
                )
                for row in sampled
            ),
        )
    if r.differences:
        yield "Paired differences on the tasks that both played:"
        yield _table(
            ("Comparison", "Split", "n", "Difference", "Wins", "Ties", "Losses", "Sign test p"),
            (
                (
                    f"{text(d.policy)} {MINUS} {text(d.previous)}",
                    text(d.split),
                    str(d.paired.n),
                    f"{signed(d.paired.mean)} {interval(d.paired, signed)}",
                    *(str(n) for n in (d.paired.wins, d.paired.ties, d.paired.losses)),
                    p_value(d.paired.p),
                )
                for d in r.differences
            ),
        )
    if r.task_types:
        yield "## Task types"
        yield "Mean score (number of episodes)."
        yield _types(r)
    if r.curves:
        yield "## Training"
        yield _training(r)
    if r.pairs:
        yield "## Pairs"
        rows = (
            (text(p.stage), *(str(n) for n in (p.win + p.tie + p.lose, p.win, p.tie, p.lose, p.pairs)), text(plain(p.dropped)))
            for p in r.pairs
        )
        yield _table(("Stage", "Explored", "Win", "Tie", "Lose", "Pairs", "Dropped"), rows)
    yield "## Stages"
    yield _table(
        ("Stage", "Took", "Episodes"),
        ((text(s.name), _took(s), str(s.episodes or DASH)) for s in r.stages),
    )
    yield (
        f"{duration(r.totals.duration_s)} in finished stages, {duration(r.totals.training_s)} of it training; "
        f"{r.totals.episodes:,} episodes, {r.totals.steps:,} steps, "
        f"{r.totals.prompt_tokens:,} prompt and {r.totals.completion_tokens:,} completion tokens."
    )


def _took(s: StageRow) -> str:
    if s.taken_from:
        return f"by {text(s.taken_from)}"
    return duration(s.duration_s) if s.finished else "unfinished"


def _results(r: Report) -> str:
    rows = []
    for row in r.policies:
        d = r.difference_for(row)
        rows.append(
            (
                text(row.policy) + ("" if row.finished else " (unfinished)"),
                text(row.split),
                str(row.n),
                f"{score(row.score.mean)} {interval(row.score)}",
                f"{signed(d.paired.mean)} {interval(d.paired, signed)}" if d is not None else DASH,
                f"{percent(row.success.mean)} {interval(row.success, percent)}",
                f"{row.mean_steps:.1f}",
                percent(row.invalid_rate),
            )
        )
    return _table(("Policy", "Split", "n", "Mean score", "Δ vs previous, paired", "Success rate", "Steps", "Invalid actions"), rows)


def _types(r: Report) -> str:
    policies = list(dict.fromkeys(row.policy for row in r.policies))
    rows = []
    for t in r.task_types:
        cells = (f"{t.cells[p].score:.2f} ({t.cells[p].n})" if p in t.cells else DASH for p in policies)
        rows.append((text(t.task_type), text(t.split), *cells))
    return _table(("Task type", "Split", *map(text, policies)), rows)


def _training(r: Report) -> str:
    rows = []
    for c in r.curves:
        known = [x for x in c.series.get("loss", []) if x is not None]
        ends = f"{known[0]:.4g} to {known[-1]:.4g}" if known else DASH
        steps = f"{c.steps[-1]}" + (f" of {c.total_steps}" if c.total_steps else "")
        rows.append((text(c.stage), text(c.method), str(c.examples or DASH), steps, ends, duration(c.elapsed_s)))
    return _table(("Stage", "Method", "Examples", "Optimiser steps", "Loss, first to last", "Took"), rows)
