"""Reading data files: one JSON object a line; what is wrong is told with file and line."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import JobError

Message = dict[str, Any]
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Conversation:
    """One line of an sft file."""

    messages: list[Message]
    where: str


@dataclass(frozen=True)
class Pair:
    """One line of a dpo file."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    where: str


@dataclass(frozen=True)
class Sample:
    """One episode of a grpo file: what the policy was shown and said, the tokens that it drew in each turn, and what it earned."""

    task: str
    messages: list[Message]
    prompt_messages: int
    token_ids: list[list[int]]
    logprobs: list[list[float]]
    reward: float
    whole: bool  # every turn was answered in sight of all before it
    where: str


def sha256_of_file(path: Path) -> str:
    """Return the hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_conversations(path: str) -> list[Conversation]:
    """Read an sft file; every line must have an assistant message that is trained."""
    rows = [Conversation(_messages(record, "messages", where), where) for where, record in _records(path)]
    for row in rows:
        if not any(is_trained(message) for message in row.messages):
            raise JobError(f"{row.where}: no assistant message to train on (none, or all with weight 0): remove the line")
    return rows


def read_pairs(path: str) -> list[Pair]:
    """Read a dpo file; both sides must start and end with an assistant message."""
    rows = []
    for where, record in _records(path):
        sides = {key: _messages(record, key, where) for key in ("prompt", "chosen", "rejected")}
        for key in ("chosen", "rejected"):
            if sides[key][0]["role"] != "assistant" or sides[key][-1]["role"] != "assistant":
                raise JobError(f"{where}: {key} must start and end with an assistant message: cut the observation that sticks out")
            if not any(is_trained(message) for message in sides[key]):
                raise JobError(f"{where}: every message of {key} has weight 0, nothing is compared: remove the line")
        rows.append(Pair(where=where, **sides))
    return rows


def read_samples(path: str) -> list[Sample]:
    """Read a grpo file: episodes (docs/formats.md) whose steps carry token_ids and logprobs."""
    return [_sample(record, where) for where, record in _records(path)]


def _sample(record: dict[str, Any], where: str) -> Sample:
    messages, steps, first = _messages(record, "messages", where), record.get("steps"), record.get("prompt_messages")
    if not isinstance(first, int) or not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise JobError(f"{where}: an episode has prompt_messages, a number, and steps, a list of objects: correct the line")
    if [m["role"] for m in messages[first:]] != ["assistant", "user"] * len(steps):
        raise JobError(f"{where}: after the prompt each of the {len(steps)} steps needs an answer and its observation: correct the line")
    for number, step in enumerate(steps):
        ids, logps = step.get("token_ids"), step.get("logprobs")
        if not isinstance(ids, list) or not isinstance(logps, list) or not ids or len(ids) != len(logps):
            raise JobError(
                f"{where}: steps[{number}] does not hold as many logprobs as token_ids, at least one: play with record_tokens ids, and a "
                "server that returns them (vLLM)"
            )
        if not all(type(i) is int for i in ids) or not all(isinstance(x, int | float) for x in logps):
            raise JobError(f"{where}: steps[{number}]: token_ids must be whole numbers and logprobs numbers: correct the line")
    task, reward = record.get("task_id"), record.get("reward")
    if not isinstance(task, str) or isinstance(reward, bool) or not isinstance(reward, int | float) or not math.isfinite(reward):
        raise JobError(f"{where}: an episode needs a task_id, text, and a reward, a finite number: correct the line")
    ids, logps = [step["token_ids"] for step in steps], [step["logprobs"] for step in steps]
    whole = not any(step.get("dropped_turns") for step in steps)
    return Sample(task, messages, first, ids, logps, float(reward), whole, where)


def is_trained(message: Message) -> bool:
    """Tell whether a message is a target: an assistant message not left out by weight 0."""
    return message["role"] == "assistant" and message.get("weight") != 0


def _records(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    found = 0
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise JobError(f"{where}: not a JSON object ({error}): correct or remove the line") from error
                if not isinstance(record, dict):
                    raise JobError(f"{where}: not a JSON object but {type(record).__name__}: correct the line")
                found += 1
                yield where, record
    except OSError as error:
        raise JobError(f"data file {path} cannot be read ({error.strerror}): set data to a JSON lines file") from error
    except UnicodeDecodeError as error:
        raise JobError(f"data file {path} is not UTF-8 text ({error.reason}): convert the file") from error
    if not found:
        raise JobError(f"data file {path} holds no examples: there is nothing to train on, give a file with lines")


def _messages(record: dict[str, Any], key: str, where: str) -> list[Message]:
    messages = record.get(key)
    if not isinstance(messages, list) or not messages:
        raise JobError(f"{where}: {key} must be a list of at least one message: correct the line")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise JobError(f"{where}: {key}[{index}] needs a role, one of {', '.join(ROLES)}: correct the line")
        if not isinstance(message.get("content"), str):
            raise JobError(f"{where}: {key}[{index}] needs a content that is text: correct the line")
        if message.get("weight") not in (None, 0, 1):
            raise JobError(f"{where}: {key}[{index}].weight is {message['weight']!r}, only 0 and 1 are known: set one")
    return messages
