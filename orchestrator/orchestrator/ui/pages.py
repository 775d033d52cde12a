"""The list of runs, a run, and two policies compared: routes that read, and choose what a template shows."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from orchestrator.report.html import parts, render_html
from orchestrator.run_compare import CompareError, Selection, compare
from orchestrator.run_index import read_run
from orchestrator.ui import live
from orchestrator.ui.library import Library, Run

router = APIRouter()
#: Seconds that a page waits for its report; a longer count comes later, by itself.
WAIT_S = 1.5
#: Seconds that a download waits.
DOWNLOAD_WAIT_S = 300.0
Words = Annotated[str, Query(max_length=200)]


def the_run(request: Request, name: str) -> Run:
    """The run that an address names, or a page that says there is none."""
    run = library(request).get(name)
    if run is None:
        raise HTTPException(404, f"There is no run {name} in {library(request).runs}. It may have been removed or renamed.")
    return run


def library(request: Request) -> Library:
    """The runs that this server shows."""
    found: Library = request.app.state.library
    return found


AnyRun = Annotated[Run, Depends(the_run)]


def page(request: Request, template: str, **context: object) -> Response:
    """A page from its template."""
    answer: Response = request.app.state.render(template, **context)
    return answer


@router.get("/")
def runs(request: Request, q: Words = "") -> Response:
    """All runs, newest first."""
    return page(request, "runs", **_runs(request, q))


@router.get("/live/runs")
def runs_live(request: Request, q: Words = "") -> Response:
    """The list alone, for the page to put in place of its own."""
    return page(request, "runs_live", **_runs(request, q))


def _runs(request: Request, words: str) -> dict[str, object]:
    shelf = library(request)
    found = [read_run(shelf.runs / name) for name in shelf.names()]
    needle = words.strip().casefold()
    shown = [r for r in found if needle in " ".join([r.name, r.env or "", r.model or "", r.state]).casefold()]
    shown.sort(key=lambda r: (r.created_at or "", r.name), reverse=True)
    return {"runs": shown, "all": len(found), "words": words, "folder": shelf.runs}


@router.get("/runs/{name}")
def run_page(request: Request, run: AnyRun) -> Response:
    """One run: what it does now, and its report."""
    return page(request, "run", **_live(run), **_report(run))


@router.get("/runs/{name}/live")
def run_live(request: Request, run: AnyRun) -> Response:
    """What the run does now, for the page to put in place."""
    return page(request, "run_live", **_live(run))


@router.get("/runs/{name}/numbers")
def run_numbers(request: Request, run: AnyRun) -> Response:
    """The report's sections, for the page to put in place."""
    return page(request, "run_numbers", **_report(run))


def _live(run: Run) -> dict[str, object]:
    info = run.info()
    return {"info": info, "live": live.look(run, info), "with_pairs": bool(run.stages_with("pairs.jsonl"))}


def _report(run: Run) -> dict[str, object]:
    report, fault, counting = run.report.get(WAIT_S)
    return {
        "run": run.folder.name,
        "fault": fault,
        "counting": counting,
        "has_report": report is not None,
        **(parts(report) if report is not None else {}),
    }


@router.get("/runs/{name}/report.html")
def download(run: AnyRun) -> Response:
    """The report as `eto report` writes it."""
    report, fault, _ = run.report.get(DOWNLOAD_WAIT_S)
    if report is None:
        raise HTTPException(409, f"This run has no report: {fault or 'it is still being counted; try again'}")
    ascii_name = run.folder.name.encode("ascii", "replace").decode().replace('"', "_").replace("?", "_")
    headers = {"Content-Disposition": f'attachment; filename="{ascii_name}-report.html"'}
    return Response(render_html(report).encode("utf-8", "replace"), media_type="text/html", headers=headers)


@router.get("/compare")
def compare_page(request: Request, a: Words = "", b: Words = "") -> Response:
    """Two policies, of one run or of two, on the tasks that both played."""
    shelf = library(request)
    names = shelf.names()
    result, fault = None, None
    if a and b:
        try:
            result = compare(_selection(shelf, a), _selection(shelf, b))
        except (CompareError, ValueError, OSError) as error:
            fault = str(error)
    options = [f"{r.name}:{s.name.removeprefix('evaluate-')}" for r in map(read_run, map(shelf.runs.joinpath, names)) for s in r.stages
               if s.kind == "evaluate" and s.state in ("done", "running", "unfinished")]  # fmt: skip
    return page(request, "compare_runs", a=a, b=b, options=options, result=result, fault=fault)


def _selection(shelf: Library, text: str) -> Selection:
    name, _, policy = text.rpartition(":") if ":" in text else (text, "", "")
    if shelf.get(name) is None:
        raise CompareError(f"There is no run {name} here.")
    return Selection(shelf.runs / name, policy or None)
