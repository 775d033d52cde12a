"""Which pairs are made: the agent's trajectory against the expert's of the same task (arXiv 2403.02502, section 3.3), whole or from the
step on where they part; or, without experts, the best of several samples against the worst. Pure functions."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.records import Episode, Message, Pair

#: How many messages beyond the expert's length a rejected agent trajectory keeps (the reference's rule; ALFWorld is not cut).
REJECTED_MARGIN_MESSAGES = 10
UNCUT_ENVS = frozenset({"alfworld"})


@dataclass
class PairSet:
    """The pairs, and how every explored episode was counted."""

    pairs: list[Pair] = field(default_factory=list)
    win: int = 0
    tie: int = 0
    lose: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def summary(self) -> dict[str, object]:
        """Counts for a stage's record."""
        counts = {"win": self.win, "tie": self.tie, "lose": self.lose}
        return {**counts, "pairs": len(self.pairs), "dropped": dict(self.dropped)}


def end_on_assistant(turns: list[Message]) -> list[Message]:
    """The turns without a trailing observation."""
    return turns[:-1] if turns and turns[-1].role == "user" else turns


Cut = Literal["reference", "refused", "diverging"]


def cut_rejected(agent: Episode, expert: Episode, expert_messages: int, cut: Cut = "reference") -> list[Message]:
    """A losing agent's turns, cut to the expert's length and a margin, and behind its first fault of the kind that `cut` names."""
    turns = agent.turns if agent.env in UNCUT_ENVS else agent.turns[: expert_messages + REJECTED_MARGIN_MESSAGES]
    if cut == "refused":
        last = next((turn for turn, step in enumerate(agent.steps) if not step.valid), None)
    else:
        last = first_difference(agent, expert) if cut == "diverging" else None
    return turns if last is None else turns[: 2 * last + 1]  # an answer and its observation a turn


def make_pair(agent: Episode, expert: Episode, cut: Cut = "reference") -> Pair | str | None:
    """The pair of one explored episode; None for a tie; a reason when the pair must be dropped."""
    if agent.reward == expert.reward:
        return None
    agent_won = agent.reward > expert.reward
    expert_turns = end_on_assistant(expert.turns)
    agent_turns = agent.turns
    if not agent_won:
        agent_turns = cut_rejected(agent, expert, len(expert_turns), cut)
    agent_turns = end_on_assistant(agent_turns)
    if not agent_turns or not expert_turns:
        return "a side without a turn"
    if agent_turns[-1].role != "assistant" or expert_turns[-1].role != "assistant":
        return "a side that does not end on an assistant turn"
    if agent.prompt != expert.prompt:
        return "prompts differ"
    chosen, rejected = (agent, expert) if agent_won else (expert, agent)
    return Pair(
        env=agent.env,
        task_id=agent.task_id,
        outcome="win" if agent_won else "lose",
        prompt=expert.prompt,
        chosen=agent_turns if agent_won else expert_turns,
        rejected=expert_turns if agent_won else agent_turns,
        chosen_reward=chosen.reward,
        rejected_reward=rejected.reward,
        chosen_policy=chosen.policy,
        rejected_policy=rejected.policy,
    )


def first_difference(one: Episode, other: Episode) -> int | None:
    """The first turn at which two episodes of a task act differently; None if one is the beginning of the other.

    Thoughts may differ: what counts is what the environment saw. A turn without an action differs from every other.
    """
    for turn, (a, b) in enumerate(zip(one.steps, other.steps, strict=False)):
        if a.action is None or a.action != b.action:
            return turn
    return None


def make_step_pair(agent: Episode, expert: Episode, cut: Cut = "reference") -> Pair | str | None:
    """As make_pair, but from the first diverging step on: the shared way, as the chosen side told it, belongs to the prompt.

    Continuation stands against continuation, so what both did alike is neither rewarded nor punished.
    """
    whole = make_pair(agent, expert, cut)
    if not isinstance(whole, Pair):
        return whole
    turn = first_difference(agent, expert)
    if turn is None:
        return "no diverging step"
    shared = 2 * turn  # messages: an answer and its observation a turn
    chosen, rejected = whole.chosen[:shared], whole.rejected[:shared]
    if len(whole.rejected) <= shared or len(whole.chosen) <= shared:
        return "cut before the diverging step"
    if [m for m in chosen if m.role == "user"] != [m for m in rejected if m.role == "user"]:
        return "observations differ after the same actions"
    return whole.model_copy(update={"prompt": whole.prompt + chosen, "chosen": whole.chosen[shared:], "rejected": whole.rejected[shared:]})


def make_pairs(
    explored: Iterable[Episode], experts: Mapping[str, Episode], rule: Callable[[Episode, Episode], Pair | str | None] = make_pair
) -> PairSet:
    """Pair every explored episode with the expert of its task. `experts` is keyed by task id."""
    result = PairSet()
    for agent in explored:
        expert = experts.get(agent.task_id)
        if expert is None:
            result.dropped["no expert"] += 1
            continue
        _count(result, agent, expert, rule(agent, expert))
    return result


def make_self_play_pairs(explored: Iterable[Episode], cut: Cut = "reference") -> PairSet:
    """Pair each task's best sample with its worst (arXiv 2403.02502, section 4.4: without experts); the earliest of equals.

    A task with one sample has nothing to compare and is dropped; one whose samples all have the same reward is a tie.
    """
    by_task: dict[str, list[Episode]] = defaultdict(list)
    for episode in explored:
        by_task[episode.task_id].append(episode)
    result = PairSet()
    for samples in by_task.values():
        samples.sort(key=lambda e: e.sample)
        if len(samples) == 1:
            result.dropped["one sample only"] += 1
            continue
        best, worst = max(samples, key=lambda e: e.reward), min(samples, key=lambda e: e.reward)
        # the worst stands as the agent that loses: it is the side that is cut
        pair = make_pair(worst, best, cut)
        _count(result, best, worst, pair.model_copy(update={"outcome": "win"}) if isinstance(pair, Pair) else pair)
    return result


def _count(result: PairSet, agent: Episode, other: Episode, pair: Pair | str | None) -> None:
    if agent.reward > other.reward:
        result.win += 1
    elif agent.reward < other.reward:
        result.lose += 1
    else:
        result.tie += 1
    if isinstance(pair, Pair):
        result.pairs.append(pair)
    elif pair is not None:
        result.dropped[pair] += 1
