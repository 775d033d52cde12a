"""Step-wise pairs, self-play pairs, and the choice of the agent's own successes."""

import itertools
from collections import Counter

import pytest
from builders import PROMPT, played
from hypothesis import given
from hypothesis import strategies as st
from orchestrator.pairs import (
    REJECTED_MARGIN_MESSAGES,
    end_on_assistant,
    first_difference,
    make_pair,
    make_pairs,
    make_self_play_pairs,
    make_step_pair,
)
from orchestrator.records import Episode, Pair
from orchestrator.selection import actions, select_successes

REWARDS = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0])
# few actions, so that trajectories often share a beginning
ACTIONS = st.lists(st.sampled_from(["go", "look", None]), max_size=25)
EXPERT_ACTIONS = st.lists(st.sampled_from(["go", "look"]), min_size=1, max_size=12)
ENVS = st.sampled_from(["sciworld", "webshop", "alfworld"])


@given(agent=ACTIONS, agent_reward=REWARDS, expert=EXPERT_ACTIONS, expert_reward=REWARDS, env=ENVS)
def test_a_pair_is_the_two_trajectories_and_nothing_else(
    agent: list[str | None], agent_reward: float, expert: list[str | None], expert_reward: float, env: str
) -> None:
    """The rule of the paper, told a second time: winner, cut, ends."""
    a, e = played(agent, agent_reward, env=env), played(expert, expert_reward, "expert", env=env)
    pair = make_pair(a, e)
    if agent_reward == expert_reward:
        assert pair is None
        return
    if not agent:
        assert pair == "a side without a turn"
        return
    assert isinstance(pair, Pair)
    won = agent_reward > expert_reward
    agents, experts = (pair.chosen, pair.rejected) if won else (pair.rejected, pair.chosen)
    assert pair.prompt == PROMPT
    assert experts == e.turns[:-1]
    kept = len(a.turns) if won or env == "alfworld" else min(len(a.turns), len(experts) + REJECTED_MARGIN_MESSAGES)
    assert agents == end_on_assistant(a.turns[:kept])
    assert (pair.chosen_policy, pair.outcome) == (("agent", "win") if won else ("expert", "lose"))
    assert pair.chosen_reward == max(agent_reward, expert_reward)


@given(agent=ACTIONS, agent_reward=REWARDS, expert=EXPERT_ACTIONS, expert_reward=REWARDS, env=ENVS)
def test_a_step_pair_is_the_whole_pair_with_the_shared_way_in_its_prompt(
    agent: list[str | None], agent_reward: float, expert: list[str | None], expert_reward: float, env: str
) -> None:
    a, e = played(agent, agent_reward, env=env), played(expert, expert_reward, "expert", env=env)
    whole, step = make_pair(a, e), make_step_pair(a, e)
    if not isinstance(step, Pair):
        shared = len(list(itertools.takewhile(lambda ab: ab[0] == ab[1] and ab[0] is not None, zip(agent, expert, strict=False))))
        # a prefix, a turn cut away before they part, or what makes no whole pair either
        assert step == whole or shared == min(len(agent), len(expert)) or 2 * shared >= len(whole.rejected)  # type: ignore[union-attr]
        return
    assert isinstance(whole, Pair)
    assert step.prompt[:3] == whole.prompt
    assert step.prompt + step.chosen == whole.prompt + whole.chosen
    assert step.rejected == whole.rejected[len(step.prompt) - 3 :]
    for side in (step.chosen, step.rejected):
        assert side[0].role == side[-1].role == "assistant"
    turn = (len(step.prompt) - 3) // 2
    assert agent[:turn] == expert[:turn]  # what both did alike is in neither side
    assert agent[turn] != expert[turn]
    kept = whole.model_dump(exclude={"prompt", "chosen", "rejected"})
    assert step.model_dump(exclude={"prompt", "chosen", "rejected"}) == kept


def test_a_step_pair_takes_the_way_as_the_chosen_side_told_it() -> None:
    pair = make_step_pair(played(["go", "look"], 0.0), played(["go", "take", "look"], 1.0, "expert"))
    assert isinstance(pair, Pair)
    assert [m.content for m in pair.prompt[3:]] == ["Thought: expert thinks\nAction: go", "Observation: ['go']"]
    assert [m.content.split("Action: ")[-1] for m in pair.chosen] == ["take", "Observation: ['go', 'take']", "look"]
    assert [m.content.split("Action: ")[-1] for m in pair.rejected] == ["look"]


