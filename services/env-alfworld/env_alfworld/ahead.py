"""Translates the games that are likely to be played next, in a process of its own and of low priority, so that few begin cold."""

import contextlib
import ctypes
import signal
import subprocess
import sys
from pathlib import Path

from env_alfworld.store import GameFile, Store

NICENESS = 10
PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """End this process when the one that began it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Ahead:
    """One such process at a time, begun when fewer than half of the next `count` games of the split are ready."""

    def __init__(self, store: str, root: str, count: int) -> None:
        self._store = store
        self._root = root
        self._count = count
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self, store: Store, file: GameFile) -> None:
        """Look ahead of a game that begins."""
        if self._count == 0 or (self._process is not None and self._process.poll() is None):
            return
        if store.not_translated(file.split, file.place, self._count // 2):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "env_alfworld.prepare", "--store", self._store, "--root", self._root]
                + ["--split", file.split, "--after", str(file.place), "--count", str(self._count), "--with-parent", "--quiet"],
                stdin=subprocess.DEVNULL,
            )

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
