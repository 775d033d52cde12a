"""Files of JSON lines that grow: each line is read once, however often the file is looked at."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Line(NamedTuple):
    """A whole line: its number from 1, where it begins, and its bytes."""

    number: int
    offset: int
    text: bytes


@dataclass
class Tail:
    """Remembers how far a file was read. A torn last line waits until it is whole."""

    path: Path
    offset: int = 0
    lines: int = 0
    _seen: tuple[int, int, int] | None = None  # inode, size, mtime in ns

    def changed(self) -> bool:
        """Whether there may be something to read. Raises OSError, FileNotFoundError among them."""
        return self._identity() != self._seen

    def _identity(self) -> tuple[int, int, int]:
        stat = os.stat(self.path)
        return (stat.st_ino, stat.st_size, stat.st_mtime_ns)

    def replaced(self) -> bool:
        """Whether the file is another than the one that was read: then what was read counts no more, and reading begins anew."""
        inode, size, _ = self._identity()
        gone = self._seen is not None and (inode != self._seen[0] or size < self.offset or size == self._seen[1])
        if gone:
            self.offset = self.lines = 0
        return gone

    def read(self) -> Iterator[Line]:
        """The whole lines that were not read yet."""
        seen = self._identity()
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            for text in file:
                if not text.endswith(b"\n"):
                    break
                line = Line(self.lines + 1, self.offset, text)
                self.offset += len(text)
                self.lines += 1
                yield line
        self._seen = seen
