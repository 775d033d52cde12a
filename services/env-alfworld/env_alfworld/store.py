"""What is known of the games of one data directory, in an SQLite file: the list, the translated games, the experts' plans.

The service fills the list before it starts; workers read it, and add what they work out. Every game file is read once, and known by
its SHA-256 from then on: a file that has changed since is refused.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from env_alfworld.translation import FORM

BUSY_TIMEOUT_S = 60.0
SCHEMA = """
CREATE TABLE IF NOT EXISTS games (
    task_id TEXT PRIMARY KEY, split TEXT NOT NULL, place INTEGER NOT NULL, task_type TEXT NOT NULL, path TEXT NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT NOT NULL, reason TEXT, gold TEXT
);
CREATE INDEX IF NOT EXISTS games_in_order ON games (split, place);
CREATE TABLE IF NOT EXISTS translated (sha256 TEXT, form INTEGER, data BLOB NOT NULL, PRIMARY KEY (sha256, form));
CREATE TABLE IF NOT EXISTS grammars (sha256 TEXT, form INTEGER, data TEXT NOT NULL, PRIMARY KEY (sha256, form));
CREATE TABLE IF NOT EXISTS plans (sha256 TEXT, expert TEXT, actions TEXT NOT NULL, PRIMARY KEY (sha256, expert));
"""
COLUMNS = "task_id, split, place, task_type, path, size, mtime_ns, sha256, reason, gold"


@dataclass(frozen=True, slots=True)
class GameFile:
    """A game of the list. `path` is below the data directory; `reason` says why it is left out, None where it is not.

    `place` orders the games of a split; `gold` holds the actions of an imported expert episode.
    """

    task_id: str
    split: str
    place: int
    task_type: str
    path: str
    size: int
    mtime_ns: int
    sha256: str
    reason: str | None = None
    gold: tuple[str, ...] | None = None


class Store:
    """An open store. For one thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def games(self) -> list[GameFile]:
        """Return the whole list, in order, games left out included."""
        return [_game(row) for row in self._db.execute(f"SELECT {COLUMNS} FROM games ORDER BY split, place")]  # noqa: S608 - a constant

    def game(self, task_id: str) -> GameFile | None:
        """Return a game that can be played."""
        row = self._db.execute(
            f"SELECT {COLUMNS} FROM games WHERE task_id = ? AND reason IS NULL",  # noqa: S608
            (task_id,),
        ).fetchone()
        return None if row is None else _game(row)

    def replace_games(self, games: Iterable[GameFile]) -> None:
        """Put another list in the place of this one."""
        rows = [
            (
                g.task_id,
                g.split,
                g.place,
                g.task_type,
                g.path,
                g.size,
                g.mtime_ns,
                g.sha256,
                g.reason,
                json.dumps(g.gold) if g.gold else None,
            )
            for g in games
        ]
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("DELETE FROM games")
        self._db.executemany(f"INSERT INTO games ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)", rows)  # noqa: S608
        self._db.execute("COMMIT")

    def not_translated(self, split: str, after: int, limit: int) -> list[GameFile]:
        """Return the games among the next `limit` of a split that are not translated yet."""
        rows = self._db.execute(
            f"SELECT {COLUMNS} FROM (SELECT * FROM games WHERE split = ? AND place > ? AND reason IS NULL ORDER BY place LIMIT ?) "  # noqa: S608
            "AS next WHERE NOT EXISTS (SELECT 1 FROM translated WHERE sha256 = next.sha256 AND form = ?) ORDER BY place",
            (split, after, limit, FORM),
        )
        return [_game(row) for row in rows]

    def has_translated(self) -> bool:
        """Whether any game is translated."""
        return self._db.execute("SELECT 1 FROM translated WHERE form = ? LIMIT 1", (FORM,)).fetchone() is not None

    def translated(self, sha256: str) -> bytes | None:
        """Return a translated game."""
        row = self._db.execute("SELECT data FROM translated WHERE sha256 = ? AND form = ?", (sha256, FORM)).fetchone()
        return None if row is None else bytes(row[0])

    def keep_translated(self, sha256: str, data: bytes) -> None:
        """Add a translated game."""
        self._db.execute("INSERT OR REPLACE INTO translated VALUES (?, ?, ?)", (sha256, FORM, data))

    def grammar(self, sha256: str) -> str | None:
        """Return a grammar that was read, by the hash of its text."""
        row = self._db.execute("SELECT data FROM grammars WHERE sha256 = ? AND form = ?", (sha256, FORM)).fetchone()
        return None if row is None else str(row[0])

    def keep_grammar(self, sha256: str, data: str) -> None:
        """Add a grammar that was read."""
        self._db.execute("INSERT OR REPLACE INTO grammars VALUES (?, ?, ?)", (sha256, FORM, data))

    def plan(self, sha256: str, expert: str) -> list[str] | None:
        """Return an expert's actions."""
        row = self._db.execute("SELECT actions FROM plans WHERE sha256 = ? AND expert = ?", (sha256, expert)).fetchone()
        return None if row is None else list(json.loads(row[0]))

    def keep_plan(self, sha256: str, expert: str, actions: Sequence[str]) -> None:
        """Add an expert's actions."""
        self._db.execute("INSERT OR REPLACE INTO plans VALUES (?, ?, ?)", (sha256, expert, json.dumps(list(actions))))


def _game(row: Sequence[Any]) -> GameFile:
    *fields, gold = row
    return replace(GameFile(*fields), gold=None if gold is None else tuple(json.loads(gold)))
