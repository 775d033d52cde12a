"""Replays a trajectory from elsewhere in the environment: kept if the world answers as it did then and gives the reward that was claimed.

What is kept is an episode as if it had been played here: this environment's prompt and observations, the record's thoughts and actions.
"""

import re
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

from orchestrator import places
from orchestrator.env_client import EnvClient, Reply, SessionLost
from orchestrator.http import Refused
from orchestrator.prompts import Prompt
from orchestrator.records import Episode, Message, Step, TerminateReason
from orchestrator.trajectories.formats import Trajectory
from orchestrator.trajectories.tasks import WORDINGS, Wording, tasks_of

_ACTION = re.compile(r"Action:[ \t]*\n?[ \t]*([^\n]+)")
_THOUGHT = re.compile(r"Thought:\s*(.*?)\s*(?=Action:|$)", re.S)
#: Rewards are compared as they are printed in the files.
REWARD_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Verdict:
    """What became of one trajectory: an episode, or why it is dropped. `exact` counts its observations that are equal letter by letter."""

    source: str
    task_id: str | None
    episode: Episode | None
    reason: str | None
    detail: str = ""
    observations: int = 0
    exact: int = 0


@dataclass(frozen=True)
class Rules:
    """What must hold beside a clean replay. `observations`: words (the same words in any order), exact, or any."""

    observations: str = "words"
    failures: bool = False


def words(text: str) -> Counter[str]:
    """The words of an observation, without what stands between them."""
    return Counter(re.findall(r"[\w'-]+", text))


def same_words(one: str, other: str) -> bool:
    """Whether two observations hold the same words: engines list what a room holds in an order of their own."""
    return words(one) == words(other)


def split_answer(text: str) -> tuple[str | None, str | None]:
    """Thought and action of an answer, in ETO's form, AgentTraj's (each on a line of its own) or a bare action."""
    action = _ACTION.search(text)
    thought = _THOUGHT.search(text)
    if action is None and thought is None and "\n" not in text.strip():
        return None, text.strip() or None
    return (thought.group(1) or None) if thought else None, action.group(1).strip() if action else None


def strip_prefix(text: str) -> str:
    """An observation without the words `Observation:` that some formats put before it."""
    return text.removeprefix("Observation:").strip()


async def replay(trajectory: Trajectory, env: EnvClient, prompt: Prompt, rules: Rules, split: str | None, number: int) -> Verdict:
    """Play a trajectory's actions. Raises Unavailable if the service is gone; everything else is a verdict.

    Of several tasks that it may belong to, it belongs to the first that answers as recorded; if none does, the verdict is that of the task
    that went furthest.
    """
    tasks = tasks_of(env.name, trajectory)
    if not tasks:
        return Verdict(trajectory.source, None, None, "no task named", "the record names no task, or an empty list of games: add a task_id")
    found: list[Verdict] = []
    for task in tasks:
        found.append(await _replay(trajectory, task, env, prompt, rules, split, number))
        if found[-1].episode is not None:
            return found[-1]
    return max(found, key=lambda verdict: verdict.observations)


async def _replay(
    trajectory: Trajectory, task: str, env: EnvClient, prompt: Prompt, rules: Rules, split: str | None, number: int
) -> Verdict:
    wording = WORDINGS.get(env.name, Wording())
    turns = [wording.today(m) for m in trajectory.messages]
    first = next((i for i, m in enumerate(turns) if m.role == "assistant" and split_answer(m.content)[1] and _is_turn(turns, i)), None)
    if first is None or first == 0:
        return Verdict(trajectory.source, task, None, "no turn", "no assistant message holds an action")
    clock, started = time.monotonic(), datetime.now(UTC)
    try:
        reply = await env.reset(task, 0, f"import/{number}", 1000)
    except Refused as error:
        return Verdict(trajectory.source, task, None, "unknown task", str(error))
    turns = wording.redrawn(turns, turns[first - 1].content, reply.observation.text)
    try:
        async with env.closing(reply.metadata.session_id):
            return await _play(trajectory, turns, first, reply, env, prompt, rules, split, task, clock, started)
    except (Refused, SessionLost) as error:
        return Verdict(trajectory.source, task, None, "the service refused a step", str(error))


