"""`eto run --dry-run`: what each stage will take, and where the estimate comes from."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from orchestrator.config import RunConfig
from orchestrator.estimate import Estimate, estimate, total
from orchestrator.pipeline import plan
from orchestrator.run_store import RunStore, StageRecord, open_run
from run_builder import played_by

SET = {"split": "eto-seen", "types": ["a", "b"], "per_type": 4}
COMMON: dict[str, Any] = {
    "model": {"hidden_size": 64, "heads": 2},
    "env": {"url": "http://127.0.0.1:9"},  # nobody answers there
    "train_tasks": {"split": "eto-train", "types": ["a", "b"], "per_type": 10},
    "evaluate": [SET],
    "sft": {"epochs": 2},
}


def config(name: str, **settings: Any) -> RunConfig:
    return RunConfig.model_validate({**COMMON, "name": name, **settings})


def estimated(given: RunConfig, runs: Path) -> dict[str, Estimate]:
    return {e.name: e for e in asyncio.run(estimate(given, runs, plan(given)))}


def done(store: RunStore, stage: str, kind: str, duration_s: float, summary: dict[str, Any]) -> None:
    store.stage_dir(stage).mkdir(parents=True)
    record = StageRecord(stage=stage, kind=kind, started_at="2026-01-01", duration_s=duration_s, inputs={}, outputs={}, summary=summary)
    store.write_record(record)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with a run that evaluated 32 episodes in 64 s and learnt 1,000 tokens from 5 examples, twice over, in 30 s."""
    store = open_run(tmp_path, config("old", evaluate=[{**SET, "per_type": 16}]))
    done(store, "evaluate-base", "evaluate", 64.0, {"episodes": 32})
    episodes = played_by("base", "eto-seen", 8, 0.5)
    (store.stage_dir("evaluate-base") / "episodes.jsonl").write_text("".join(json.dumps(e) + "\n" for e in episodes))
    done(store, "sft", "sft", 30.0, {"metrics": {"tokens": 1000, "examples": 5}})
    return tmp_path


def test_time_and_tokens_go_by_what_a_run_with_the_same_model_took(runs: Path) -> None:
    lines = estimated(config("new", sft={"epochs": 4}), runs)
    played = played_by("base", "eto-seen", 8, 0.5)
    evaluation, sft = lines["evaluate-base"], lines["sft"]
    assert (evaluation.episodes, evaluation.seconds, evaluation.basis) == (8, 16.0, "old:evaluate-base")
    assert evaluation.tokens["completion"] == round(sum(e["usage"]["completion_tokens"] for e in played) / 4)
    # 20 examples, 4 passes, against 5 examples, 2 passes
    assert (sft.tokens, sft.seconds, sft.basis) == ({"trained": 8000}, 240.0, "old:sft")


def test_another_models_runs_tell_nothing_and_rules_of_thumb_are_named(runs: Path) -> None:
    lines = estimated(config("new", model="some/model"), runs)
    assert lines["evaluate-base"].basis.startswith("rule of thumb: 12 turns an episode")
    assert lines["sft"].basis.startswith("rule of thumb:")
    assert lines["explore-1"].episodes == 20


def test_only_the_tasks_that_are_explored_count(runs: Path) -> None:
    assert estimated(config("new", explore={"tasks": 7, "samples": 2, "temperature": 1.0}), runs)["explore-1"].episodes == 14
    assert estimated(config("new", explore={"tasks": 70}), runs)["explore-1"].episodes == 20


def test_what_is_done_costs_nothing_more(runs: Path) -> None:
    lines = estimated(config("old", evaluate=[{**SET, "per_type": 16}]), runs)
    assert (lines["sft"].state, lines["sft"].seconds) == ("done", 0.0)
    assert lines["evaluate-sft"].state == "to do"
    sums = total(lines.values())
    assert sums["episodes"] == 20 + 32 + 20 + 20 + 32  # experts, evaluate-sft, explore, check, evaluate-eto-1
    assert sums["unknown"] == []


def test_what_nobody_can_know_yet_is_said(tmp_path: Path) -> None:
    lines = estimated(config("new", train_tasks={"split": "eto-train"}), tmp_path)
    assert lines["experts"].episodes is None
    assert lines["experts"].basis.startswith("unknown: how many tasks")
    assert {"experts", "sft", "explore-1", "dpo-1"} <= set(total(lines.values())["unknown"])
