"""Which training tasks are explored; the whole stage with real parts is in tests/test_loop.py."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from orchestrator.config import RunConfig
from orchestrator.env_client import Task
from orchestrator.stages import playing

CONFIG: dict[str, Any] = {"name": "x", "train_tasks": {"split": "train"}, "evaluate": [{"split": "test"}]}


@pytest.mark.parametrize(
    ("explore", "expected"),
    [
        ({}, ["t0", "t1", "t2", "t3", "t4", "t5"]),
        ({"tasks": 3}, ["t0", "t2", "t4"]),
        ({"tasks": 2, "samples": 2, "temperature": 1.0}, ["t0", "t0", "t3", "t3"]),
        ({"tasks": 60}, ["t0", "t1", "t2", "t3", "t4", "t5"]),
    ],
)
def test_a_part_of_the_tasks_with_a_successful_expert_is_explored_evenly_spaced(
    explore: dict[str, Any], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    solved = {f"t{i}": None for i in (3, 0, 5, 1, 4, 2)}  # as they happened to end
    played: list[str] = []

    async def train_tasks() -> tuple[list[Task], list[Task]]:
        return [Task(task_id=f"t{i}", task_type="look", max_steps=5) for i in range(8)], []

    async def rollout(_ctx: Any, _stage: str, _policy: str, _model: str, todo: dict[float, list[Any]]) -> dict[str, Any]:
        played.extend(a.task.task_id for assignments in todo.values() for a in assignments)
        return {}

    monkeypatch.setattr(playing, "_rollout", rollout)
    config = RunConfig.model_validate({**CONFIG, "explore": explore})
    ctx: Any = SimpleNamespace(config=config, train_tasks=train_tasks, successful_experts=lambda: solved)
    asyncio.run(playing.explore(ctx, "explore-1", "sft", "sft"))
    assert played == expected
