from pathlib import Path

import pytest
from orchestrator.config import ConfigError
from orchestrator.experts import thought
from orchestrator.prompts import load_prompt, parse_action
from orchestrator.records import Message


@pytest.mark.parametrize(
    ("output", "action"),
    [
        ("Thought: I will look.\nAction: look around", "look around"),
        ("Thought:\nI will look.\n\nAction:\nlook around", "look around"),
        ("Action:   open door  \nObservation: it opens\nAction: go", "open door"),
        ("Action: a\x00b", "a\x00b"),
        ("I would look around.", None),
        ("Action:", None),
        ("Action:   \n", None),
        ("", None),
    ],
)
def test_the_action_is_the_first_line_after_the_marker(output: str, action: str | None) -> None:
    assert parse_action(output) == action


def test_the_worked_example_is_sent_after_the_acknowledgement_and_never_recorded() -> None:
    prompt = load_prompt("sciworld")
    opening = prompt.opening("the task")
    assert [m.role for m in opening] == ["user", "assistant", "user"]
    sent = prompt.with_example([*opening, Message(role="assistant", content="Action: look around")])
    assert sent[:2] == opening[:2]
    assert sent[2 : 2 + len(prompt.example)] == prompt.example
    assert sent[-2] == opening[2]
    assert prompt.example, "the package ships a worked example"
    assert not any(m in opening for m in prompt.example)


def test_an_unknown_environment_is_named_with_the_known_ones() -> None:
    with pytest.raises(FileNotFoundError, match="known: sciworld"):
        load_prompt("nosuch")


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "instruction: 3", "instructions: hi"])
def test_a_prompt_file_that_is_none_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml is no prompt file"):
        load_prompt("sciworld", file)


def test_webshops_observations_stand_on_a_line_of_their_own() -> None:
    prompt = load_prompt("webshop")
    assert prompt.observation("a [SEP] b").content == "Observation:\na [SEP] b"
    assert all(m.content.startswith("Observation:\n") for m in prompt.example[2::2])
    assert parse_action(prompt.example[-1].content) == "click[Buy Now]"


@pytest.mark.parametrize(
    ("env", "action", "sentence"),
    [
        ("sciworld", "pour a into b", "I will pour the a into the b."),
        ("sciworld", "sing", "The next thing to do is to sing."),
        ("webshop", "search[red shirt]", "I will search for what the instruction asks for: red shirt."),
        ("webshop", "click[B00ABCDEF1]", "The product B00ABCDEF1 seems to be what the instruction asks for, so I will look at it."),
        ("webshop", "click[{0} x-large]", "The instruction asks for {0} x-large, so I will choose that option."),
        ("webshop", "click[Buy Now]", "The product and the chosen options fit the instruction, so I will buy it."),
    ],
)
def test_an_experts_thought_is_the_environments_first_pattern_that_matches(env: str, action: str, sentence: str) -> None:
    assert thought(action, load_prompt(env).thoughts) == sentence
