"""JSON-lines files that survive a kill and a full disk: whole lines or nothing."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from pydantic import BaseModel, ValidationError

Record = TypeVar("Record", bound=BaseModel)


class DataFileError(ValueError):
    """A line of a data file is not what it should be; the message names file and line."""


class JsonLinesWriter:
    """Appends one record per line, each on disk before `append` returns.

    A torn last line, left by a kill in mid-write, is cut off on opening; a write that fails (a full disk) is undone, so that the
    lines before it stay readable.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = open(path, "ab")  # noqa: SIM115 - closed by __exit__
        self._cut_torn_line()

    def _cut_torn_line(self) -> None:
        whole = 0
        with open(self.path, "rb") as f:
            for line in f:
                if line.endswith(b"\n"):
                    whole += len(line)
        self._file.truncate(whole)

    def append(self, record: BaseModel) -> None:
        """Write one line. Raises OSError, with the file as it was before."""
        line = record.model_dump_json(by_alias=True).encode() + b"\n"
        size = os.fstat(self._file.fileno()).st_size
        try:
            self._write(line)
        except OSError:
            os.ftruncate(self._file.fileno(), size)
            raise

    def _write(self, line: bytes) -> None:
        # unbuffered on purpose: a buffered rest would be written again by close() after a failure
        view = memoryview(line)
        while view:
            view = view[os.write(self._file.fileno(), view) :]
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


def read(path: Path, model: type[Record]) -> Iterator[Record]:
    """The records of a file. A torn last line is passed over; any other bad line raises DataFileError."""
    with open(path, "rb") as f:
        for number, line in enumerate(f, 1):
            if not line.endswith(b"\n"):
                return
            if not line.strip():
                continue
            try:
                yield model.model_validate_json(line)
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join(str(p) for p in first["loc"]) or "the line"
                raise DataFileError(
                    f"{path}, line {number}: {place}: {first['msg']}. The file is damaged or of another kind; "
                    f"remove the line, or the stage's folder to run the stage again."
                ) from error


def write_all(path: Path, records: Iterable[BaseModel]) -> None:
    """Write a whole file, which appears complete or not at all."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with JsonLinesWriter(part) as writer:
        for record in records:
            writer.append(record)
    os.replace(part, path)
