"""Finds the games of a data directory in alfworld's layout: json_2.1.1/SPLIT/TASK/TRIAL/{game.tw-pddl,traj_data.json}."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from env_alfworld.store import GameFile, Store

LAYOUT = "json_2.1.1"
GAME, TRAJECTORY = "game.tw-pddl", "traj_data.json"
SPLITS = ("train", "valid_seen", "valid_unseen", "valid_train")
#: alfworld's own six (AlfredTWEnv, alfworld 0.4.2).
TASK_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
EXPECTED = {"pddl_domain": str, "grammar": str, "pddl_problem": str, "solvable": bool}
ALLOWED = {*EXPECTED, "walkthrough"}
MAX_GAME_BYTES = 16 * 1024 * 1024


class GameFileError(Exception):
    """A game file is not what it should be; the text says why."""


@dataclass(frozen=True, slots=True)
class Found:
    """How many games of a split can be played, and why others cannot."""

    split: str
    playable: int
    left_out: Mapping[str, int]

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items()))
        return f"{self.split}: {self.playable} games" + (f" (left out: {reasons})" if reasons else "")


def read_game(root: Path, path: str, sha256: str | None = None) -> tuple[dict[str, Any], str]:
    """Return a game file's content and its SHA-256. Raises GameFileError, also where the hash is not `sha256`."""
    file = root / path
    if not file.resolve().is_relative_to(root.resolve()):
        raise GameFileError("outside the data directory")
    try:
        if file.stat().st_size > MAX_GAME_BYTES:
            raise GameFileError(f"broken (over {MAX_GAME_BYTES} bytes)")
        data = file.read_bytes()
    except OSError as error:
        raise GameFileError(f"broken (cannot be read: {error.strerror})") from None
    digest = hashlib.sha256(data).hexdigest()
    if sha256 is not None and digest != sha256:
        raise GameFileError(f"{path} has changed since this service looked at it; start the service again")
    try:
        game = json.loads(data)
    except ValueError:
        raise GameFileError("broken (no JSON)") from None
    if not isinstance(game, dict):
        raise GameFileError("broken (no JSON object)")
    if missing := [key for key, kind in EXPECTED.items() if not isinstance(game.get(key), kind)]:
        raise GameFileError(f"broken (without {', '.join(missing)})")
    if unexpected := sorted(set(game) - ALLOWED):
        raise GameFileError(f"broken (with the unexpected {', '.join(unexpected)[:100]})")
    if not game["solvable"]:
        raise GameFileError("unsolvable")
    return game, digest


def scan(store: Store, root: Path, gold: Path | None = None) -> list[Found]:
    """Bring the store's list up to date with the directory `root`, which holds json_2.1.1, and count."""
    known = {game.task_id: game for game in store.games()}
    experts = _gold(gold) if gold is not None else {}
    games = []
    for split in SPLITS:
        for place, folder in enumerate(_trials(root / LAYOUT / split)):
            task_id = f"{split}/{folder}"
            game = _looked_at(root, split, folder, known.get(task_id))
            games.append(replace(game, place=place, gold=experts.get(task_id)))
    if games != list(known.values()):
        store.replace_games(games)
    return [_count(split, [game for game in games if game.split == split]) for split in SPLITS]


def _trials(split: Path) -> list[str]:
    """Return TASK/TRIAL of every folder that holds one of the two files, sorted."""
    return sorted(
        str(Path(folder).relative_to(split)) for folder, _, files in os.walk(split) if GAME in files or TRAJECTORY in files
    )


def _looked_at(root: Path, split: str, folder: str, known: GameFile | None) -> GameFile:
    path = f"{LAYOUT}/{split}/{folder}/{GAME}"
    task_type = folder.partition("-")[0]
    game = GameFile(f"{split}/{folder}", split, 0, task_type, path, 0, 0, "")
    if "movable" in folder or "Sliced" in folder:  # as alfworld's AlfredTWEnv: its text games have neither
        return replace(game, reason="with a movable receptacle or a sliced object")
    if task_type not in TASK_TYPES:
        return replace(game, reason="of an unknown task type")
    try:
        stat = (root / path).stat()
    except OSError:
        return replace(game, reason=f"without {GAME}")
    game = replace(game, size=stat.st_size, mtime_ns=stat.st_mtime_ns)
    if known is not None and (known.size, known.mtime_ns, known.path) == (game.size, game.mtime_ns, game.path):
        return known
    try:
        _, sha256 = read_game(root, path)
    except GameFileError as error:
        return replace(game, reason=str(error))
    return replace(game, sha256=sha256)


def _count(split: str, games: list[GameFile]) -> Found:
    reasons = Counter(game.reason for game in games if game.reason is not None)
    return Found(split, sum(game.reason is None for game in games), reasons)


def _gold(path: Path) -> dict[str, tuple[str, ...]]:
    """Return imported expert episodes by task id, from a list as ETO's SFT files are (`game_file`, `conversations`)."""
    try:
        episodes = json.loads(path.read_text("utf-8"))
        return {task_id_of(episode["game_file"]): tuple(_actions(episode["conversations"])) for episode in episodes if "game_file" in episode}
    except OSError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise GameFileError(f"{path} holds no list of expert episodes ({error!r})") from None


def _actions(conversation: list[dict[str, str]]) -> Iterator[str]:
    """Yield the actions: what stands after `Action:`, or the whole turn where there is none."""
    for turn in conversation:
        if turn["from"] == "gpt":
            said = turn["value"].rpartition("Action:")[2].strip()
            if said != "OK":
                yield said


def task_id_of(game_file: str) -> str:
    """Return the task id of a game file as ETO's files name it: json_2.1.1/SPLIT/TASK/TRIAL/game.tw-pddl. A task id stays as it is."""
    after = game_file.rpartition(f"{LAYOUT}/")[2]
    return after.removesuffix(f"/{GAME}")
