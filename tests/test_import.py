"""`eto data import` against the real services: what holds is kept, what does not is dropped with its reason."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from orchestrator.config import TaskSet
from orchestrator.records import Episode
from orchestrator.trajectories import commands
from orchestrator.trajectories.replay import Rules

from orchestrator import commands as eto
from orchestrator import jsonl

TASKS = TaskSet(split="eto-unseen", types=["task-6-lifespan-(longest-lived)"], per_type=3)


@pytest.fixture(scope="module")
def golds(sciworld: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The service, and a file of three gold trajectories in ETO's format."""
    folder = tmp_path_factory.mktemp("golds")
    asyncio.run(eto.experts("sciworld", sciworld, TASKS, folder / "e.jsonl", 0))
    commands.export(folder / "e.jsonl", "eto-sft", folder / "sft.json")
    return sciworld, folder


def imported(url: str, source: Path, rules: Rules | None = None, env: str = "sciworld") -> tuple[list[Episode], dict[str, Any]]:
    out = source.with_suffix(".out")
    asyncio.run(commands.import_trajectories(source, env, url, out, "x", rules or Rules(), 1, None))
    return list(jsonl.read(out, Episode)), json.loads((out.with_name(out.name + ".report.json")).read_text())


def test_gold_trajectories_in_etos_format_come_back_as_they_were_played(golds: tuple[str, Path]) -> None:
    url, folder = golds
    back, report = imported(url, folder / "sft.json")
    before = sorted(jsonl.read(folder / "e.jsonl", Episode), key=lambda e: e.task_id)
    assert [e.messages for e in sorted(back, key=lambda e: e.task_id)] == [e.messages for e in before]
    assert {(e.reward, e.success, e.split) for e in back} == {(1.0, True, "x")}
    assert report["kept"] == 3
    assert report["dropped"] == {}
    assert report["observations_compared"] == report["observations_equal_by_letter"] > 0


def test_what_the_world_does_not_say_or_pay_is_dropped_with_its_reason(golds: tuple[str, Path]) -> None:
    url, folder = golds
    rows = json.loads((folder / "sft.json").read_text())
    rows[0]["conversations"][4]["value"] = "Observation: You win at once."
    rows[1]["reward"] = 0.5
    rows[2]["id"] = "task-6-lifespan-(longest-lived):999"
    rows.append({"id": "x", "conversations": rows[2]["conversations"]})
    cut = {"id": json.loads((folder / "sft.json").read_text())[0]["id"], "conversations": rows[2]["conversations"][:4]}
    rows.append(cut)
    source = folder / "bad.json"
    source.write_text(json.dumps(rows))
    back, report = imported(url, source)
    assert back == []
    assert report["dropped"] == {
        "an observation differs": 1,
        "the reward differs": 1,
        "unknown task": 1,
        "no task named": 1,
        "the opening differs": 1,
    }
    assert "only in the file: You at once win" in report["examples"]["an observation differs"][0]["why"]


def test_a_trajectory_without_success_is_kept_if_asked_for(golds: tuple[str, Path]) -> None:
    url, folder = golds
    row = json.loads((folder / "sft.json").read_text())[0]
    row["conversations"] = row["conversations"][:4]
    del row["reward"]
    source = folder / "short.json"
    source.write_text(json.dumps([row]))
    assert imported(url, source)[1]["dropped"] == {"no success here": 1}
    back, _ = imported(url, source, Rules(failures=True))
    assert [(len(e.steps), e.success) for e in back] == [(1, False)]


def test_a_webshop_trajectory_that_was_recorded_with_another_price_limit_comes_back_with_the_one_here(webshop: str, tmp_path: Path) -> None:
    chosen = TaskSet(split="sample-test", per_type=1)
    asyncio.run(eto.experts("webshop", webshop, chosen, tmp_path / "e.jsonl", 0))
    here = {e.task_id: e for e in jsonl.read(tmp_path / "e.jsonl", Episode)}
    commands.export(tmp_path / "e.jsonl", "eto-sft", tmp_path / "sft.json")
    rows = json.loads((tmp_path / "sft.json").read_text())
    for row in rows:
        limit = re.search(r"price lower than ([\d.]+) dollars", row["conversations"][2]["value"])
        assert limit is not None
        for turn in row["conversations"]:
            turn["value"] = turn["value"].replace(limit[0], "price lower than 7770.00 dollars")
        row["conversations"][-1]["value"] = f"Thought: It costs less than $7770.\nAction: {here[row['id']].steps[-1].action}"
    (tmp_path / "recorded.json").write_text(json.dumps(rows))
    back, report = imported(webshop, tmp_path / "recorded.json", env="webshop")
    assert (report["kept"], report["dropped"]) == (len(rows), {})
    assert report["observations_compared"] == report["observations_equal_by_letter"] > 0
    for episode in back:
        assert [m.content for m in episode.messages[:-2]] == [m.content for m in here[episode.task_id].messages[:-2]]
        assert "7770" not in str(episode.messages)


def test_alfworld_trajectories_of_bare_actions_or_of_several_candidate_games_come_back(alfworld: str, tmp_path: Path) -> None:
    asyncio.run(eto.experts("alfworld", alfworld, TaskSet(split="train", per_type=1), tmp_path / "e.jsonl", 0))
    here = {e.task_id: e for e in jsonl.read(tmp_path / "e.jsonl", Episode)}
    commands.export(tmp_path / "e.jsonl", "eto-sft", tmp_path / "sft.json")
    rows = json.loads((tmp_path / "sft.json").read_text())
    other = {row["id"]: rows[n - 1]["id"] for n, row in enumerate(rows)}
    bare, searched = json.loads(json.dumps(rows)), json.loads(json.dumps(rows))
    for row in bare:  # as alfworld's own files have it: the game from its welcome on, no thoughts, no instruction
        row["game_file"] = f"json_2.1.1/{row.pop('id')}/game.tw-pddl"
        del row["conversations"][:2]
        row["conversations"][0]["value"] = "-= Welcome to TextWorld, ALFRED! =-\n\n" + row["conversations"][0]["value"]
        for turn in row["conversations"][1::2]:
            turn["value"] = turn["value"].split("Action: ")[1]
    for row in searched:  # as AgentTraj's, whose game is one of several
        row["game_candidates"] = [task.removeprefix("train/") for task in (other[row["id"]], row["id"])]
        row["id"] = "alfworld_0"
    for name, given in (("bare", bare), ("searched", searched)):
        (tmp_path / f"{name}.json").write_text(json.dumps(given))
        back, report = imported(alfworld, tmp_path / f"{name}.json", Rules(observations="exact"), env="alfworld")
        assert (report["kept"], report["dropped"]) == (len(rows), {}), report["examples"]
        assert report["observations_compared"] == report["observations_equal_by_letter"] > 0
        for episode in back:
            assert [s.action for s in episode.steps] == [s.action for s in here[episode.task_id].steps]
            assert episode.success
    for row in searched:
        row["game_candidates"] = row["game_candidates"][:1]
    (tmp_path / "wrong.json").write_text(json.dumps(searched))
    assert imported(alfworld, tmp_path / "wrong.json", env="alfworld")[1]["dropped"] == {"the opening differs": len(rows)}
