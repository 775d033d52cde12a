"""ScienceWorld's tasks and splits, as the core asks for them. In a split, tasks stand by task type, then by variation."""

import functools
from collections.abc import Sequence

from env_core.environment import Split, Task

from env_sciworld.tables import TaskType, split_task_id, task_types

SPLITS = (
    Split("train", "train"),  # train, dev, test: the simulator's own, all 30 task types
    Split("dev", "validation"),
    Split("test", "test"),
    Split("eto-train", "train"),  # eto-*: the tasks of the ETO paper's code, 24 task types
    Split("eto-seen", "validation"),
    Split("eto-unseen", "test"),
)


class SciworldTasks:
    """A TaskSet."""

    def splits(self) -> Sequence[Split]:
        """Return all splits."""
        return SPLITS

    def tasks(self, split: str) -> Sequence[Task]:
        """Return the tasks of a split."""
        return _tasks_of(split)

    def find(self, task_id: str) -> Task:
        """Return a task; KeyError with the reason where there is none of this id."""
        try:
            name, variation = split_task_id(task_id)
        except ValueError as error:
            raise KeyError(str(error)) from None
        task_type = task_types().get(name)
        if task_type is None:
            raise KeyError(f"there is no task type {name!r}")
        if variation >= task_type.variations:
            raise KeyError(f"{name} has the variations 0 to {task_type.variations - 1} only")
        return task_of_variation(task_type, variation)


@functools.cache
def _tasks_of(split: str) -> tuple[Task, ...]:
    if split not in {s.name for s in SPLITS}:
        raise KeyError(split)
    return tuple(task_of_variation(t, variation) for t in task_types().values() for variation in t.splits.get(split, ()))


def task_of_variation(task_type: TaskType, variation: int) -> Task:
    """Return a variation of a task type as a task."""
    return Task(f"{task_type.name}:{variation}", task_type.name, task_type.max_steps)
