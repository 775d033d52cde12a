"""Which of a split's tasks a stage takes."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

from orchestrator.config import TaskSet
from orchestrator.env_client import EnvClient, Task

Item = TypeVar("Item")


class StageError(RuntimeError):
    """A stage cannot give what the next ones need; the message says why."""


async def choose_tasks(env: EnvClient, chosen: TaskSet) -> list[Task]:
    """The tasks of a set, in the split's order. Raises StageError for types the split does not have."""
    by_type: dict[str, list[Task]] = defaultdict(list)
    for task in await env.tasks(chosen.split):
        by_type[task.task_type].append(task)
    unknown = sorted(set(chosen.types or []) - set(by_type))
    if unknown:
        raise StageError(f"split {chosen.split} has no task type {', '.join(unknown)}; it has {', '.join(sorted(by_type))}.")
    return [t for name in chosen.types or sorted(by_type) for t in spread(by_type[name], chosen.per_type)]


def spread(items: Sequence[Item], limit: int | None) -> list[Item]:
    """At most `limit` of them, evenly spaced."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]


def hold_out(tasks: Sequence[Task], number: int) -> tuple[list[Task], list[Task]]:
    """Take `number` of each type away, evenly spread. Raises StageError where a type would have none left."""
    by_type: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        by_type[task.task_type].append(task)
    small = [f"{name} ({len(of_type)})" for name, of_type in by_type.items() if len(of_type) <= number]
    if small:
        raise StageError(
            f"dev.held_out {number} leaves nothing to train on of {', '.join(small)}; hold out fewer, or leave these types out."
        )
    out = {t.task_id for of_type in by_type.values() for t in spread(of_type, number)}
    return [t for t in tasks if t.task_id not in out], [t for t in tasks if t.task_id in out]
