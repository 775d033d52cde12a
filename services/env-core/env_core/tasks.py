"""Finds tasks in an environment's table on behalf of requests, and says what is wrong with the request."""

from typing import Any

from env_core.environment import Environment, Task
from env_core.errors import ServiceError, invalid_request
from env_core.protocol import ResetRequest


def find_task(environment: Environment, task_id: str) -> Task:
    """Return the task of an id."""
    try:
        return environment.tasks.find(task_id)
    except KeyError as error:
        raise ServiceError(
            404,
            "unknown_task",
            f"Task {task_id!r} was asked for, but {error.args[0]}; POST /{environment.name}/tasks lists a split's tasks.",
        ) from None


def tasks_of(environment: Environment, split: str) -> list[dict[str, Any]]:
    """Return the tasks of a split as the wire has them."""
    try:
        tasks = environment.tasks.tasks(split)
    except KeyError:
        names = ", ".join(s.name for s in environment.tasks.splits())
        raise ServiceError(
            404, "unknown_split", f"Split {split!r} was asked for, but there is none of this name; ask for one of: {names}."
        ) from None
    return [
        {"task_id": task.task_id, "index": index, "task_type": task.task_type, "max_steps": task.max_steps}
        for index, task in enumerate(tasks)
    ]


def task_at(environment: Environment, split: str, index: int) -> dict[str, Any]:
    """Return one task of a split as the wire has it."""
    tasks = tasks_of(environment, split)
    if not 0 <= index < len(tasks):
        raise ServiceError(
            404,
            "unknown_task",
            f"Task {index} of split {split!r} was asked for, but it has {len(tasks)} tasks; send an index from 0 to {len(tasks) - 1}.",
        )
    return tasks[index]


def task_of(environment: Environment, request: ResetRequest) -> Task:
    """Return the task that a reset names."""
    if request.task_id is not None and request.split is None and request.index is None:
        return find_task(environment, request.task_id)
    if request.task_id is None and request.split is not None and request.index is not None:
        return find_task(environment, task_at(environment, request.split, request.index)["task_id"])
    raise invalid_request(
        "A reset must say which task to play, but did not in one of the two ways; send either task_id, or split and index."
    )


def task_by_default(environment: Environment, request: ResetRequest) -> Task:
    """As task_of, but where a split or an index is missing, take the first split and the task that stands at the seed.

    OpenEnv's clients reset with nothing at all, or with a seed alone.
    """
    if request.task_id is None:
        split = environment.tasks.splits()[0].name if request.split is None else request.split
        index = request.seed % max(1, len(tasks_of(environment, split))) if request.index is None else request.index
        request = request.model_copy(update={"split": split, "index": index})
    return task_of(environment, request)
