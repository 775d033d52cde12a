"""The file formats of trajectories and pairs that the field uses, read into one record and written from ours (docs/formats.md)."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config import ConfigError
from orchestrator.jsonl import DataFileError
from orchestrator.records import Episode, Message, Pair

ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}
PAIR_KEYS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class Trajectory:
    """A conversation of an agent as a file holds it. `reward` in 0..1 if the file tells it; `source` is its own id, `fields` the rest."""

    source: str
    messages: list[Message]
    reward: float | None
    fields: dict[str, Any]


def read_trajectories(path: Path) -> Iterator[Trajectory]:
    """ETO's SFT files, AgentTraj, TRL's `messages`, ETO's episode files (one, or a folder of them), our episodes.

    A JSON list or JSON lines. Raises DataFileError naming what is wrong.
    """
    for where, record in _records(path):
        turns = record.get("conversations", record.get("messages"))
        if turns is None:
            raise DataFileError(
                f"{where}: neither `conversations` (ETO, AgentTraj) nor `messages` (TRL, eto.episode/1). Give a file of trajectories."
            )
        about = record.get("meta") if isinstance(record.get("meta"), dict) else record
        reward = about.get("reward") if isinstance(about, dict) else None
        yield Trajectory(
            source=str(record.get("id", record.get("task_id", where))),
            messages=_messages(turns, where),
            reward=float(reward) if isinstance(reward, int | float) else None,
            fields={k: v for k, v in record.items() if k not in ("conversations", "messages")},
        )


def read_pairs(path: Path) -> Iterator[dict[str, Any]]:
    """ETO's DPO files and TRL's conversational preference format, as TRL's: `{"id", "prompt", "chosen", "rejected"}`."""
    for where, record in _records(path):
        if any(key not in record for key in PAIR_KEYS):
            raise DataFileError(f"{where}: a pair has {', '.join(PAIR_KEYS)}. Give a file of pairs.")
        sides = {key: [m.model_dump() for m in _messages(record[key], f"{where}: {key}")] for key in PAIR_KEYS}
        yield {"id": str(record.get("id", record.get("task_id", where))), **sides}


def holds_pairs(path: Path) -> bool:
    """Whether a file's first record is a pair."""
    return "chosen" in next(_records(path))[1]


def conversations(messages: Iterable[Message]) -> list[dict[str, str]]:
    """Messages as ETO and AgentTraj write them."""
    return [{"from": SPEAKERS[m.role], "value": m.content} for m in messages]


def as_eto_sft(episode: Episode) -> dict[str, Any]:
    """A record of ETO's SFT files: ends on the agent's turn; the reward stands there for all environments."""
    messages = episode.messages[:-1] if episode.messages[-1].role == "user" else episode.messages
    return {"id": episode.task_id, "conversations": conversations(messages), "reward": episode.reward}


def as_eto_episode(episode: Episode) -> dict[str, Any]:
    """A file of ETO's rollouts: one a task."""
    meta = {
        "steps": len(episode.steps),
        "reward": episode.reward,
        "finished": True,
        "success": episode.success,
        "terminate_reason": "success" if episode.success else episode.terminate_reason.value,
        "error": None,
    }
    return {"meta": meta, "conversations": conversations(episode.messages)}


def as_eto_pair(pair: Pair) -> dict[str, Any]:
    """A record of ETO's DPO files."""
    sides = (pair.prompt, pair.chosen, pair.rejected)
    return {"id": pair.task_id, **{key: conversations(side) for key, side in zip(PAIR_KEYS, sides, strict=True)}}


def as_trl(record: Episode | Pair) -> dict[str, Any]:
    """TRL's conversational formats: `messages`, or `prompt`, `chosen`, `rejected`."""
    if isinstance(record, Pair):
        return {key: [m.model_dump() for m in getattr(record, key)] for key in PAIR_KEYS}
    return {"messages": as_trl_messages(record)}


def as_trl_messages(episode: Episode) -> list[dict[str, str]]:
    """The conversation without a trailing observation."""
    kept = episode.messages[:-1] if episode.messages[-1].role == "user" else episode.messages
    return [m.model_dump() for m in kept]


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"{path} holds no .json file. Give a file of trajectories, or the folder of ETO's episodes.")
    for file in files:
        text = file.read_text(encoding="utf-8")
        if text.lstrip()[:1] == "[" or path.is_dir():
            found = _parse(text, str(file))
            rows = found if isinstance(found, list) else [found]
            numbered = [(f"{file.stem}" if path.is_dir() else f"{file}, record {i}", row) for i, row in enumerate(rows)]
        else:
            lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
            numbered = [(f"{file}, line {i}", _parse(line, f"{file}, line {i}")) for i, line in lines]
        for where, row in numbered:
            if not isinstance(row, dict):
                raise DataFileError(f"{where}: no JSON object but {type(row).__name__}. Correct or remove it.")
            yield where, row


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataFileError(f"{where}: no JSON ({error}). Correct or remove it.") from error


def _messages(turns: Any, where: str) -> list[Message]:
    messages: list[Message] = []
    for turn in turns if isinstance(turns, list) else [None]:
        speaker = (turn.get("from") or turn.get("role")) if isinstance(turn, dict) else None
        text = turn.get("value", turn.get("content")) if isinstance(turn, dict) else None
        role = ROLES.get(str(speaker), str(speaker))
        if role not in SPEAKERS or not isinstance(text, str):
            raise DataFileError(f"{where}: turn {len(messages)} is none: it needs from and value, or role and content, as text.")
        messages.append(Message.model_validate({"role": role, "content": text}))
    return messages
