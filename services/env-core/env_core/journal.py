"""The journal: sessions on disk (SQLite), so that they outlive the process of the service.

Each step is committed before its reply is sent. That survives the death of the process at any moment; a loss of power may cost the
last steps, as WAL with synchronous=NORMAL syncs at checkpoints only.
"""

import logging
import sqlite3
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import orjson

from env_core.environment import Environment
from env_core.errors import ServiceError
from env_core.session import Position, Session, position_of

log = logging.getLogger(__name__)

T = TypeVar("T")

SCHEMA = """
CREATE TABLE IF NOT EXISTS journal (environment TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sessions (
  session_id TEXT PRIMARY KEY, episode_id TEXT, task_id TEXT NOT NULL, seed INTEGER NOT NULL, max_steps INTEGER NOT NULL, reset_id TEXT,
  info BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS steps (
  session_id TEXT NOT NULL, step INTEGER NOT NULL, action TEXT, request_id TEXT, reply BLOB NOT NULL, digest BLOB NOT NULL,
  PRIMARY KEY (session_id, step)
) WITHOUT ROWID;
"""
VERSION = 1


class JournalError(Exception):
    """The journal cannot be opened; the text is one sentence for the person who started the service."""


class Journal:
    """All sessions, each with its reset as step 0. One process has it open at a time."""

    def __init__(self, path: Path, environment: Environment) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=1, isolation_level=None)
            for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL"):
                self._db.execute(f"PRAGMA {pragma}")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            self._db.executescript(SCHEMA + f"PRAGMA user_version={VERSION};")
            known = self._db.execute("SELECT environment FROM journal").fetchone()
            if known is None:
                self._db.execute("INSERT INTO journal VALUES (?)", [environment.name])
        except (sqlite3.Error, OSError) as error:
            raise JournalError(
                f"the journal {path} was to be used, but cannot be ({error}); another service may have it open, or give another path."
            ) from None
        if version not in (0, VERSION) or (known is not None and known[0] != environment.name):
            whose = f"version {version} of {known[0] if known else 'an unknown environment'}"
            raise JournalError(f"the journal {path} was to be used, but it is {whose}; remove it or give another path.")

    def begin(self, session: Session, position: Position) -> None:
        """Write a session whose episode begins; what was there under its id is replaced. ServiceError 503 where that is impossible."""

        def write(db: sqlite3.Connection) -> None:
            self._drop(db, session.session_id)
            self._insert(db, session)
            self._insert_step(db, session, 0, None, session.reset_id, position)

        self._transaction(write)

    def step(self, session: Session, action: str, request_id: str | None, position: Position) -> None:
        """Write a step. ServiceError 503 where that is impossible."""
        self._transaction(lambda db: self._insert_step(db, session, len(session.actions) + 1, action, request_id, position))

    def fork(self, source: Session, copy: Session) -> None:
        """Write a session that begins as another's copy. ServiceError 503 where that is impossible."""

        def write(db: sqlite3.Connection) -> None:
            self._insert(db, copy)
            db.execute(
                "INSERT INTO steps SELECT ?, step, action, NULL, CASE WHEN step = ? THEN ? ELSE reply END, digest "
                "FROM steps WHERE session_id = ?",
                [copy.session_id, len(copy.actions), copy.at.reply, source.session_id],
            )

        self._transaction(write)

    def forget(self, session_id: str) -> None:
        """Remove a session. Where that is impossible it comes back after a restart, and ends again."""
        try:
            self._transaction(lambda db: self._drop(db, session_id))
        except ServiceError as error:
            log.error("%s", error)

    def sessions(self, environment: Environment) -> Iterator[Session]:
        """Return what a former process left."""
        rows = self._db.execute(
            "SELECT session_id, episode_id, task_id, seed, max_steps, reset_id, info, action, request_id, reply, digest "
            "FROM sessions JOIN steps USING (session_id) ORDER BY session_id, step"
        )
        for key, steps in groupby(rows, key=lambda row: row[:7]):
            session_id, episode_id, task_id, seed, max_steps, reset_id, info = key
            try:
                task = environment.tasks.find(task_id)
            except KeyError:
                log.warning("Session %s was not restored: there is no task %s any more.", session_id, task_id)
                continue
            session = Session(session_id, episode_id, task, seed, max_steps, reset_id, orjson.loads(info))
            last: tuple[Any, ...] = ()
            for last in steps:
                session.move(last[8], Position(b"", 0, False, False, False, last[9]), last[7])
            session.at = position_of(last[9], last[10])
            yield session

    def close(self) -> None:
        """Fold the log into the file and let go of it."""
        self._db.close()

    def _transaction(self, write: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with self._db:  # ends what is begun here: by a commit, or by a rollback where anything fails
                self._db.execute("BEGIN IMMEDIATE")
                return write(self._db)
        except sqlite3.Error as error:
            raise ServiceError(
                503,
                "journal_unavailable",
                f"The request was to be written to the service's journal, but that failed ({error}), so it was not carried out; "
                "make room on its disk and ask again.",
                retry_after_s=5,
            ) from error

    def _drop(self, db: sqlite3.Connection, session_id: str) -> None:
        db.execute("DELETE FROM sessions WHERE session_id = ?", [session_id])
        db.execute("DELETE FROM steps WHERE session_id = ?", [session_id])

    def _insert(self, db: sqlite3.Connection, session: Session) -> None:
        row = (session.session_id, session.episode_id, session.task.task_id, session.seed, session.max_steps, session.reset_id)
        db.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?)", [*row, orjson.dumps(session.info)])

    def _insert_step(
        self, db: sqlite3.Connection, session: Session, step: int, action: str | None, request_id: str | None, position: Position
    ) -> None:
        row = [session.session_id, step, action, request_id, position.reply, position.digest]
        db.execute("INSERT INTO steps VALUES (?, ?, ?, ?, ?, ?)", row)
