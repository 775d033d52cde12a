"""Episodes and pairs: the list with its filters, one trajectory, and two side by side."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from orchestrator.records import Episode
from orchestrator.report.charts import Line, line_chart
from orchestrator.report.trajectories import compare_episodes, compare_pair, read_turns
from orchestrator.ui.filters import ORDERS, Filter, Found, choices, from_query
from orchestrator.ui.library import Run
from orchestrator.ui.pages import AnyRun, page
from orchestrator.ui.records_index import RecordGone, task_text

router = APIRouter()
#: Rows of a list on one page.
ROWS = 50
EPISODES, PAIRS = "episodes.jsonl", "pairs.jsonl"
Page = Annotated[int, Query(ge=1, le=1_000_000)]
Name = Annotated[str, Query(max_length=500)]
Sample = Annotated[int, Query(ge=0, le=2**31)]
Filtered = Annotated[Filter, Depends(from_query)]


@router.get("/runs/{name}/episodes")
def episodes(request: Request, run: AnyRun, shown: Filtered, at: Annotated[int, Query(alias="page", ge=1, le=1_000_000)] = 1) -> Response:
    """The episodes that a filter lets through."""
    stages = run.stages_with(EPISODES)
    found = shown.find(run, stages)
    bad = {stage: run.episodes(stage).bad for stage in stages}
    return page(
        request,
        "episodes",
        run=run.folder.name,
        filter=shown,
        choices=choices(run, stages),
        orders=ORDERS,
        bad={stage: lines for stage, lines in bad.items() if lines},
        mean=sum(row.score for _, row in found) / len(found) if found else None,
        successes=sum(row.success for _, row in found),
        **_paged(found, at),
    )


def _paged(found: list[Found], at: int) -> dict[str, object]:
    pages = max(1, -(-len(found) // ROWS))
    at = min(at, pages)
    return {"total": len(found), "rows": found[(at - 1) * ROWS : at * ROWS], "at": at, "pages": pages, "first": (at - 1) * ROWS + 1}


@router.get("/runs/{name}/episode")
def episode(request: Request, run: AnyRun, shown: Filtered, stage: Name, task: Name, sample: Sample = 0) -> Response:
    """One trajectory, step by step; the filter tells which are before and after it."""
    found = _episode(run, stage, task, sample)
    listed = [(s, r.task_id, r.sample) for s, r in shown.find(run, run.stages_with(EPISODES))]
    place = listed.index((stage, task, sample)) if (stage, task, sample) in listed else None
    neighbours = {}
    if place is not None:
        neighbours = {"prev": listed[place - 1] if place else None, "next": listed[place + 1] if place + 1 < len(listed) else None}
    return page(
        request,
        "episode",
        run=run.folder.name,
        stage=stage,
        e=found,
        task=task_text(found.prompt),
        turns=list(zip(read_turns(found.turns, found.steps), [*found.steps, *[None] * len(found.turns)], strict=False)),
        chart=_score_chart(found),
        others=_same_task(run, stage, found),
        filter=shown,
        place=None if place is None else (place + 1, len(listed)),
        links={way: shown.query(stage=to[0], task=to[1], sample=to[2]) for way, to in neighbours.items() if to is not None},
    )


def _episode(run: Run, stage: str, task: str, sample: int) -> Episode:
    if stage not in run.stages_with(EPISODES):
        raise HTTPException(404, f"This run has no episodes of a stage {stage}.")
    file = run.episodes(stage)
    row = next((r for r in file.rows if (r.task_id, r.sample) == (task, sample)), None)
    if row is None:
        raise HTTPException(404, f"Stage {stage} has no episode of task {task}, sample {sample}.")
    try:
        return file.load(row)
    except RecordGone as error:
        raise HTTPException(409, f"{error}.") from error


def _same_task(run: Run, stage: str, e: Episode) -> list[dict[str, object]]:
    """The other episodes of the task: where each is, and where both are side by side."""
    found: list[dict[str, object]] = []
    for other in run.stages_with(EPISODES):
        for row in run.episodes(other).rows:
            if row.task_id == e.task_id and (other, row.sample) != (stage, e.sample):
                where = urlencode({"stage": other, "task": row.task_id, "sample": row.sample})
                both = {"task": e.task_id, "left": stage, "left_sample": e.sample, "right": other, "right_sample": row.sample}
                found.append({"stage": other, "row": row, "where": where, "both": urlencode(both)})
    return found


def _score_chart(e: Episode) -> object:
    scores = [0.0, *(s.score for s in e.steps)]
    title = f"Score after each step, {e.task_id}"
    text = f"from 0 to {e.score:.3f} in {len(e.steps)} steps"
    line = Line("score", range(len(scores)), scores, 1)
    return line_chart("score", title, text, [line], "steps taken", "score (0 to 1)", (0.0, 1.0)) if len(scores) > 2 else None


@router.get("/runs/{name}/compare")
def side_by_side(
    request: Request, run: AnyRun, task: Name, left: Name, right: Name, left_sample: Sample = 0, right_sample: Sample = 0
) -> Response:
    """Two episodes of a task side by side."""
    sides = _episode(run, left, task, left_sample), _episode(run, right, task, right_sample)
    links = [urlencode({"stage": s, "task": task, "sample": n}) for s, n in ((left, left_sample), (right, right_sample))]
    swapped = {"task": task, "left": right, "left_sample": right_sample, "right": left, "right_sample": left_sample}
    return page(request, "sides", run=run.folder.name, c=compare_episodes(*sides), links=links, swap=urlencode(swapped), pair=None, way={})


@router.get("/runs/{name}/pairs")
def pairs(
    request: Request,
    run: AnyRun,
    q: Annotated[str, Query(max_length=200)] = "",
    stage: Annotated[str, Query(alias="in", max_length=200)] = "",
    outcome: Annotated[str, Query(max_length=10)] = "",
    at: Annotated[int, Query(alias="page", ge=1, le=1_000_000)] = 1,
) -> Response:
    """The preference pairs, as the trainer gets them."""
    stages = run.stages_with(PAIRS)
    found = []
    for name in stages:
        if stage in ("", name):
            file = run.pairs(name)
            hits = file.search(q.strip()) if q.strip() else None
            found += [(name, r) for r in file.rows if outcome in ("", r.outcome) and (hits is None or r.number in hits)]
    count = max(1, -(-len(found) // ROWS))
    at = min(at, count)
    shown = {"q": q, "in": stage, "outcome": outcome}
    query = urlencode({k: v for k, v in shown.items() if v})
    bad = {name: run.pairs(name).bad for name in stages if run.pairs(name).bad}
    rows = found[(at - 1) * ROWS : at * ROWS]
    return page(request, "pairs", run=run.folder.name, stages=stages, rows=rows, total=len(found), at=at, pages=count, query=query,
                first=(at - 1) * ROWS + 1, words=q, stage=stage, outcome=outcome, bad=bad)  # fmt: skip


@router.get("/runs/{name}/pair")
def pair(request: Request, run: AnyRun, stage: Name, line: Annotated[int, Query(ge=1, le=2**31)]) -> Response:
    """A pair side by side, from its line in the file."""
    rows = run.pairs(stage).rows if stage in run.stages_with(PAIRS) else []
    place = next((i for i, r in enumerate(rows) if r.number == line), None)
    if place is None:
        raise HTTPException(404, f"There is no pair in line {line} of stage {stage}.")
    try:
        found = run.pairs(stage).load(rows[place])
    except RecordGone as error:
        raise HTTPException(409, f"{error}.") from error
    near = {"prev": rows[place - 1] if place else None, "next": rows[place + 1] if place + 1 < len(rows) else None}
    way = {name: urlencode({"stage": stage, "line": row.number}) for name, row in near.items() if row is not None}
    return page(request, "sides", run=run.folder.name, c=compare_pair(stage, found), links=None, swap=None, pair=found, way=way)