def _is_turn(turns: list[Message], index: int) -> bool:
    """Whether an assistant message is a turn rather than the acknowledgement of the instruction.

    Records of bare actions may begin with the task itself.
    """
    if index > 1 or "Action:" in turns[index].content:
        return True
    return not turns[index].content.startswith("OK") and not any("Action:" in m.content for m in turns)


async def _play(
    trajectory: Trajectory,
    turns: list[Message],
    first: int,
    reply: Reply,
    env: EnvClient,
    prompt: Prompt,
    rules: Rules,
    split: str | None,
    task: str,
    clock: float,
    started: datetime,
) -> Verdict:
    opening = reply.observation.text
    exact = seen = 0
    difference = _difference(_as_seen(turns[first - 1], prompt), prompt.rewritten(opening), rules, "the opening")
    messages, steps = prompt.opening(opening), list[Step]()
    for i in range(first, len(turns), 2):
        if difference or reply.done:
            break
        thought, action = split_answer(turns[i].content)
        if action is None:
            return Verdict(trajectory.source, task, None, "a turn without an action", f"turn {len(steps)}: {turns[i].content[:200]}")
        reply = await env.step(reply.metadata.session_id, action, str(len(steps)))
        text = reply.observation.text
        steps.append(Step(action=action, reward=reply.reward, score=reply.metadata.score, valid=not prompt.refused(text)))
        said = f"Thought: {thought}\nAction: {action}" if thought else f"Action: {action}"
        messages += [Message(role="assistant", content=said), prompt.observation(text)]
        if i + 1 < len(turns):
            seen += 1
            recorded, here = _as_seen(turns[i + 1], prompt), prompt.rewritten(text)
            exact += recorded == here.strip()
            difference = _difference(recorded, here, rules, f"turn {len(steps) - 1} ({action})")
    found = Verdict(trajectory.source, task, None, None, observations=seen, exact=exact)
    reward = reply.metadata.score
    if difference:
        return _dropped(found, "the opening differs" if not steps else "an observation differs", difference)
    if trajectory.reward is not None and abs(trajectory.reward - reward) > REWARD_TOLERANCE:
        return _dropped(found, "the reward differs", f"{trajectory.reward} in the file, {reward} here")
    if not reply.metadata.success and not rules.failures:
        return _dropped(found, "no success here", f"score {reward}")
    episode = Episode(
        env=env.name,
        task_id=task,
        task_type=str(reply.metadata.info.get("task_type", task.split(":")[0])),
        split=split,
        policy="expert",
        messages=messages,
        steps=steps,
        reward=sum(s.reward for s in steps),
        score=reward,
        success=reply.metadata.success,
        terminate_reason=TerminateReason.TERMINATED if reply.metadata.terminated else TerminateReason.STEP_LIMIT,
        started_at=started.isoformat(timespec="seconds"),
        duration_s=round(time.monotonic() - clock, 3),
        code_version=places.code_version(),
    )
    return Verdict(trajectory.source, task, episode, None, observations=seen, exact=exact)


def _as_seen(turn: Message, prompt: Prompt) -> str:
    """What a record's world said, in the form that an agent here sees."""
    return prompt.rewritten(strip_prefix(turn.content)).strip()


def _difference(recorded: str, here: str, rules: Rules, where: str) -> str:
    """What differs, empty if nothing that counts."""
    if rules.observations == "any":
        return ""
    equal = recorded == here.strip() if rules.observations == "exact" else same_words(recorded, here)
    if equal:
        return ""
    gone, new = words(recorded) - words(here), words(here) - words(recorded)
    lists = (" ".join(sorted(side.elements()))[:120] or "nothing" for side in (gone, new))
    return "{}: only in the file: {}; only here: {}".format(where, *lists)


def _dropped(found: Verdict, reason: str, detail: str) -> Verdict:
    return Verdict(found.source, found.task_id, None, reason, detail, found.observations, found.exact)
