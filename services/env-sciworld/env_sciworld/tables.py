"""The table of task types: variations, splits and step limits, shipped as data/tasks.json (see tools/make_table.py).

It answers without a JVM. A test compares it with the live simulator.
"""

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

TASK_ID = re.compile(r"(?P<name>[^:]+):(?P<variation>0|[1-9][0-9]{0,5})")


@dataclass(frozen=True, slots=True)
class TaskType:
    """One kind of task. `splits` maps a split's name to its variations, in order."""

    name: str
    simulator_name: str
    max_steps: int
    variations: int
    splits: Mapping[str, tuple[int, ...]]


@functools.cache
def task_types() -> Mapping[str, TaskType]:
    """Return all task types by name, sorted by name."""
    table = json.loads(resources.files("env_sciworld").joinpath("data/tasks.json").read_text("utf-8"))
    return {
        row["name"]: TaskType(
            name=row["name"],
            simulator_name=row["simulator_name"],
            max_steps=row["max_steps"],
            variations=row["variations"],
            splits={name: expand(ranges) for name, ranges in row["splits"].items()},
        )
        for row in sorted(table["task_types"], key=lambda row: row["name"])
    }


def expand(ranges: str) -> tuple[int, ...]:
    """Return the numbers of a text such as "0-2,5"."""
    numbers: list[int] = []
    for part in filter(None, ranges.split(",")):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return tuple(numbers)


def compact(numbers: list[int]) -> str:
    """Return increasing numbers as a text such as "0-2,5"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def split_task_id(task_id: str) -> tuple[str, int]:
    """Return the name and the variation in a task id; ValueError where it is none."""
    match = TASK_ID.fullmatch(task_id)
    if match is None:
        raise ValueError("a task id is a task type, a colon and a variation, such as task-1-boil:21")
    return match["name"], int(match["variation"])
