import json
from pathlib import Path

import pytest
from orchestrator.config import ConfigError
from orchestrator.experts import answer, goal, path, thought
from orchestrator.prompts import Prompt, load_prompt, parse_action
from orchestrator.records import Message
from pydantic import ValidationError

PLAIN = Prompt(env="x", instruction="Play.", invalid_output="No action.")


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
    with pytest.raises(FileNotFoundError, match="known: alfworld, sciworld"):
        load_prompt("nosuch")


def test_a_prompt_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no prompt file .*none\.yaml"):
        load_prompt("sciworld", tmp_path / "none.yaml")


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "instruction: 3", "instructions: hi"])
def test_a_prompt_file_that_is_none_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml is no prompt file"):
        load_prompt("sciworld", file)


def test_what_is_wrong_with_a_prompt_file_is_said_in_one_sentence_of_ours(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("instruction: hi\ninvalid_output: none\nthoughts: [['(', hm]]\n")
    with pytest.raises(ConfigError) as caught:
        load_prompt("sciworld", file)
    assert str(caught.value) == (
        f"{file} is no prompt file: thoughts: '(' with 'hm' does not work: missing ), unterminated subpattern at position 0. "
        "Compare it with those in orchestrator/orchestrator/envs."
    )


def conversation(*values: str) -> str:
    turns = [{"from": "gpt" if i % 2 else "human", "value": value} for i, value in enumerate(values)]
    return json.dumps([{"id": "webshop_1", "conversations": turns}])


@pytest.mark.parametrize("prefix", ["", "Observation: ", "Observation:\n"])
def test_a_data_sets_own_instruction_can_be_the_prompt(tmp_path: Path, prefix: str) -> None:
    file = tmp_path / "data.json"
    file.write_text(conversation("Shop well.", "Ok.", "the task", "Action: search[a]", f"{prefix}a page", "Action: click[b]"))
    prompt, packaged = load_prompt("webshop", file), load_prompt("webshop")
    assert [m.content for m in prompt.opening("a task")] == ["Shop well.", "Ok.", "a task"]
    assert prompt.observation("x").content == f"{prefix}x"
    assert prompt.thoughts == packaged.thoughts
    assert [m.role for m in prompt.example] == [m.role for m in packaged.example]
    assert prompt.example[2].content == prefix + packaged.example[2].content.removeprefix("Observation:\n")
    assert prompt.example[0] == packaged.example[0]


@pytest.mark.parametrize("values", [(), ("Shop well.",), ("Shop well. The task.", "Action: search[a]", "a page", "Action: click[b]")])
def test_a_data_set_without_an_instruction_of_its_own_gives_no_prompt(tmp_path: Path, values: tuple[str, ...]) -> None:
    file = tmp_path / "data.json"
    file.write_text(conversation(*values))
    with pytest.raises(ConfigError, match=r"data\.json was to give the prompt"):
        load_prompt("webshop", file)


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
        ("alfworld", "put mug 1 in/on desk 1", "The mug 1 belongs here, so I will put it in or on the desk 1."),
        ("alfworld", "heat mug 1 with microwave 1", "The mug 1 has to be hot, so I will heat it with the microwave 1."),
        ("alfworld", "use desklamp 1", "I will turn on the desklamp 1."),
        ("webshop", "search[red shirt]", "I will search for what the instruction asks for: red shirt."),
        ("webshop", "click[B00ABCDEF1]", "The product B00ABCDEF1 seems to be what the instruction asks for, so I will look at it."),
        ("webshop", "click[{0} x-large]", "The instruction asks for {0} x-large, so I will choose that option."),
        ("webshop", "click[Buy Now]", "The product and the chosen options fit the instruction, so I will buy it."),
    ],
)
def test_an_experts_thought_is_the_environments_first_pattern_that_matches(env: str, action: str, sentence: str) -> None:
    assert thought(action, load_prompt(env)) == sentence


def test_an_expert_without_a_thought_only_acts() -> None:
    prompt = PLAIN.model_copy(update={"thoughts": [("go to .+", "I go."), ("(?s).*", "")]})
    assert answer("look", prompt) == "Action: look"
    assert answer("go to x", prompt) == "Thought: I go.\nAction: go to x"


def test_an_experts_thought_can_say_the_tasks_goal() -> None:
    goals = [(r"find a (\w+)\..*to the (\w+ box)", "Find a {0} for the {1}."), ("boil (.+)", "Boil {0}.")]
    prompt = PLAIN.model_copy(update={"goals": goals, "thoughts": [("go to (.+)", "{goal} Off to the {0}."), ("(?s).*", "{goal}")]})
    about = goal("Your task is to find a plant. Move it to the red box.", prompt)
    assert answer("go to kitchen", prompt, about) == "Thought: Find a plant for the red box. Off to the kitchen.\nAction: go to kitchen"
    assert answer("look around", prompt, about) == "Thought: Find a plant for the red box.\nAction: look around"
    assert answer("look around", prompt, goal("Sing.", prompt)) == "Action: look around"
    assert goal("Sing.", PLAIN.model_copy(update={"goals": [("(quietly )?(?i:sing)", "I {0}sing.")]})) == "I sing."


def test_an_experts_path_is_the_gold_path_with_the_prompts_changes() -> None:
    changes = [(r"(?m)^open door to .*\n", ""), (r"(?m)^(go to .*\n)(?=focus on )", r"\1look around\n")]
    gold = ["open door to hall", "go to hall", "focus on cat", "focus on dog"]
    assert path(gold, PLAIN.model_copy(update={"path": changes})) == ["go to hall", "look around", "focus on cat", "focus on dog"]
    assert path(gold, PLAIN) == gold


@pytest.mark.parametrize(
    ("field", "pattern", "instead"),
    [
        ("thoughts", "go", "to {0}"),
        ("thoughts", "go", "{aim}"),
        ("thoughts", "(go)", "{0.x}"),
        ("goals", "(", "x"),
        ("goals", "go", "{goal}"),
        ("path", "go", r"\1"),
        ("rewrites", "*", "x"),
    ],
)
def test_a_pattern_that_does_not_work_is_named_when_the_prompt_is_read(field: str, pattern: str, instead: str) -> None:
    with pytest.raises(ValidationError, match=f"{field}: .* does not work"):
        Prompt.model_validate({"env": "x", "instruction": "Play.", "invalid_output": "No.", field: [(pattern, instead)]})


def test_alfworlds_texts_are_brought_into_etos_form() -> None:
    prompt = load_prompt("alfworld")
    room = "You are in the middle of a room. Looking quickly around you, you see a desk 1."
    shown = f"-= Welcome to TextWorld, ALFRED! =-\n\n{room}\n\nYour task is to: put a mug in desk."
    assert prompt.opening(shown)[2].content == f"{room}\nYour task is to: put a mug in desk."
    arrival = "You arrive at loc 12. On the desk 1, you see a mug 1."
    assert prompt.observation(arrival).content == "Observation: On the desk 1, you see a mug 1."
    assert prompt.observation("Nothing happens.").content == "Observation: Nothing happens."
    assert prompt.refused("Nothing happens.")
    assert not any("arrive at" in m.content or "Welcome" in m.content for m in prompt.example)
