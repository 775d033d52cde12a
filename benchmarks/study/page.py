"""The tables in docs/results.md: each stands between comments that say what it holds, and is written from what is kept of the studies.

`<!-- table: alfworld -->` is followed by the table of a study, `<!-- table: alfworld to sft -->` by its differences to an arm, and
`<!-- table: success -->` by a table with an arm in each row, whose column of the study is filled; `<!-- end -->` ends each.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from count import markdown, percent

MARKED = re.compile(r"(<!-- table: (\w+)(?: to ([\w-]+))? -->\n\n)(.*?)(?=\n<!-- end -->)", re.DOTALL)


def laid_in(page: str, study: str, found: Callable[[str | None], Mapping[str, Any]]) -> str:
    """Write a page's tables of a study anew. `found`: its summary with differences to an arm, or to its control."""

    def table(marked: re.Match[str]) -> str:
        head, name, arm, old = marked.groups()
        if name == study:
            return str(head + markdown(found(arm), brief=arm is not None))
        return str(head + with_success(old, found(None))) if name == "success" else marked[0]

    return MARKED.sub(table, page)


def with_success(table: str, found: Mapping[str, Any]) -> str:
    """Fill the column that the study heads; what fewer seeds played than others says so."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    column = next(i for i, title in enumerate(rows[0]) if title.startswith(found["study"]))
    arms = {arm["arm"]: arm for arm in found["arms"]}
    seeds = max(len(arm["seeds"]) for arm in arms.values())
    rows[0][column] = f"{found['study']}, n = {seeds} x {max(arm['episodes'] // len(arm['seeds']) for arm in arms.values())}"
    for cells in rows[2:]:
        arm = arms.get(cells[0])
        fewer = f" ({len(arm['seeds'])} of {seeds} seeds)" if arm and len(arm["seeds"]) < seeds else ""
        cells[column] = percent(arm["success"]) + fewer if arm else "not played"
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows) + "\n"
