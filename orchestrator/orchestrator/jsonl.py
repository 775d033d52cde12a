"""JSON-lines files that survive a kill and a full disk: whole lines or nothing."""

import asyncio
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from pydantic import BaseModel, ValidationError

Record = TypeVar("Record", bound=BaseModel)
#: Lines that `write_all` flushes to the disk at a time.
AT_A_TIME = 1000


class DataFileError(ValueError):
    """A line of a data file is not what it should be; the message names file and line."""


def first_fault(error: ValidationError) -> str:
    """`place: what is wrong there`, of the first fault; of a fault of the whole record only what is wrong."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ")
    return f"{place}: {what}" if place else what


class JsonLinesWriter:
    """Appends one record per line, on disk before `append` returns.

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

    def append(self, *records: BaseModel) -> None:
        """Write a line for each, with one flush to the disk. Raises OSError, with the file as it was before."""
        lines = b"".join(record.model_dump_json(by_alias=True).encode() + b"\n" for record in records)
        size = os.fstat(self._file.fileno()).st_size
        try:
            self._write(lines)
        except OSError:
            os.ftruncate(self._file.fileno(), size)
            raise

    def _write(self, lines: bytes) -> None:
        # unbuffered on purpose: a buffered rest would be written again by close() after a failure
        view = memoryview(lines)
        while view:
            view = view[os.write(self._file.fileno(), view) :]
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


class SharedWriter:
    """A JsonLinesWriter for many tasks, as a context: what comes while the disk is busy is flushed together, and no other task waits.

    A flush takes milliseconds, more than all else that is done for an episode: one for each would bound the episodes of a second.
    """

    def __init__(self, path: Path) -> None:
        self._writer = JsonLinesWriter(path)
        self._waiting: list[tuple[BaseModel, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def append(self, record: BaseModel) -> None:
        """Return when the line is on disk. Raises OSError, for all that were to be flushed together."""
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((record, written))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        await written

    async def _write(self) -> None:
        while self._waiting:
            some, self._waiting = self._waiting, []
            error: Exception | None = None
            try:
                await asyncio.to_thread(self._writer.append, *(record for record, _ in some))
            except Exception as failure:  # whatever it is, those that wait must hear of it
                error = failure
            for _, written in some:
                if written.done():  # whoever waited was cancelled
                    continue
                if error is None:
                    written.set_result(None)
                else:
                    written.set_exception(error)
        self._writing = None

    async def __aenter__(self) -> Self:
        self._writer.__enter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writing is not None:
            await self._writing
        self._writer.__exit__(kind, error, trace)


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
                raise DataFileError(
                    f"{path}, line {number}: {first_fault(error)}. The file is damaged or of another kind; "
                    f"remove the line, or the stage's folder to run the stage again."
                ) from error


def write_all(path: Path, records: Iterable[BaseModel]) -> None:
    """Write a whole file, which appears complete or not at all."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    rest = iter(records)
    with JsonLinesWriter(part) as writer:
        while some := list(islice(rest, AT_A_TIME)):
            writer.append(*some)
    os.replace(part, path)
