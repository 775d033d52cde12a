"""ALFWorld's tasks and splits, as the core asks for them. In a split, tasks stand by their folder's name."""

from collections.abc import Sequence

from env_core.environment import Split, Task

from env_alfworld.catalogue import SPLITS, task_id_of
from env_alfworld.store import GameFile

MAX_STEPS = 40  # ETO, AgentGym
TYPES = {
    "train": Split("train", "train"),
    "valid_seen": Split("valid_seen", "validation"),  # ETO's seen test
    "valid_unseen": Split("valid_unseen", "test"),  # ETO's unseen test
    "valid_train": Split("valid_train", "validation"),
}


class AlfworldTasks:
    """A TaskSet."""

    def __init__(self, games: Sequence[GameFile]) -> None:
        """`games` is the whole list, games left out included."""
        self._splits = {name: tuple(_task(g) for g in games if g.split == name and g.reason is None) for name in SPLITS}
        self._tasks = {task.task_id: task for tasks in self._splits.values() for task in tasks}
        self._left_out = {g.task_id: g.reason for g in games if g.reason is not None}

    def splits(self) -> Sequence[Split]:
        """Return all splits that have tasks."""
        return [TYPES[name] for name, tasks in self._splits.items() if tasks]

    def tasks(self, split: str) -> Sequence[Task]:
        """Return the tasks of a split."""
        if not self.of(split):
            raise KeyError(split)
        return self.of(split)

    def of(self, split: str) -> Sequence[Task]:
        """Return the tasks of a split, none where there is no such split."""
        return self._splits.get(split, ())

    def find(self, task_id: str) -> Task:
        """Return a task by its id, or by its game file as ETO's data name it; KeyError with the reason where there is none."""
        task = self._tasks.get(task_id_of(task_id))
        if task is not None:
            return task
        reason = self._left_out.get(task_id_of(task_id))
        if reason is not None:
            raise KeyError(f"this game is left out: {reason}")
        raise KeyError("there is no such game among those that were found (a task id is SPLIT/TASK/TRIAL)")


def _task(game: GameFile) -> Task:
    return Task(game.task_id, game.task_type, MAX_STEPS)
