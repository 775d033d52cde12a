"""Which episodes a list shows: what the filter form sends, and what the links of a list carry on."""

from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import Query

from orchestrator.ui.library import Run
from orchestrator.ui.records_index import EpisodeRow

Order = Literal["", "score", "-score", "-steps", "task"]
ORDERS = {"": "as they ended", "score": "lowest score first", "-score": "highest score first", "-steps": "longest first", "task": "by task"}
Found = tuple[str, EpisodeRow]  # the stage and the episode in it
Text = Annotated[str, Query(max_length=200)]


@dataclass(frozen=True)
class Filter:
    """Empty fields let everything through. `words` are looked for in task ids, tasks and turns."""

    words: str = ""
    stage: str = ""
    split: str = ""
    type: str = ""
    success: str = ""
    ended: str = ""
    order: str = ""

    def query(self, **more: object) -> str:
        """The filter as a URL's query, with more fields."""
        fields = {"q": self.words, "in": self.stage, "split": self.split, "type": self.type}
        fields |= {"success": self.success, "ended": self.ended, "sort": self.order, **{k: str(v) for k, v in more.items()}}
        return urlencode({k: v for k, v in fields.items() if v != ""})

    def find(self, run: Run, stages: list[str]) -> list[Found]:
        """The episodes that pass, in the chosen order."""
        found: list[Found] = []
        for stage in stages:
            if self.stage in ("", stage):
                file = run.episodes(stage)
                hits = file.search(self.words) if self.words else None
                found += [(stage, r) for r in file.rows if self._passes(r) and (hits is None or r.number in hits)]
        if self.order in ("score", "-score"):
            found.sort(key=lambda f: f[1].score, reverse=self.order == "-score")
        elif self.order == "-steps":
            found.sort(key=lambda f: -f[1].steps)
        elif self.order == "task":
            found.sort(key=lambda f: (f[1].task_id, f[1].sample))
        return found

    def _passes(self, row: EpisodeRow) -> bool:
        return (
            self.split in ("", row.split)
            and self.type in ("", row.task_type)
            and self.ended in ("", row.ended_by)
            and (self.success == "" or (self.success == "yes") == row.success)
        )


def from_query(
    q: Text = "",
    stage: Annotated[str, Query(alias="in", max_length=200)] = "",
    split: Text = "",
    type: Text = "",
    success: Literal["", "yes", "no"] = "",
    ended: Text = "",
    sort: Order = "",
) -> Filter:
    """The filter that a request carries."""
    return Filter(q.strip(), stage, split, type, success, ended, sort)


def choices(run: Run, stages: list[str]) -> dict[str, list[str]]:
    """What each field of the form offers."""
    rows = [r for stage in stages for r in run.episodes(stage).rows]
    return {
        "stage": stages,
        "split": sorted({r.split for r in rows}),
        "type": sorted({r.task_type for r in rows}),
        "ended": sorted({r.ended_by for r in rows}),
    }
