import itertools

from builders import episode, played
from hypothesis import given
from hypothesis import strategies as st
from orchestrator.pairs import REJECTED_MARGIN_MESSAGES, Cut, make_pair, make_pairs
from orchestrator.records import Pair

rewards = st.sampled_from([0.0, 0.25, 0.5, 1.0])


def test_a_losing_agent_is_rejected_and_the_expert_chosen() -> None:
    pair = make_pair(episode(2, 0.25), episode(3, 1.0, "expert"))
    assert isinstance(pair, Pair)
    assert (pair.outcome, pair.chosen_policy, pair.rejected_policy) == ("lose", "expert", "agent")
    assert (pair.chosen_reward, pair.rejected_reward) == (1.0, 0.25)
    assert [m.content for m in pair.prompt] == ["instruction", "OK", "task"]
    assert [m.content for m in pair.rejected] == ["Action: agent 0", "Observation: 0", "Action: agent 1"]


def test_a_winning_agent_is_chosen_and_kept_whole() -> None:
    pair = make_pair(episode(30, 1.0), episode(2, 0.5, "expert"))
    assert isinstance(pair, Pair)
    assert (pair.outcome, pair.chosen_policy, len(pair.chosen)) == ("win", "agent", 59)


def test_a_rejected_agent_is_cut_to_the_experts_length_and_ten_messages() -> None:
    pair = make_pair(episode(30, 0.0), episode(3, 1.0, "expert"))
    assert isinstance(pair, Pair)
    assert len(pair.rejected) == 5 + REJECTED_MARGIN_MESSAGES  # 15, ends on an assistant turn
    assert pair.rejected[-1].role == "assistant"


def test_alfworld_is_not_cut() -> None:
    pair = make_pair(episode(30, 0.0, env="alfworld"), episode(3, 1.0, "expert", env="alfworld"))
    assert isinstance(pair, Pair)
    assert len(pair.rejected) == 59


def test_a_rejected_agent_is_cut_behind_its_first_other_action_or_its_first_refused_one() -> None:
    expert = played(["go", "take", "win"], 1.0, "expert")
    agent = played(["go", "eat", "sing", "take"], 0.0)
    agent.steps[2] = agent.steps[2].model_copy(update={"valid": False})
    ends: dict[Cut, str] = {"reference": "take", "diverging": "eat", "refused": "sing"}
    for cut, action in ends.items():
        pair = make_pair(agent, expert, cut)
        assert isinstance(pair, Pair)
        assert pair.rejected[-1].content.endswith(f"Action: {action}")
        assert len(pair.chosen) == 5
    won = make_pair(agent.model_copy(update={"reward": 2.0}), expert, "diverging")
    assert isinstance(won, Pair)
    assert (len(won.chosen), len(won.rejected)) == (7, 5)  # an expert that loses is not cut, nor is what is chosen


def test_a_tie_makes_no_pair_and_is_counted() -> None:
    made = make_pairs([episode(2, 1.0)], {"t:0": episode(3, 1.0, "expert")})
    assert made.summary() == {"win": 0, "tie": 1, "lose": 0, "pairs": 0, "dropped": {}}


def test_an_episode_without_a_turn_is_dropped_with_its_reason() -> None:
    made = make_pairs([episode(0, 0.0)], {"t:0": episode(3, 1.0, "expert")})
    assert made.summary() == {"win": 0, "tie": 0, "lose": 1, "pairs": 0, "dropped": {"a side without a turn": 1}}


def test_a_task_without_an_expert_is_dropped_with_its_reason() -> None:
    assert make_pairs([episode(1, 0.0)], {}).dropped == {"no expert": 1}


@given(st.integers(0, 40), rewards, st.integers(1, 40), rewards, st.sampled_from(["sciworld", "alfworld"]))
def test_every_pair_keeps_the_rules(agent_turns: int, agent_reward: float, expert_turns: int, expert_reward: float, env: str) -> None:
    agent, expert = episode(agent_turns, agent_reward, env=env), episode(expert_turns, expert_reward, "expert", env=env)
    made = make_pairs([agent], {"t:0": expert})
    assert made.win + made.tie + made.lose == 1
    assert len(made.pairs) + sum(made.dropped.values()) + made.tie == 1
    for pair in made.pairs:
        assert pair.chosen_reward > pair.rejected_reward
        for side in (pair.chosen, pair.rejected):
            assert side[0].role == side[-1].role == "assistant"
            assert all(a.role != b.role for a, b in itertools.pairwise(side))
        if pair.outcome == "lose" and env != "alfworld":
            assert len(pair.rejected) <= len(pair.chosen) + REJECTED_MARGIN_MESSAGES
