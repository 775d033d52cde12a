"""Episodes and pairs of a stage as short rows in memory; the rest of a record stays on disk until someone opens it."""

import json
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.records import Episode, Message, Pair
from orchestrator.ui.tail import Tail

#: Searches whose hits are remembered, for each file.
SEARCHES = 16


class EpisodeRow(NamedTuple):
    """What lists show of an episode, and where it stands. `number` counts lines from 1."""

    number: int
    offset: int
    size: int
    task_id: str
    task_type: str
    split: str
    sample: int
    policy: str
    score: float
    success: bool
    steps: int
    ended_by: str
    started_at: str
    duration_s: float


class PairRow(NamedTuple):
    """What lists show of a pair, and where it stands. `number` counts lines from 1."""

    number: int
    offset: int
    size: int
    task_id: str
    task_type: str
    outcome: str
    chosen: float
    rejected: float
    chosen_policy: str
    rejected_policy: str


class _Placed(Protocol):
    @property
    def number(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def task_id(self) -> str: ...


Row = TypeVar("Row", bound=_Placed)
Record = TypeVar("Record", bound=BaseModel)


class RecordGone(LookupError):
    """The file was rewritten since its row was read."""


def episode_row(number: int, offset: int, size: int, e: Episode) -> EpisodeRow:
    """The row of an episode. Names that repeat are kept once."""
    names = [sys.intern(s) for s in (e.task_type, e.split or "unnamed", e.policy, e.terminate_reason.value)]
    return EpisodeRow(
        *(number, offset, size, e.task_id, names[0], names[1], e.sample, names[2], e.score, e.success),
        *(len(e.steps), names[3], e.started_at, e.duration_s),
    )


def pair_row(number: int, offset: int, size: int, p: Pair) -> PairRow:
    """The row of a pair; its task type is the task id's first part."""
    names = [sys.intern(s) for s in (p.task_id.split(":")[0], p.outcome, p.chosen_policy, p.rejected_policy)]
    return PairRow(number, offset, size, p.task_id, names[0], names[1], p.chosen_reward, p.rejected_reward, names[2], names[3])


@dataclass
class _Hits:
    upto: int = 0  # lines searched
    numbers: set[int] = field(default_factory=set)


class RecordsFile(Generic[Row, Record]):
    """One file of records. `rows` are in the file's order; `bad` holds the numbers of lines that are no record."""

    def __init__(self, path: Path, model: type[Record], row_of: Callable[[int, int, int, Record], Row]) -> None:
        self.path, self._model, self._row_of = path, model, row_of
        self._tail = Tail(path)
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self.rows: list[Row] = []
        self.bad: list[int] = []
        self._searches: OrderedDict[str, _Hits] = OrderedDict()

    def update(self) -> list[Row]:
        """Read what is new; returns all rows. A file that cannot be read has none."""
        with self._lock:
            try:
                if not self._tail.changed():
                    return self.rows
                if self._tail.replaced():
                    self._forget()
                for line in self._tail.read():
                    if not line.text.strip():
                        continue
                    try:
                        record = self._model.model_validate_json(line.text)
                    except ValidationError:
                        self.bad.append(line.number)
                    else:
                        self.rows.append(self._row_of(line.number, line.offset, len(line.text), record))
            except OSError:
                self._forget()
                self._tail = Tail(self.path)
            return self.rows

    def load(self, row: Row) -> Record:
        """A whole record from disk. Raises RecordGone."""
        try:
            with open(self.path, "rb") as file:
                file.seek(row.offset)
                return self._model.model_validate_json(file.read(row.size))
        except (OSError, ValidationError) as error:
            raise RecordGone(f"line {row.number} of {self.path.name} is not what it was; reload the page") from error

    def search(self, words: str) -> set[int]:
        """Numbers of the lines whose task or turns hold the words (capitals and small letters alike).

        The prompt's instruction is left out: it is the same everywhere. A search that is asked again reads only new lines.
        """
        rows = self.update()
        with self._lock:
            hits = self._searches.setdefault(words, _Hits())
            self._searches.move_to_end(words)
            while len(self._searches) > SEARCHES:
                self._searches.popitem(last=False)
            needle = words.casefold()
            try:
                with open(self.path, "rb") as file:
                    for row in rows:
                        if row.number <= hits.upto:
                            continue
                        file.seek(row.offset)
                        if needle in row.task_id.casefold() or _holds(file.read(row.size), needle):
                            hits.numbers.add(row.number)
                        hits.upto = row.number
            except OSError:
                return set()
            return set(hits.numbers)


def _holds(line: bytes, needle: str) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return any(needle in text.casefold() for text in _texts(record))


def _texts(record: dict[str, Any]) -> Iterable[str]:
    messages: list[dict[str, Any]] = record.get("messages") or record.get("prompt", [])
    yield from (str(m.get("content")) for m in messages[2:])
    yield from (str(m.get("content")) for side in ("chosen", "rejected") for m in record.get(side, []))


def task_text(prompt: list[Message]) -> str:
    """What the environment asked."""
    return prompt[-1].content if prompt else ""
