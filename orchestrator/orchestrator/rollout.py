"""Many episodes at once: bounded concurrency, one line on disk as each ends, nothing played twice after a restart."""

import asyncio
import errno
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator import jsonl
from orchestrator.endpoints import Conversation, Unanswerable
from orchestrator.env_client import EnvClient, SessionLost
from orchestrator.episode import Assignment, EpisodeFailed, Player, play
from orchestrator.http import Refused, Unavailable
from orchestrator.records import Episode

#: How often an episode starts again after its session was lost.
ATTEMPTS = 3


class RolloutError(RuntimeError):
    """Some episodes could not be played; the others are on disk."""


@dataclass
class Rollout:
    """What was played: all finished episodes of the file, and what failed this time."""

    episodes: list[Episode] = field(default_factory=list)
    failures: dict[tuple[str, int], str] = field(default_factory=dict)


async def run(
    assignments: Iterable[Assignment],
    env: EnvClient,
    player: Player,
    out: Path,
    *,
    concurrency: int,
    run_id: str,
    finished: Callable[[Episode], None] = lambda episode: None,
    elsewhere: Callable[[Assignment], Awaitable[Episode]] | None = None,
) -> Rollout:
    """Play what `out` does not hold yet, here or `elsewhere`. Raises RolloutError with the reasons if episodes are missing at the end."""
    wanted = {a.key: a for a in assignments}
    rollout = Rollout()
    if out.exists():
        rollout.episodes = [e for e in jsonl.read(out, Episode) if e.key in wanted]
    for episode in rollout.episodes:
        finished(episode)
        wanted.pop(episode.key, None)
    if not wanted:
        return rollout
    await close_leftovers(env, run_id)
    queue = iter(list(wanted.values()))
    async with jsonl.SharedWriter(out) as writer:

        async def worker() -> None:
            for assignment in queue:
                try:
                    episode = await (elsewhere(assignment) if elsewhere else play_one(assignment, env, player, run_id))
                except (SessionLost, Refused, Unavailable, Unanswerable, EpisodeFailed) as error:
                    rollout.failures[assignment.key] = str(error)
                    if isinstance(error, Unavailable):
                        raise  # the service is gone for good: going on would burn every task's patience
                    continue
                await _append(writer, episode, out)
                rollout.episodes.append(episode)
                finished(episode)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, len(wanted))):
                    group.create_task(worker())
        except* (Unavailable, RolloutError) as errors:
            raise RolloutError(
                f"{errors.exceptions[0]} {len(rollout.episodes)} finished episodes are in {out}; run again to go on."
            ) from None
    if rollout.failures:
        failures = out.with_name("failures.json")
        failures.write_text(json.dumps({f"{t}#{s}": why for (t, s), why in rollout.failures.items()}, indent=1))
        (task, _), why = next(iter(rollout.failures.items()))
        raise RolloutError(
            f"{len(rollout.failures)} of {len(wanted)} episodes could not be played, for example {task}: {why}. "
            f"The others are in {out}; all reasons are in {failures}. Run again to try them once more."
        )
    return rollout


async def close_leftovers(env: EnvClient, run_id: str) -> None:
    """Delete sessions that a killed orchestrator left open for this run: they would hold engines until they expire."""
    for session in (await env.sessions())["sessions"]:
        if (session.get("episode_id") or "").startswith(f"{run_id}/"):
            await env.close(session["session_id"])


async def play_one(what: Assignment, env: EnvClient, player: Player, run_id: str) -> Episode:
    """An episode, from its beginning again where its session was lost."""
    episode_id = f"{run_id}/{player.policy}/{what.task.task_id}/{what.sample}"
    conversation = Conversation(what.task.task_id)
    while True:
        try:
            return await play(what, env, player, episode_id, conversation)
        except SessionLost:
            if conversation.restarts == ATTEMPTS - 1:
                raise
            conversation.restarts += 1


async def _append(writer: jsonl.SharedWriter, episode: Episode, out: Path) -> None:
    try:
        await writer.append(episode)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RolloutError(f"The disk is full: {out} could not be written ({error.strerror}). Free some space.") from error
