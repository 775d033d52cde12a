"""Which pairs are made: the agent's trajectory against the expert's of the same task (paper section 3.3; eto-semantics.md)."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

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


def cut_rejected(env: str, turns: list[Message], expert_messages: int) -> list[Message]:
    """A losing agent's turns, cut to the expert's length and a margin."""
    return turns if env in UNCUT_ENVS else turns[: expert_messages + REJECTED_MARGIN_MESSAGES]


def make_pair(agent: Episode, expert: Episode) -> Pair | str | None:
    """The pair of one explored episode; None for a tie; a reason when the pair must be dropped."""
    if agent.reward == expert.reward:
        return None
    agent_won = agent.reward > expert.reward
    expert_turns = end_on_assistant(expert.turns)
    agent_turns = agent.turns
    if not agent_won:
        agent_turns = cut_rejected(agent.env, agent_turns, len(expert_turns))
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


def make_pairs(explored: Iterable[Episode], experts: Mapping[str, Episode]) -> PairSet:
    """Pair every explored episode with the expert of its task. `experts` is keyed by task id."""
    result = PairSet()
    for agent in explored:
        expert = experts.get(agent.task_id)
        if expert is None:
            result.dropped["no expert"] += 1
            continue
        pair = make_pair(agent, expert)
        if agent.reward > expert.reward:
            result.win += 1
        elif agent.reward < expert.reward:
            result.lose += 1
        else:
            result.tie += 1
        if isinstance(pair, Pair):
            result.pairs.append(pair)
        elif pair is not None:
            result.dropped[pair] += 1
    return result
