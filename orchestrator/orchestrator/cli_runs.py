"""`eto runs`: what runs there are, one in numbers, two policies compared, and the removal of runs."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="The run directories: list, show, compare, remove, clean.", no_args_is_help=True)
RunsDir = Annotated[Path, typer.Option("--runs", help="Folder of the run directories.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def known_runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """The runs whose names begin so: for the shell's completion."""
    from orchestrator.run_index import find_runs

    return [f.name for f in find_runs(Path(ctx.params.get("runs") or "runs")) if f.name.startswith(incomplete)]


@app.command("list")
def list_runs(runs: RunsDir = Path("runs"), as_json: Json = False) -> None:
    """List the runs: state, stages done, and the last evaluation's mean score (0..1)."""
    from orchestrator.report.html import DASH, score
    from orchestrator.run_index import find_runs, read_run

    found = [read_run(folder) for folder in find_runs(runs)]
    if as_json:
        _print_json([r.to_dict() for r in found])
        return
    rows = [
        [
            r.name,
            r.state + (f" ({r.current.name})" if r.current else ""),
            f"{r.done}/{r.needed}",
            r.policy or DASH,
            DASH if r.mean_score is None else score(r.mean_score),
            DASH if r.episodes is None else str(r.episodes),
            r.env or DASH,
            r.model or DASH,
            r.created_at or DASH,
        ]
        for r in found
    ]
    if not rows:
        typer.echo(f"no run in {runs} yet; `eto run CONFIG` begins one")
        return
    _print_table(["Run", "State", "Stages", "Policy", "Score", "n", "Environment", "Model", "Begun"], rows)


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run's name, or its directory.", autocompletion=known_runs)],
    runs: RunsDir = Path("runs"),
    as_json: Json = False,
) -> None:
    """Show a run: its stages, and every evaluated policy with n and 95 % intervals."""
    from orchestrator.progress import terminal
    from orchestrator.report import build_report, render_table
    from orchestrator.report.html import DASH, duration, plain
    from orchestrator.run_index import read_run, run_folder

    folder = run_folder(runs, run)
    info, report = read_run(folder), build_report(folder)
    if as_json:
        data = report.model_dump(mode="json", include={"policies", "differences", "pairs", "totals"})
        _print_json({**info.to_dict(), **data, "notes": sorted({*info.notes, *report.notes})})
        return
    typer.echo(f"{info.name}: {info.state}, {info.done} of {info.needed} stages done; {info.env or DASH}, {info.model or DASH}")
    typer.echo(f"{info.path}  run id {info.run_id or DASH}, code {info.code_version or DASH}, begun {info.created_at or DASH}")
    for note in sorted({*info.notes, *report.notes}):
        typer.echo(f"note: {note}")
    rows = [[s.name, s.state, duration(s.duration_s), plain({k: v for k, v in s.summary.items() if k != "metrics"})] for s in info.stages]
    _print_table(
        ["Stage", "State", "Took", "Summary"], [[*row[:3], row[3] if info.stages[i].summary else DASH] for i, row in enumerate(rows)]
    )
    terminal().print(render_table(report))


@app.command()
def compare(
    a: Annotated[
        str, typer.Argument(metavar="A", help="RUN or RUN:POLICY; without a policy the last that was evaluated.", autocompletion=known_runs)
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="RUN or RUN:POLICY.", autocompletion=known_runs)],
    runs: RunsDir = Path("runs"),
    as_json: Json = False,
) -> None:
    """Compare two policies, of one run or of two: paired differences, B minus A, on the tasks that both played."""
    from orchestrator.config import ConfigError
    from orchestrator.report.html import interval, p_value, score, signed
    from orchestrator.run_compare import CompareError, Selection
    from orchestrator.run_compare import compare as compared
    from orchestrator.run_index import run_folder, split_name
    from orchestrator.statistics import PairedDifference

    chosen = [Selection(run_folder(runs, name), policy) for name, policy in (split_name(runs, a), split_name(runs, b))]
    try:
        result = compared(*chosen)
    except CompareError as error:
        raise ConfigError(str(error)) from error
    if as_json:
        _print_json(asdict(result))
        return
    typer.echo(f"A = {result.a}, B = {result.b}; B - A is paired by task; 95 % intervals; p of the sign test")
    for measure in ("score", "success"):
        rows = []
        for s in result.splits:
            d: PairedDifference = getattr(s, measure)
            sides = [getattr(s, f"{measure}_a"), getattr(s, f"{measure}_b")]
            told = [f"{score(side.mean)} {interval(side)}" for side in sides]
            ends = [f"{signed(d.mean)} {interval(d, signed)}", f"{d.wins}/{d.ties}/{d.losses}", p_value(d.p)]
            rows.append([s.split, str(d.n), *told, *ends])
        _print_table([measure.capitalize(), "n", "A", "B", "B - A", "W/T/L", "p"], rows)
    for note in [*result.notes, *(f"no common task on {split}" for split in result.left_out)]:
        typer.echo(f"note: {note}")


@app.command()
def same(
    a: Annotated[str, typer.Argument(metavar="A", help="A run's name, or its directory.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another run.")],
    runs: RunsDir = Path("runs"),
    as_json: Json = False,
) -> None:
    """Tell whether two runs hold the same episodes, pairs and weights, stage by stage; exit code 1 if they do not."""
    from orchestrator.run_index import run_folder

    if not print_same(run_folder(runs, a), run_folder(runs, b), as_json):
        raise typer.Exit(1)