def test_a_trajectory_that_only_goes_on_has_no_diverging_step_and_a_turn_without_action_always_diverges() -> None:
    agent, expert = played(["go", "look", "look"], 0.5), played(["go", "look"], 1.0, "expert")
    assert make_step_pair(agent, expert) == "no diverging step"
    assert first_difference(played(["go", None], 0.0), played(["go", None], 0.0)) == 1


def test_an_agent_that_parts_from_the_expert_after_the_cut_is_dropped_with_its_reason() -> None:
    expert = played(["go"] * 20, 1.0, "expert").model_copy(update={"messages": played(["go"] * 3, 1.0, "expert").messages})
    assert make_step_pair(played(["go"] * 15 + ["look"], 0.0), expert) == "cut before the diverging step"


def test_a_world_that_answers_the_same_actions_differently_is_noticed() -> None:
    agent, expert = played(["go", "look"], 0.0), played(["go", "take"], 1.0, "expert")
    messages = [*agent.messages]
    messages[4] = messages[4].model_copy(update={"content": "Observation: a thermometer that reads 51"})
    made = make_pairs([agent.model_copy(update={"messages": messages})], {"t:0": expert}, make_step_pair)
    assert made.summary() == {"win": 0, "tie": 0, "lose": 1, "pairs": 0, "dropped": {"observations differ after the same actions": 1}}


@given(samples=st.lists(st.tuples(st.integers(0, 4), REWARDS, ACTIONS), max_size=20))
def test_self_play_sets_the_best_against_the_worst_of_each_task(samples: list[tuple[int, float, list[str | None]]]) -> None:
    episodes = [played(a, r, task_id=f"t:{task}", sample=i) for i, (task, r, a) in enumerate(samples)]
    made = make_self_play_pairs(episodes)
    tasks = Counter(e.task_id for e in episodes)
    assert made.lose == 0
    assert made.dropped["one sample only"] == sum(n == 1 for n in tasks.values())
    assert made.win + made.tie + made.dropped["one sample only"] == len(tasks)
    assert len(made.pairs) + made.dropped["a side without a turn"] == made.win
    for pair in made.pairs:
        rewards = [e.reward for e in episodes if e.task_id == pair.task_id]
        assert (pair.chosen_reward, pair.rejected_reward) == (max(rewards), min(rewards))
        assert pair.chosen_reward > pair.rejected_reward
        assert len(pair.rejected) <= len(pair.chosen) + REJECTED_MARGIN_MESSAGES
        first = next(e for e in episodes if e.task_id == pair.task_id and e.reward == max(rewards))
        assert pair.chosen == end_on_assistant(first.turns)


@given(samples=st.lists(st.tuples(st.integers(0, 4), REWARDS, ACTIONS), max_size=20))
def test_at_most_one_success_a_task_is_kept_and_every_other_episode_is_accounted_for(
    samples: list[tuple[int, float, list[str | None]]],
) -> None:
    episodes = [played(a, r, task_id=f"t:{task}", sample=i) for i, (task, r, a) in enumerate(samples)]
    experts = {"t:0": played(["go"], 1.0, "expert")}
    chosen = select_successes(episodes, experts)
    assert len(chosen.kept) + sum(chosen.dropped.values()) == len(episodes)
    assert len({e.task_id for e in chosen.kept}) == len(chosen.kept)
    for kept in chosen.kept:
        assert kept.success
        assert kept.task_id != "t:0" or actions(kept) != ("go",)
        rivals = [e for e in episodes if e.task_id == kept.task_id and e.success and actions(e) != ("go",)]
        assert all(len(kept.steps) <= len(e.steps) for e in rivals if e.reward >= kept.reward or actions(e) == actions(kept))


def test_the_shortest_success_is_kept_and_copies_are_told() -> None:
    def sample(number: int, actions: list[str | None], reward: float = 1.0) -> Episode:
        return played(actions, reward, sample=number)

    found = [sample(0, ["go"] * 3), sample(1, ["go"] * 2), sample(2, ["go"] * 2), sample(3, ["look"], 0.5), sample(4, ["take"])]
    chosen = select_successes(found, {"t:0": played(["take"], 1.0, "expert")})
    assert [e.sample for e in chosen.kept] == [1]
    assert chosen.dropped == {
        "another sample is better": 1,
        "the same actions as another sample": 1,
        "no success": 1,
        "the expert's own actions": 1,
    }


@pytest.mark.parametrize("same", [True, False])
def test_order_in_the_file_does_not_matter(same: bool) -> None:
    found = [played(["go"] * n, 1.0, sample=n) for n in (2, 1, 3)]
    assert select_successes(found if same else found[::-1], {}).kept == [found[1]]
