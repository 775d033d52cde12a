"""A trivial environment for the tests of the core: count up to the number in the task id, by "add N".

Other actions misbehave on purpose. `python -m counter_env serve` serves it; COUNTER_BROKEN makes engines fail to start.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from env_core.cli import main
from env_core.environment import Environment, EnvironmentUnavailableError, Outcome, Split, Task

ballast: list[bytes] = []  # what engines of one worker share


class CounterEngine:
    def __init__(self, broken: bool) -> None:
        if broken:
            raise RuntimeError("broken on purpose")

    def load(self, task_id: str, seed: int, include: Sequence[str]) -> Outcome:
        self.goal, self.count = int(task_id.rpartition(":")[2]), seed
        return self._outcome(f"Count to {self.goal}.", include, {"task_type": "count"})

    def step(self, action: str, include: Sequence[str]) -> Outcome:
        text = None
        match action.split():
            case ["add", number]:
                self.count += int(number)
            case ["sleep", seconds]:
                time.sleep(float(seconds))
            case ["print", word]:
                print(word, flush=True)
            case ["die"]:
                os._exit(1)
            case ["raise"]:
                raise RuntimeError("raised on purpose")
            case ["die", "once", marker] if not Path(marker).exists():
                Path(marker).touch()
                os._exit(1)
            case ["hang", "once", marker] if not Path(marker).exists():
                Path(marker).touch()
                time.sleep(1000)
            case ["pid"]:
                text = f"process {os.getpid()}"
            case ["grow", megabytes]:
                ballast.append(b"x" * (int(megabytes) << 20))
            case ["half", "a", "surrogate", "pair"]:
                text = "\ud800"  # Python's json writes it, and JSON does not know it
            case ["long", length]:
                text = "x" * int(length)
        return self._outcome(text or f"The count is {self.count}.", include, {})

    def expert(self, task_id: str) -> list[str]:
        return ["add 1"] * int(task_id.rpartition(":")[2])

    def render(self) -> str:
        return f"<p>The count is {self.count}.</p><script>alert(1)</script>"

    def close(self) -> None:
        pass

    def _outcome(self, text: str, include: Sequence[str], info: dict[str, str]) -> Outcome:
        done = self.count >= self.goal
        score = min(1.0, self.count / self.goal)
        valid = ["add 1"] if "valid_actions" in include else None
        return Outcome(text, score, terminated=done, success=done, info=info, valid_actions=valid)


def create(broken: bool) -> CounterEngine:
    return CounterEngine(broken)


class CounterTasks:
    def splits(self) -> Sequence[Split]:
        return [Split("train", "train")]

    def tasks(self, split: str) -> Sequence[Task]:
        if split != "train":
            raise KeyError(split)
        return [self.find(f"count:{goal}") for goal in range(1, 11)]

    def find(self, task_id: str) -> Task:
        name, _, goal = task_id.partition(":")
        if name != "count" or not goal.isdecimal():
            raise KeyError("tasks are count:N")
        return Task(task_id, "count", max_steps=20)


def check() -> None:
    if "COUNTER_MISSING" in os.environ:
        raise EnvironmentUnavailableError("counter needs fingers, but there are none; grow some.")


def environment() -> Environment:
    return Environment(
        name="counter",
        description="Counts.",
        version="1",
        tasks=CounterTasks(),
        engine="counter_env:create",
        engine_options={"broken": "COUNTER_BROKEN" in os.environ},
        check=check,
        expert_source=None if "COUNTER_NO_EXPERT" in os.environ else "fingers",
        recycle_rss_mb=200,
        slots_per_worker=int(os.environ.get("COUNTER_SLOTS", "1")),
        renders="COUNTER_NO_PAGE" not in os.environ,
    )


if __name__ == "__main__":
    sys.exit(main("counter_env", environment))