def print_same(a: Path, b: Path, as_json: bool = False) -> bool:
    """Print what two runs share; whether it is everything."""
    from orchestrator.report.html import DASH
    from orchestrator.run_same import compare as compared

    found = compared(a, b)
    if as_json:
        _print_json([{**asdict(s), "same": s.same} for s in found])
    else:
        rows = [[s.stage, s.what, f"{s.equal} of {s.n}", s.different or DASH] for s in found]
        _print_table(["Stage", "What", "Equal", "Different, for example"], rows)
    return all(s.same for s in found)


@app.command()
def rm(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="Names of runs, or their directories.", autocompletion=known_runs)],
    runs: RunsDir = Path("runs"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove runs, checkpoints and all. Asks first; refuses a run that an `eto` works on."""
    import sys

    from orchestrator.config import ConfigError
    from orchestrator.run_index import run_folder
    from orchestrator.run_remove import remove, size_bytes
    from orchestrator.run_store import RunStore, RunStoreError

    folders = [run_folder(runs, name) for name in names]
    busy = [str(f) for f in folders if RunStore(f).busy()]
    if busy:
        raise RunStoreError(f"another `eto` works on {', '.join(busy)}: nothing was removed. Wait for it or stop it.")
    sizes = {str(folder): size_bytes(folder) for folder in folders}
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError(
                f"nobody to ask whether to remove {', '.join(sizes)}: nothing was removed. Give --yes to remove without asking."
            )
        for path, size in sizes.items():
            typer.echo(f"{path}: {size / 1e6:,.1f} MB", err=True)
        if not typer.confirm(f"Remove {'it' if len(sizes) == 1 else f'these {len(sizes)} runs'} for good?", err=True):
            typer.echo("nothing was removed", err=True)
            raise typer.Exit(1)
    for folder in folders:
        remove(folder)
        if not as_json:
            typer.echo(f"removed {folder}")
    if as_json:
        _print_json([{"path": path, "bytes": size} for path, size in sizes.items()])


@app.command()
def gc(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN...]", help="Names of runs. Default: all.", autocompletion=known_runs)
    ] = None,
    runs: RunsDir = Path("runs"),
    keep: Annotated[list[str] | None, typer.Option("--keep", metavar="STAGE", help="Keep this stage's weights; repeat for more.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove; without it nothing is.")] = False,
    as_json: Json = False,
) -> None:
    """Find what nothing refers to: stages set aside, leftovers, weights of finished runs' policies but the last and the best."""
    from orchestrator import run_clean
    from orchestrator.run_index import find_runs, run_folder
    from orchestrator.run_store import RunStore

    folders = [run_folder(runs, name) for name in names] if names else find_runs(runs)
    busy = [f for f in folders if RunStore(f).busy()]
    found = {f: run_clean.find(f, keep or ()) for f in folders if f not in busy}
    cut_off = [] if names else run_clean.find_removed(runs)
    waste = [*(w for each in found.values() for w in each), *cut_off]
    if yes:
        for folder, each in found.items():
            run_clean.remove(folder, each)
        for each_run in cut_off:
            run_clean.discard(each_run.path)
    if as_json:
        _print_json([{**asdict(w), "path": str(w.path), "removed": yes} for w in waste])
        return
    for folder in busy:
        typer.echo(f"{folder} was left alone: an `eto` works on it")
    if waste:
        _print_table(["Run", "What", "Frees, MB", "Why"], [[w.run, str(w.within), f"{w.bytes / 1e6:,.1f}", w.why] for w in waste])
    size = f"{sum(w.bytes for w in waste) / 1e6:,.1f} MB"
    if not waste:
        typer.echo("nothing to remove")
    else:
        typer.echo(f"removed: {size}" if yes else f"{size} could be freed; nothing was removed. --yes removes these.")


@app.command()
def push(
    run: Annotated[str, typer.Argument(help="A run's name, or its directory.", autocompletion=known_runs)],
    url: Annotated[str, typer.Argument(metavar="URL", help="s3://BUCKET/FOLDER, sftp://USER@HOST/FOLDER, file:///FOLDER, ...")],
    runs: RunsDir = Path("runs"),
    as_json: Json = False,
) -> None:
    """Copy a run's finished stages and report to URL/NAME. Again: only what is new; a push that was cut off goes on."""
    from orchestrator import artefacts
    from orchestrator.run_index import run_folder

    _told(artefacts.push(run_folder(runs, run).resolve(), url, lambda text: typer.echo(text, err=True)), "pushed", as_json)


@app.command()
def pull(
    run: Annotated[str, typer.Argument(help="A run's name.")],
    url: Annotated[str, typer.Argument(metavar="URL", help="Where it was pushed to.")],
    runs: RunsDir = Path("runs"),
    as_json: Json = False,
) -> None:
    """Bring a run that was pushed to URL, whole or not at all. A pull that was cut off goes on."""
    from orchestrator import artefacts

    _told(artefacts.pull(run, url, runs, lambda text: typer.echo(text, err=True)), "pulled", as_json)


def _told(moved: Any, what: str, as_json: bool) -> None:
    if as_json:
        _print_json(asdict(moved))
    else:
        sizes = [f"{n / 1e6:,.1f} MB" for n in (moved.bytes, moved.sent_bytes)]
        typer.echo(f"{what} {moved.run}: {moved.files} files, {sizes[0]}; {moved.sent_files} of them, {sizes[1]}, had to be sent")


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=1, ensure_ascii=False))


def _print_table(head: list[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from orchestrator.progress import terminal

    table = Table(box=box.SIMPLE_HEAD)
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if i and name in ("Score", "n", "Took", "Frees, MB") else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: names from files must not be read as markup
    terminal().print(table)
