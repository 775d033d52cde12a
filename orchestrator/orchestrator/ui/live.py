"""What a run does at this moment, from the files that grow."""

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from markupsafe import Markup

from orchestrator.report.build import training_curve
from orchestrator.report.charts import Line, line_chart
from orchestrator.report.html import score, training_charts
from orchestrator.report.load import number
from orchestrator.run_index import RunInfo, StageInfo
from orchestrator.ui.library import Run
from orchestrator.ui.records_index import EpisodeRow

WITH_EPISODES = ("experts", "explore", "check", "evaluate", "dev")


@dataclass(frozen=True)
class StageView:
    """A stage and how far it is. `at` and `of` count episodes or optimiser steps; `mean` is the episodes' score so far, 0..1."""

    info: StageInfo
    unit: str
    at: int
    of: int | None
    mean: float | None
    per_minute: float | None
    left_s: float | None
    bad: list[int]


@dataclass(frozen=True)
class Live:
    """A run's stages, and charts of the one that it is at."""

    info: RunInfo
    stages: list[StageView]
    charts: list[tuple[str, Markup]]

    @property
    def current(self) -> StageView | None:
        """The stage that is being carried out."""
        return next((s for s in self.stages if s.info.state in ("running", "unfinished")), None)


def look(run: Run, info: RunInfo) -> Live:
    """Read what is new in a run's files and sum it up."""
    stages = [_view(run, stage) for stage in info.stages]
    current = info.current
    return Live(info, stages, _charts(run, current) if current is not None else [])


def _view(run: Run, stage: StageInfo) -> StageView:
    if stage.kind in WITH_EPISODES:
        file = run.episodes(stage.name)
        rows = file.rows
        mean = sum(r.score for r in rows) / len(rows) if rows else None
        rate = _rate(rows) if stage.state == "running" else None
        of = stage.expected if stage.state in ("running", "unfinished", "waiting") else None
        left = 60 * (of - len(rows)) / rate if rate and of is not None and of > len(rows) else None
        return StageView(stage, "episodes", len(rows), of, mean, rate, left, list(file.bad))
    if stage.kind == "pairs":
        pairs = run.pairs(stage.name)
        return StageView(stage, "pairs", len(pairs.rows), None, None, None, None, list(pairs.bad))
    at, of, left = _training(run.progress(stage.name))
    return StageView(stage, "steps", at, of, None, None, left if stage.state == "running" else None, [])


def _rate(rows: list[EpisodeRow]) -> float | None:
    """Episodes a minute over the last hundred, by their own clocks."""
    ends = sorted(_end(r) for r in rows[-100:] if _end(r) > 0)
    return 60 * (len(ends) - 1) / (ends[-1] - ends[0]) if len(ends) > 2 and ends[-1] > ends[0] else None


def _end(row: EpisodeRow) -> float:
    try:
        return datetime.fromisoformat(row.started_at).timestamp() + row.duration_s
    except (ValueError, OverflowError):
        return 0.0


def _training(events: list[dict[str, Any]]) -> tuple[int, int | None, float | None]:
    """Steps done, steps in all, seconds left."""
    last = next((e for e in reversed(events) if e.get("event") == "step" and number(e.get("step")) is not None), None)
    start: dict[str, Any] = next((e for e in reversed(events) if e.get("event") == "start"), {})
    at = int(number(last.get("step")) or 0) if last is not None else 0
    total = number((last or start).get("steps"))
    elapsed = number(last.get("elapsed_s")) if last is not None else None
    first = number(start.get("resumed_step")) or 0.0
    left = elapsed / (at - first) * (total - at) if elapsed and total is not None and at > first else None
    return at, int(total) if total is not None else None, left


def _charts(run: Run, stage: StageInfo) -> list[tuple[str, Markup]]:
    if stage.kind in WITH_EPISODES:
        chart = running_mean(run.episodes(stage.name).rows)
        return [("Running mean of the score", chart)] if chart is not None else []
    curve = training_curve(stage.name, stage.kind, run.progress(stage.name))
    return training_charts([curve], "live")[0]["charts"] if curve is not None else []


def running_mean(rows: list[EpisodeRow]) -> Markup | None:
    """Mean score of the first 1, 2, 3, ... episodes that ended; None for fewer than two."""
    if len(rows) < 2:
        return None
    means: list[float | None] = []
    total = 0.0
    for n, row in enumerate(rows, 1):
        total += row.score
        means.append(total / n if math.isfinite(total) else None)
    text = f"{len(rows)} episodes, mean score {score(total / len(rows))}"
    line = Line("mean", range(1, len(rows) + 1), means, 1)
    return line_chart("running-mean", "Running mean of the score", text, [line], "episodes ended", "mean score so far (0 to 1)", (0.0, 1.0))
