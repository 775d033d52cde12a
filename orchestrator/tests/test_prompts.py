from pathlib import Path

import pytest
from orchestrator.config import ConfigError
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
