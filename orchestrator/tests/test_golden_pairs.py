"""A pair of each environment, written out: what the pair builder makes of an expert's and an agent's trajectory."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import episode
from orchestrator.pairs import make_pair, make_step_pair
from orchestrator.prompts import load_prompt, parse_action
from orchestrator.records import Episode, Message, Pair

GOLDEN = Path(__file__).parent / "golden_pairs"
ENVS = ("webshop", "alfworld", "sciworld")


def load(env: str) -> dict[str, Any]:
    golden: dict[str, Any] = yaml.safe_load((GOLDEN / f"{env}.yaml").read_text(encoding="utf-8"))
    return golden


def messages(turns: list[str]) -> list[Message]:
    """Turns as a pair holds them: the agent speaks first."""
    return [Message(role="user" if i % 2 else "assistant", content=text) for i, text in enumerate(turns)]


def played(env: str, golden: dict[str, Any], who: str) -> Episode:
    turns = golden[who]["turns"]
    base = episode(len(turns) // 2, golden[who]["reward"], who, env=env)
    steps = [s.model_copy(update={"action": parse_action(text)}) for s, text in zip(base.steps, turns[::2], strict=True)]
    return base.model_copy(update={"messages": load_prompt(env).opening(golden["task"]) + messages(turns), "steps": steps})


@pytest.mark.parametrize("env", ENVS)
def test_the_pair_is_the_one_that_is_written_down(env: str) -> None:
    golden = load(env)
    pair = make_pair(played(env, golden, "agent"), played(env, golden, "expert"))
    assert isinstance(pair, Pair)
    expected = golden["pair"]
    prompt = load_prompt(env)
    assert [m.content for m in pair.prompt] == [prompt.instruction.strip(), prompt.acknowledgement, pair.prompt[2].content]
    assert golden["task"].splitlines()[-1] in pair.prompt[2].content
    assert pair.chosen == messages(expected["chosen"])
    assert pair.rejected == messages(expected["rejected"])
    assert (pair.outcome, pair.chosen_reward, pair.rejected_reward) == tuple(
        expected[key] for key in ("outcome", "chosen_reward", "rejected_reward")
    )


@pytest.mark.parametrize("env", ENVS)
def test_the_step_wise_pair_moves_the_shared_way_into_the_prompt(env: str) -> None:
    golden = load(env)
    pair = make_step_pair(played(env, golden, "agent"), played(env, golden, "expert"))
    assert isinstance(pair, Pair)
    shared, expected = golden["shared_messages"], golden["pair"]
    assert pair.prompt[3:] == messages(expected["chosen"])[:shared]
    assert pair.chosen == messages(expected["chosen"])[shared:]
    assert pair.rejected == messages(expected["rejected"])[shared:]
