"""Mixtures of training data by weight."""

import json
from pathlib import Path
from typing import Any

import pytest
from orchestrator.config import ConfigError, RunConfig
from orchestrator.config_file import load_config
from orchestrator.config_training import SourceSection
from orchestrator.jsonl import DataFileError
from orchestrator.mixture import ConversationLine, PairLine, mix, mixed_lines

COMMON: dict[str, Any] = {"name": "one", "train_tasks": {"split": "train"}, "evaluate": [{"split": "test"}]}


def talk(word: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": word, "weight": 1}]}


def chats(folder: Path, count: int) -> Path:
    """A file from elsewhere, without a newline at its end."""
    file = folder / "chats.jsonl"
    file.write_text("\n".join(json.dumps(talk(f"chat {n}")) for n in range(count)))
    return file


def test_weights_are_shares_and_the_shortest_source_for_its_weight_is_taken_whole() -> None:
    taken = mix({"few": range(30), "many": range(1000)}, [3, 1], seed=0)
    assert {name: len(found) for name, found in taken.items()} == {"few": 30, "many": 10}
    taken = mix({"a": range(10), "b": range(100), "c": range(50)}, [0.1, 0.6, 0.3], seed=0)
    assert {name: len(found) for name, found in taken.items()} == {"a": 10, "b": 60, "c": 30}


def test_nothing_is_taken_twice_and_the_seed_decides_what_is_taken() -> None:
    one, again, other = (mix({"few": range(30), "many": range(1000)}, [1, 1], seed)["many"] for seed in (0, 0, 1))
    assert one == again
    assert set(one) != set(other)
    assert len(set(one)) == 30
    assert one == sorted(one)


def test_what_is_drawn_of_a_source_does_not_hang_on_its_place() -> None:
    weights = {"a": 1.0, "b": 2.0}
    there = mix({"a": range(100), "b": range(50)}, [1, 2], seed=4)
    back = mix({"b": range(50), "a": range(100)}, [2, 1], seed=4)
    assert weights.keys() == there.keys()
    assert there == back


@pytest.mark.parametrize(
    ("sources", "says"), [({"a": [1], "b": []}, "b holds no examples"), ({"a": [1], "b": [1, 2]}, "b would give 0.01 examples")]
)
def test_a_source_that_would_give_nothing_is_an_error(sources: dict[str, list[int]], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        mix(sources, [100, 1], seed=0)


def test_a_file_and_a_source_of_the_run_become_lines_that_say_where_they_are_from(tmp_path: Path) -> None:
    file = chats(tmp_path, 8)
    experts = [ConversationLine.model_validate(talk(f"expert {n}")) for n in range(6)]
    mixture = [SourceSection(source="experts", weight=3), SourceSection(file=file), SourceSection(source="own", weight=9)]
    lines = [line.model_dump() for line in mixed_lines(mixture, {"experts": experts, "own": []}, 0, ConversationLine)]
    assert [line["source"] for line in lines] == ["experts"] * 6 + [str(file)] * 2
    assert all(line["messages"][1]["weight"] == 1 for line in lines)
    whole = mixed_lines([SourceSection(file=file)], {}, 0, ConversationLine)
    assert [line.messages[1]["content"] for line in whole] == [f"chat {n}" for n in range(8)]


def test_a_line_of_another_kind_is_named(tmp_path: Path) -> None:
    file = chats(tmp_path, 3)
    with pytest.raises(DataFileError, match=r"chats.jsonl, line 1: prompt: Field required"):
        mixed_lines([SourceSection(file=file)], {}, 0, PairLine)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sft": {"data": [{"source": "own"}]}}, "sft.data: with method eto there is no source own; known: experts"),
        ({"dpo": {"data": [{"source": "experts"}]}}, "dpo.data: with method eto there is no source experts; known: pairs"),
        ({"sft": {"data": [{"file": "nowhere.jsonl"}]}}, "there is no file nowhere.jsonl"),
        ({"sft": {"data": [{"source": "experts", "file": "a.jsonl"}]}}, "name either a source of the run or a file"),
        ({"sft": {"data": [{"source": "experts", "weight": 0}]}}, "greater than 0"),
        ({"sft": {"data": [{"sauce": "experts"}]}}, "unknown key; known here: source, file, weight"),
    ],
)
def test_a_mixture_that_cannot_be_made_is_refused_before_anything_starts(tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(COMMON | settings))
    with pytest.raises(ConfigError, match=says):
        load_config(file)


def test_the_agents_own_successes_are_a_source_of_rft() -> None:
    settings = {"method": "rft", "sft": {"data": [{"source": "experts"}, {"source": "own", "weight": 0.5}]}}
    found = RunConfig.model_validate(COMMON | settings).sft.data or []
    assert [(s.source, s.weight) for s in found] == [("experts", 1.0), ("own", 0.5)]


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataFileError, match=r"own\.jsonl cannot be read"):
        mixed_lines([SourceSection(file=tmp_path / "own.jsonl")], {}, 0, ConversationLine)
