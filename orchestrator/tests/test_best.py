"""The choice of the best policy by the dev tasks, and when a run ends by it."""

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from orchestrator.best import standing, verdict
from orchestrator.config import RunConfig
from orchestrator.env_client import Task
from orchestrator.progress import Display
from orchestrator.run_index import read_run
from orchestrator.run_store import RunStore, StageRecord, open_run
from orchestrator.stages.choice import StageError, hold_out
from rich.console import Console

from orchestrator import pipeline

COMMON: dict[str, Any] = {"name": "r", "train_tasks": {"split": "a"}, "evaluate": [{"split": "b"}], "iterations": 3}


def test_the_highest_dev_score_is_best_and_of_equals_the_earlier_policy() -> None:
    assert standing([("sft", 0.2), ("eto-1", 0.5), ("eto-2", 0.4)]).policy == "eto-1"
    now = standing([("sft", 0.5), ("eto-1", 0.5), ("eto-2", 0.1)])
    assert (now.policy, now.since) == ("sft", 2)


@pytest.mark.parametrize(
    ("scores", "patience", "stops"),
    [
        ([0.5], 1, False),
        ([0.5, 0.4], 1, True),
        ([0.5, 0.4], 2, False),
        ([0.5, 0.4, 0.5], 2, True),
        ([0.5, 0.4, 0.6], 1, False),
        ([0.5, 0.4, 0.3], None, False),
    ],
)
def test_a_run_stops_after_so_many_iterations_without_a_better_dev_score(scores: list[float], patience: int | None, stops: bool) -> None:
    assert (verdict(standing([(f"p{i}", s) for i, s in enumerate(scores)]), patience) is not None) == stops


def test_tasks_are_held_out_of_every_type_and_never_trained_on() -> None:
    tasks = [Task(task_id=f"{kind}:{i}", task_type=kind, max_steps=9) for kind in ("boil", "melt") for i in range(6)]
    train, held = hold_out(tasks, 2)
    assert [t.task_id for t in held] == ["boil:0", "boil:3", "melt:0", "melt:3"]
    assert sorted(t.task_id for t in (*train, *held)) == sorted(t.task_id for t in tasks)
    assert hold_out(tasks, 0) == (tasks, [])
    with pytest.raises(StageError, match=r"leaves nothing to train on of boil \(6\), melt \(6\)"):
        hold_out(tasks, 6)


def finish(store: RunStore, stage: pipeline.Stage, summary: dict[str, Any]) -> None:
    store.stage_dir(stage.name).mkdir(parents=True)
    inputs = pipeline._inputs(store, stage)
    record = StageRecord(stage=stage.name, kind=stage.kind, started_at="then", duration_s=1, inputs=inputs, outputs={}, summary=summary)
    store.write_record(record)


def test_a_run_that_its_dev_score_has_ended_goes_on_no_further_and_is_finished(tmp_path: Path) -> None:
    config = RunConfig.model_validate({**COMMON, "dev": {"held_out": 1}, "early_stop": {"patience": 1}})
    store = open_run(tmp_path, config)
    for stage in pipeline.plan(config):
        last = stage.name == "dev-eto-1"
        finish(store, stage, {"pairs": 3, **({"stopped": "1 iteration has brought no better", "best": "sft"} if last else {})})
        if last:
            break
    screen = io.StringIO()
    worked = asyncio.run(pipeline.run(config, store, Display(Console(file=screen, width=200)), pipeline.plan(config)))
    assert not worked
    assert "brought no better: the run ends here; the best policy is sft" in screen.getvalue()
    info = read_run(store.path)
    assert info.state == "finished"
    assert {s.state for s in info.stages if s.name.endswith("-2")} == {"not needed"}
