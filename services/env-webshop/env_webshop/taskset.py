"""WebShop's tasks and splits, as the core asks for them. A task is a goal: `synthetic:17` is the eighteenth in the original's order.

Goals of the sample are called `sample` and `sample-human`, so that no result on them can be taken for one on WebShop's products.
"""

import functools
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from env_core.environment import Split, SplitType, Task

from env_webshop import goals
from env_webshop.catalogue import ProductStore

#: ETO's step limit, for all tasks.
MAX_STEPS = 10
#: What goals are called in task ids and splits, by the kind under which they are stored.
REAL_NAMES = {"synthetic": "synthetic", "human": "human"}
SAMPLE_NAMES = {"synthetic": "sample", "human": "sample-human"}
TYPES: dict[str, SplitType] = {"train": "train", "dev": "validation", "test": "test"}
LONGEST_NUMBER = 9


class WebshopTasks:
    """A TaskSet over a catalogue, which is read when it is first asked for."""

    def __init__(self, folder: Path, sample: bool) -> None:
        self._folder = folder
        self._kinds = {name: kind for kind, name in (SAMPLE_NAMES if sample else REAL_NAMES).items()}

    def splits(self) -> Sequence[Split]:
        """Return all splits: of each kind all goals and the original's three parts, and ETO's where its human goals are all there."""
        found = []
        for name in self._goals:
            found.append(Split(name, "test"))
            found += [Split(f"{name}-{part}", TYPES[part]) for part in ("train", "dev", "test")]
        return found + [Split(name, "train" if name == "eto-train" else "test") for name in self._eto]

    def tasks(self, split: str) -> Sequence[Task]:
        """Return the tasks of a split; KeyError where there is none of this name."""
        if split in self._eto:
            return [self._goals["human"][place] for place in self._eto[split]]
        if split in self._goals:
            return self._goals[split]
        name, _, part = split.rpartition("-")
        return self._goals[name][goals.SPLITS[part]]

    def find(self, task_id: str) -> Task:
        """Return a task; KeyError with the reason where there is none of this id."""
        name, place = split_task_id(task_id)
        if name not in self._goals:
            raise KeyError(f"there are no goals {name!r} in this catalogue, but {', '.join(self._goals)}")
        if place >= len(self._goals[name]):
            raise KeyError(f"goals {name} go from {name}:0 to {name}:{len(self._goals[name]) - 1}")
        return self._goals[name][place]

    @functools.cached_property
    def _goals(self) -> dict[str, tuple[Task, ...]]:
        """Tasks by the name of their goals."""
        store = ProductStore(self._folder)
        try:
            categories = {name: store.goal_categories(kind) for name, kind in self._kinds.items()}
        finally:
            store.close()
        return {
            name: tuple(Task(f"{name}:{place}", category, MAX_STEPS) for place, category in enumerate(found))
            for name, found in categories.items()
            if found
        }

    @functools.cached_property
    def _eto(self) -> dict[str, list[int]]:
        """ETO's splits: places in the list of all human goals, which only the full catalogue has."""
        table = json.loads(resources.files("env_webshop").joinpath("data/splits.json").read_text("utf-8"))
        if len(self._goals.get("human", ())) != table["human_goals"]:
            return {}
        return {name: expand(places) for name, places in table["splits"].items()}


def split_task_id(task_id: str) -> tuple[str, int]:
    """Return the name and the place in a task id; KeyError with the reason where it is none."""
    name, _, place = task_id.rpartition(":")
    if not name or not (place.isascii() and place.isdecimal()) or str(int(place[:LONGEST_NUMBER])) != place:
        raise KeyError("a task id is the kind of goal, a colon and the goal's place, such as synthetic:17")
    return name, int(place)


def stored_kind(name: str) -> str:
    """Return the kind under which goals of this name are stored."""
    return next(kind for names in (REAL_NAMES, SAMPLE_NAMES) for kind, known in names.items() if known == name)


def expand(ranges: str) -> list[int]:
    """Return the numbers of a text such as "0-2,5", in its order."""
    numbers: list[int] = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers
