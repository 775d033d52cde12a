"""Translates games before they are asked for, in processes of their own, so that few begin cold."""

import contextlib
import ctypes
import fcntl
import logging
import signal
import subprocess
import sys
from pathlib import Path

from env_alfworld.store import GameFile, Store

PR_SET_PDEATHSIG = 1
FIRST_TIMEOUT_S = 600.0
log = logging.getLogger(__name__)


def end_with_parent() -> None:
    """End this process when the one that began it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def read_grammar(path: Path, root: Path) -> None:
    """Translate the first game of each split where the store at `path` has no game yet; return when that is done.

    With them it reads the grammar, which the games of a data set share but for the goal. That and the import of TextWorld are most of what
    a cold game costs (1.8 of 2 CPU seconds), and on a starved machine more than the deadline of a /reset; before the service is up there
    is none. Nothing is lost where it does not succeed: the worker that is asked for a game reads the grammar then.
    """
    with contextlib.closing(Store(path)) as store:
        if store.has_translated():
            return
    log.warning("Reading the games' grammar, which is done once, takes a few seconds.")
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(_prepare(path, root, count=1), stdin=subprocess.DEVNULL, timeout=FIRST_TIMEOUT_S, check=False)


def _prepare(path: Path | str, root: Path | str, count: int) -> list[str]:
    options = ["--store", str(path), "--root", str(root), "--count", str(count), "--with-parent", "--quiet"]
    return [sys.executable, "-m", "env_alfworld.prepare", *options]


class Ahead:
    """A process of low priority, begun when fewer than half of the next `count` games of the split are ready.

    One at a time for all who use a store: thirty engines that begin together would have the same games translated thirty times. The
    process holds a lock beside the store as long as it runs, however it ends.
    """

    def __init__(self, store: str, root: str, count: int) -> None:
        self._store = store
        self._root = root
        self._count = count
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self, store: Store, file: GameFile) -> None:
        """Look ahead of a game that begins."""
        if self._count == 0 or self.running or not store.not_translated(file.split, file.place, self._count // 2):
            return
        options = ["--split", file.split, "--after", str(file.place), "--low-priority"]
        command = [*_prepare(self._store, self._root, self._count), *options]
        with Path(f"{self._store}.ahead").open("w") as lock, contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[lock.fileno()])

    @property
    def running(self) -> bool:
        """Whether a process of this one's is at it."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
