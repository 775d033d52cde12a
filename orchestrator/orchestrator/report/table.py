"""The headline table for the terminal."""

from rich import box
from rich.table import Table
from rich.text import Text

from orchestrator.report.html import DASH, interval, percent, score, signed
from orchestrator.report.model import Report
from orchestrator.statistics import Interval


def render_table(report: Report) -> Table:
    """One row per policy and split, as in the page's first table."""
    several = len({row.split for row in report.policies}) > 1
    table = Table(title=Text(f"{report.run.name}: scores 0..1, 95 % intervals"), box=box.SIMPLE_HEAD)
    table.add_column("Policy")
    if several:
        table.add_column("Split")
    sampled = {row.samples for row in report.policies if row.best_of}
    number = sampled.copy().pop() if len(sampled) == 1 else "N"
    for name in (
        "n",
        "Score",
        "Success",
        *((f"Best of {number}", f"Success at {number}") if sampled else ()),
        "Steps",
        "Δ to the one before",
    ):
        table.add_column(name, justify="right")
    for row in report.policies:
        difference = report.difference_for(row)
        delta = DASH
        if difference is not None:
            delta = f"{signed(difference.paired.mean)} {interval(difference.paired, signed)}"
        cells = [
            row.policy if row.finished else f"{row.policy} (unfinished)",
            *([row.split] if several else []),
            str(row.n),
            f"{score(row.score.mean)} {interval(row.score)}",
            percent(row.success.mean),
            *([_of_samples(row.best_of), percent(row.success_at.mean) if row.success_at else DASH] if sampled else []),
            f"{row.mean_steps:.1f}",
            delta,
        ]
        table.add_row(*(Text(c) for c in cells))  # Text: names from files must not be read as markup
    if report.best is not None:
        where = f": {report.best.checkpoint}" if report.best.checkpoint else ""
        table.caption = Text(
            f"best by the dev tasks ({report.best.split}): {report.best.policy}, {score(report.best.score.mean)} "
            f"{interval(report.best.score)}, n = {report.best.n}{where}"
        )
    return table


def _of_samples(value: Interval | None) -> str:
    return f"{score(value.mean)} {interval(value)}" if value is not None else DASH
