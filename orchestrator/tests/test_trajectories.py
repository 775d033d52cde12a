"""Formats of elsewhere: read, written, and read again."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import played
from orchestrator.config import ConfigError
from orchestrator.jsonl import DataFileError
from orchestrator.pairs import make_pair
from orchestrator.records import Message, Pair
from orchestrator.trajectories import commands, formats
from orchestrator.trajectories.formats import Trajectory
from orchestrator.trajectories.replay import same_words, split_answer
from orchestrator.trajectories.tasks import AGENTTRAJ_SCIWORLD, WORDINGS, task_of, tasks_of

from orchestrator import jsonl

EPISODES = [played(["go", "look"], 1.0, task_id=f"t:{i}") for i in range(3)]


def lines(path: Path, records: list[Any]) -> Path:
    jsonl.write_all(path, records)
    return path


@pytest.mark.parametrize("form", ["eto-sft", "agenttraj", "eto-episodes", "trl"])
def test_what_is_exported_is_read_again_with_every_word(tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    commands.export(lines(tmp_path / "e.jsonl", EPISODES), form, out)
    found = list(formats.read_trajectories(out))
    whole = form == "eto-episodes"  # the others end on the agent's turn
    assert [t.messages for t in found] == [e.messages if whole else e.messages[:-1] for e in EPISODES]
    if form != "trl":
        assert {t.reward for t in found} == {1.0}


def test_pairs_go_out_and_come_back(tmp_path: Path) -> None:
    pair = make_pair(EPISODES[0], played(["go"], 0.0, "expert"))
    assert isinstance(pair, Pair)
    source = lines(tmp_path / "p.jsonl", [pair])
    for form in ("eto-dpo", "trl"):
        commands.export(source, form, tmp_path / form)
        assert formats.holds_pairs(tmp_path / form)
        commands.import_pairs(tmp_path / form, tmp_path / "back.jsonl")
        back = json.loads((tmp_path / "back.jsonl").read_text())
        for key in formats.PAIR_KEYS:
            assert back[key] == [m.model_dump() for m in getattr(pair, key)]


def test_the_keys_of_etos_files_are_theirs(tmp_path: Path) -> None:
    commands.export(lines(tmp_path / "e.jsonl", EPISODES), "eto-sft", tmp_path / "sft.json")
    record = json.loads((tmp_path / "sft.json").read_text())[0]
    assert record["conversations"][0] == {"from": "human", "value": "instruction"}
    assert [t["from"] for t in record["conversations"]] == ["human", "gpt", "human", "gpt", "human", "gpt"]
    commands.export(tmp_path / "e.jsonl", "eto-episodes", tmp_path / "episodes")
    meta = json.loads((tmp_path / "episodes" / "t_0.json").read_text())["meta"]
    assert meta == {"steps": 2, "reward": 1.0, "finished": True, "success": True, "terminate_reason": "success", "error": None}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1}', "line 1: neither `conversations`"),
        ("[1]", "record 0: no JSON object but int"),
        ('{"conversations": [{"from": "robot", "value": ""}]}', "line 1: turn 0 is none"),
        ('{"messages": [{"role": "user"}]}', "turn 0 is none"),
        ("{torn", "line 1: no JSON"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(DataFileError, match=says):
        list(formats.read_trajectories(file))


def test_episodes_have_no_form_of_pairs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="have no eto-dpo form"):
        commands.export(lines(tmp_path / "e.jsonl", EPISODES), "eto-dpo", tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "thought", "action"),
    [
        ("Thought: a door.\nAction: open door", "a door.", "open door"),
        ("Thought:\na door.\n\nAction:\nopen door", "a door.", "open door"),
        ("Action: take mug 1", None, "take mug 1"),
        ("go to shelf 1", None, "go to shelf 1"),
        ("Thought: two\nlines.\nAction: look", "two\nlines.", "look"),
        ("Thought: nothing to do", "nothing to do", None),
    ],
)
def test_thought_and_action_are_found_in_every_form(text: str, thought: str | None, action: str | None) -> None:
    assert split_answer(text) == (thought, action)


def test_order_does_not_matter_but_words_do() -> None:
    assert same_words("You see:\n\ta cup (containing tea, milk)\n\ta chair", "You see: a chair\n\ta cup (containing milk, tea)")
    assert not same_words("a thermometer reads 51 degrees", "a thermometer reads 49 degrees")
    assert not same_words("a cup", "a cup a cup")


def test_an_older_releases_names_are_todays_and_thoughts_keep_their_phrases() -> None:
    wording = WORDINGS["sciworld"]
    seen = wording.today(Message(role="user", content="above 50.0 degrees, or 51 degrees celsius, in the green house"))
    assert seen.content == "above 50.0 degrees celsius, or 51 degrees celsius, in the greenhouse"
    said = wording.today(Message(role="assistant", content="Thought: 50 degrees.\nAction: go to green house"))
    assert said.content == "Thought: 50 degrees.\nAction: go to greenhouse"


def test_a_limit_that_was_drawn_anew_is_todays_for_the_world_and_the_agent() -> None:
    opening = "Find me a lamp, and price lower than {} dollars"
    turns = [
        Message(role="user", content=f"{opening.format('50.00')} [SEP] $50.0 [SEP] 50 pack"),
        Message(
            role="assistant", content="Thought: It is under $50, lower than 50.00 dollars.\nAction: search[50 lamps < 50.00 price < 50]"
        ),
        Message(role="assistant", content="Thought: More than 50% cotton, less than 50.5 or 500.\nAction: click[50]"),
    ]
    redrawn = WORDINGS["webshop"].redrawn(turns, opening.format("50.00"), opening.format("130.00"))
    assert [turn.content for turn in redrawn] == [
        f"{opening.format('130.00')} [SEP] $50.0 [SEP] 50 pack",
        "Thought: It is under $130, lower than 130.00 dollars.\nAction: search[50 lamps < 130.00 price < 130]",
        "Thought: More than 50% cotton, less than 50.5 or 500.\nAction: click[50]",
    ]
    assert WORDINGS["webshop"].redrawn(turns, opening.format("50.00"), "Find me a lamp") == turns
    assert WORDINGS["sciworld"].redrawn(turns, opening.format("50.00"), opening.format("130.00")) == turns


def test_agenttrajs_numbers_are_tasks() -> None:
    def named(source: str, **fields: Any) -> str | None:
        return task_of("sciworld", Trajectory(source, [], None, fields))

    assert named("sciworld_0") == "task-1-boil:0"
    assert named("sciworld_2656") == "task-3-find-living-thing:20"
    assert named("sciworld_4329") == "task-7-identify-life-stages-2:0"
    assert named(f"sciworld_{sum(n for _, n in AGENTTRAJ_SCIWORLD)}") is None
    assert named("anything", task_id="task-1-boil:3") == "task-1-boil:3"
    assert named("task-1-boil:3") == "task-1-boil:3"
    assert named("webshop_3") is None
    assert task_of("webshop", Trajectory("webshop_3", [], None, {})) == "synthetic:3"


def test_a_record_may_belong_to_one_of_several_games_or_to_none() -> None:
    def games(**fields: Any) -> list[str]:
        return tasks_of("alfworld", Trajectory("alfworld_agenttraj_0", [], None, fields))

    assert games(game_candidates=["a/trial_1", "a/trial_2"]) == ["train/a/trial_1", "train/a/trial_2"]
    assert games(game_candidates=[]) == []
    assert games(game_file="json_2.1.1/train/a/trial_1/game.tw-pddl") == ["train/a/trial_1"]
    assert tasks_of("sciworld", Trajectory("task-1-boil:3", [], None, {"game_candidates": ["a/trial_1"]})) == ["task-1-boil:3"]
