"""One session: the record of an episode, and what it answers. No input or output here."""

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import Any

import orjson

from env_core.environment import Task
from env_core.lease import Lease

#: Replies that a repeated request can still get. A client repeats its last request; more than that is for crossed wires.
KEPT_REPLIES = 4


@dataclass(frozen=True, slots=True)
class Position:
    """Where an episode stands. `digest` covers all observations so far; `score` is absolute, in 0..1; `reply` is the JSON that was sent."""

    digest: bytes
    score: float
    success: bool
    terminated: bool
    truncated: bool
    reply: bytes


@dataclass(slots=True)
class Session:
    """An episode is its task, its seed and its actions; everything else follows from them.

    `request_ids` maps each request's id to the number of the step it took, 0 for the reset. `recent` holds the last replies. `lease` is
    None, or over, where the episode must be replayed before it goes on, which takes about `replay_s` seconds.
    """

    session_id: str
    episode_id: str | None
    task: Task
    seed: int
    max_steps: int
    reset_id: str | None = None
    info: dict[str, Any] = field(default_factory=dict)
    actions: list[str] = field(default_factory=list)
    request_ids: dict[str, int] = field(default_factory=dict)
    at: Position = Position(b"", 0.0, False, False, False, b"")
    recent: list[bytes] = field(default_factory=list)
    lease: Lease | None = None
    replay_s: float = 0.0
    running: "asyncio.Task[Any] | None" = None
    running_request_id: str | None = None
    used_at: float = 0.0

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return self.at.terminated or self.at.truncated

    def move(self, request_id: str | None, position: Position, action: str | None = None) -> None:
        """Record that the episode has come to `position`, by an action or by its beginning."""
        if action is not None:
            self.actions.append(action)
        if request_id is not None:
            self.request_ids[request_id] = len(self.actions)
        self.at = position
        self.recent = [*self.recent[1 - KEPT_REPLIES :], position.reply]

    def reply_to(self, request_id: str) -> bytes | None:
        """Return the reply that a request got: None where there was no such request, empty where it is no longer kept."""
        if (step := self.request_ids.get(request_id)) is None:
            return None
        back = len(self.actions) - step
        return self.recent[-1 - back] if back < len(self.recent) else b""


def chain(digest: bytes, outcome: dict[str, Any]) -> bytes:
    """Add an engine's answer to the digest of those before it."""
    said = f"{outcome['score']!r} {outcome['terminated']!r} {outcome['text']}"
    return hashlib.sha256(digest + said.encode()).digest()


def first_position(session: Session, outcome: dict[str, Any]) -> Position:
    """Return where the answer to load puts the episode.

    A world may grant some score before the first action (ScienceWorld does, for being there). It is counted with the first step, so
    that the rewards of the steps, which clients sum, are the episode's score.
    """
    return _position(session, 0, {**outcome, "score": 0.0}, chain(b"", outcome))


def next_position(session: Session, outcome: dict[str, Any]) -> Position:
    """Return where the answer to a step puts the episode."""
    return _position(session, len(session.actions) + 1, outcome, chain(session.at.digest, outcome))


def _position(session: Session, step: int, outcome: dict[str, Any], digest: bytes) -> Position:
    terminated = outcome["terminated"]
    truncated = not terminated and step >= session.max_steps
    metadata = {
        "session_id": session.session_id,
        "episode_id": session.episode_id,
        "task_id": session.task.task_id,
        "seed": session.seed,
        "step": step,
        "max_steps": session.max_steps,
        "score": outcome["score"],
        "success": outcome["success"],
        "terminated": terminated,
        "truncated": truncated,
        "info": {**session.info, **outcome["info"]},
    }
    if outcome["valid_actions"] is not None:
        metadata["valid_actions"] = outcome["valid_actions"]
    reply = {
        "observation": {"text": outcome["text"]},
        "reward": round(outcome["score"] - session.at.score, 12),  # 0.04, not 0.04000000000000001
        "done": terminated or truncated,
        "metadata": metadata,
    }
    return Position(digest, outcome["score"], outcome["success"], terminated, truncated, dumped(reply))


def dumped(value: Any) -> bytes:
    """Return the JSON of what is to be kept. A copy, as orjson (3.13) leaves a small result in the 4 KiB that it was written in."""
    return bytes(memoryview(orjson.dumps(value)))


def position_of(reply: bytes, digest: bytes) -> Position:
    """Return the position that a reply tells of."""
    metadata = orjson.loads(reply)["metadata"]
    return Position(digest, metadata["score"], metadata["success"], metadata["terminated"], metadata["truncated"], reply)


def fork(session: Session, session_id: str, episode_id: str | None) -> Session:
    """Return a new session in the same state. Its one reply is the last one's, with the new session in it and a reward of 0."""
    copy = Session(session_id, episode_id, session.task, session.seed, session.max_steps, info=session.info, replay_s=session.replay_s)
    copy.actions = list(session.actions)
    reply = orjson.loads(session.at.reply)
    reply["reward"] = 0.0
    reply["metadata"] |= {"session_id": session_id, "episode_id": episode_id}
    copy.move(None, position_of(dumped(reply), session.at.digest))
    return copy


def state(session: Session) -> dict[str, Any]:
    """Return what /state answers."""
    return {
        "session_id": session.session_id,
        "episode_id": session.episode_id,
        "task_id": session.task.task_id,
        "seed": session.seed,
        "step_count": len(session.actions),
        "max_steps": session.max_steps,
        "score": session.at.score,
        "success": session.at.success,
        "terminated": session.at.terminated,
        "truncated": session.at.truncated,
        "done": session.done,
    }
