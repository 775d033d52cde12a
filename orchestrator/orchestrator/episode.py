"""One episode: ask the model, act, record, until the environment or a limit ends it."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from orchestrator import places
from orchestrator.endpoints import Conversation
from orchestrator.env_client import EnvClient, Reply, Task
from orchestrator.policy_client import Completion, ContextOverflow, Sampling
from orchestrator.prompts import Prompt, parse_action
from orchestrator.records import Episode, Message, PolicyModel, Step, TerminateReason, Usage

#: Instruction, acknowledgement and task.
PROMPT_MESSAGES = 3
#: One in so many of the turns that are shown is dropped when the context is full. Dropping one at a time would change the beginning
#: of every later prompt, which the server's prefix cache could then never use.
DROPPED_AT_ONCE = 4


class EpisodeFailed(RuntimeError):
    """The player cannot go on; there is no episode."""


class Chat(Protocol):
    """What answers the agent's turns: a policy server's client, or a script. `model` is its served name, if it has one."""

    @property
    def model(self) -> str | None: ...

    async def chat(self, messages: list[Message], sampling: Sampling, seed: int, conversation: Conversation) -> Completion:
        """One assistant turn. `conversation` lasts for the episode."""
        ...


@dataclass(frozen=True)
class Player:
    """Who plays and how: the policy, its name in the records, its sampling, and the limits of an episode.

    `drop_oldest`: where the context is full the oldest turns are no longer shown, and the episode goes on.
    """

    client: Chat
    policy: str
    version: str | None
    sampling: Sampling
    prompt: Prompt
    show_example: bool = False
    max_steps: int | None = None
    deadline_s: float = 1800.0
    drop_oldest: bool = False


@dataclass(frozen=True)
class Assignment:
    """One episode to play. `seed` goes to the environment; the model's is derived from it, the sample and the turn."""

    task: Task
    split: str | None = None
    sample: int = 0
    seed: int = 0

    @property
    def key(self) -> tuple[str, int]:
        """As `Episode.key`."""
        return (self.task.task_id, self.sample)


async def play(what: Assignment, env: EnvClient, player: Player, episode_id: str, conversation: Conversation) -> Episode:
    """Play to the end. Raises SessionLost, Refused, Unavailable, Unanswerable or EpisodeFailed: then there is no episode."""
    started, clock = datetime.now(UTC), time.monotonic()
    reply = await env.reset(what.task.task_id, what.seed, episode_id, player.max_steps)
    async with env.closing(reply.metadata.session_id):
        messages = player.prompt.opening(reply.observation.text)
        steps: list[Step] = []
        reason: TerminateReason | None = None
        dropped = 0
        while reason is None:
            shown = messages[:PROMPT_MESSAGES] + messages[PROMPT_MESSAGES + 2 * dropped :]
            sent = player.prompt.with_example(shown) if player.show_example else shown
            try:
                answer = await player.client.chat(sent, player.sampling, _turn_seed(what, len(steps)), conversation)
            except ContextOverflow:
                left = len(steps) - dropped
                if player.drop_oldest and left > 0:
                    dropped += -(-left // DROPPED_AT_ONCE)
                    continue
                reason = TerminateReason.CONTEXT_OVERFLOW
                break
            acted = time.monotonic()
            action = parse_action(answer.text)
            if action is None:
                observation, reward = player.prompt.invalid_output, 0.0
            else:
                reply = await env.step(reply.metadata.session_id, action, request_id=str(len(steps)))
                observation, reward = reply.observation.text, reply.reward
            # an environment that knows says so; of the others the words of a refusal are known
            valid = action is not None and reply.metadata.info.get("valid", True) and not player.prompt.refused(observation)
            steps.append(_step(action, reward, valid, reply, answer, time.monotonic() - acted, dropped, player))
            messages += [Message(role="assistant", content=answer.text), player.prompt.observation(observation)]
            reason = _end(reply, len(steps), time.monotonic() - clock, player)
    return Episode(
        env=env.name,
        task_id=what.task.task_id,
        task_type=what.task.task_type,
        split=what.split,
        sample=what.sample,
        seed=what.seed,
        policy=player.policy,
        model=PolicyModel(name=player.client.model, version=steps[0].version if steps else player.version),
        messages=messages,
        example=player.prompt.example_sha256 if player.show_example else None,
        steps=steps,
        reward=sum(s.reward for s in steps),
        score=reply.metadata.score,
        success=reply.metadata.success,
        terminate_reason=reason,
        usage=Usage(prompt_tokens=sum(s.prompt_tokens for s in steps), completion_tokens=sum(s.completion_tokens for s in steps)),
        retries=conversation.retries,
        restarts=conversation.restarts,
        started_at=started.isoformat(timespec="seconds"),
        duration_s=round(time.monotonic() - clock, 3),
        code_version=places.code_version(),
    )


def _step(
    action: str | None, reward: float, valid: bool, reply: Reply, answer: Completion, env_s: float, dropped: int, player: Player
) -> Step:
    return Step(
        action=action,
        reward=reward,
        score=reply.metadata.score,
        valid=valid,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        policy_s=round(answer.seconds, 3),
        env_s=round(env_s, 3),
        version=answer.version or player.version or player.client.model,
        dropped_turns=dropped,
        token_ids=answer.token_ids,
        logprobs=answer.logprobs,
    )


def _end(reply: Reply, turns: int, elapsed_s: float, player: Player) -> TerminateReason | None:
    """Why the episode is over, if it is. A turn without an action costs a step too, so turns are counted here."""
    if reply.metadata.terminated:
        return TerminateReason.TERMINATED
    if reply.metadata.truncated or turns >= reply.metadata.max_steps:
        return TerminateReason.STEP_LIMIT
    if elapsed_s > player.deadline_s:
        return TerminateReason.DEADLINE
    return None


def _turn_seed(what: Assignment, turn: int) -> int:
    return (what.seed * 1_000_003 + what.sample * 1_009 + turn) % 2**31
