"""One session: the record of an episode, and what it answers. No input or output here."""

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import Any

from env_core.environment import Task
from env_core.lease import Lease


@dataclass(slots=True)
class Session:
    """An episode is its task, its seed and its actions; everything else follows from them.

    `digest` covers all observations so far. `lease` is None, or over, where the episode must be replayed before it goes on, which
    takes about `replay_s` seconds.
    """

    session_id: str
    episode_id: str | None
    task: Task
    seed: int
    max_steps: int
    actions: list[str] = field(default_factory=list)
    digest: bytes = b""
    info: dict[str, Any] = field(default_factory=dict)
    score: float = 0.0
    success: bool = False
    terminated: bool = False
    truncated: bool = False
    lease: Lease | None = None
    replay_s: float = 0.0
    replies: dict[str, bytes] = field(default_factory=dict)
    running: "asyncio.Task[Any] | None" = None
    running_request_id: str | None = None
    used_at: float = 0.0

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return self.terminated or self.truncated


def chain(digest: bytes, outcome: dict[str, Any]) -> bytes:
    """Add an engine's answer to the digest of those before it."""
    said = f"{outcome['score']!r} {outcome['terminated']!r} {outcome['text']}"
    return hashlib.sha256(digest + said.encode()).digest()


def begin(session: Session, outcome: dict[str, Any]) -> dict[str, Any]:
    """Record the answer to load and return the reply.

    A world may grant some score before the first action (ScienceWorld does, for being there). It is counted with the first step, so
    that the rewards of the steps, which clients sum, are the episode's score.
    """
    session.digest = chain(b"", outcome)
    session.info = outcome["info"]
    return _advance(session, {**outcome, "score": 0.0})


def record(session: Session, action: str, outcome: dict[str, Any]) -> dict[str, Any]:
    """Record a step and return the reply."""
    session.actions.append(action)
    session.digest = chain(session.digest, outcome)
    return _advance(session, outcome)


def _advance(session: Session, outcome: dict[str, Any]) -> dict[str, Any]:
    reward = outcome["score"] - session.score
    session.score = outcome["score"]
    session.success = outcome["success"]
    session.terminated = outcome["terminated"]
    session.truncated = not session.terminated and len(session.actions) >= session.max_steps
    metadata = {
        "session_id": session.session_id,
        "episode_id": session.episode_id,
        "task_id": session.task.task_id,
        "seed": session.seed,
        "step": len(session.actions),
        "max_steps": session.max_steps,
        "score": session.score,
        "success": session.success,
        "terminated": session.terminated,
        "truncated": session.truncated,
        "info": {**session.info, **outcome["info"]},
    }
    if outcome["valid_actions"] is not None:
        metadata["valid_actions"] = outcome["valid_actions"]
    return {
        "observation": {"text": outcome["text"]},
        "reward": round(reward, 12),  # 0.04, not 0.04000000000000001
        "done": session.done,
        "metadata": metadata,
    }


def state(session: Session) -> dict[str, Any]:
    """Return what /state answers."""
    return {
        "session_id": session.session_id,
        "episode_id": session.episode_id,
        "task_id": session.task.task_id,
        "seed": session.seed,
        "step_count": len(session.actions),
        "max_steps": session.max_steps,
        "score": session.score,
        "success": session.success,
        "terminated": session.terminated,
        "truncated": session.truncated,
        "done": session.done,
    }
