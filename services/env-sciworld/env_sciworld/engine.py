"""Plays ScienceWorld 1.2.3 episodes in one JVM, one at a time."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from env_core.environment import Outcome

from env_sciworld.jvm import Jvm
from env_sciworld.scoring import best_score, is_success
from env_sciworld.tables import TaskType, split_task_id, task_types

REFUSED = "The simulator could not carry out that action."


def create(simplification: str, heap_mb: int, gold_heap_mb: int) -> "SciworldEngine":
    """Return an engine; the service's worker calls this."""
    jvm = Jvm(heap_mb)
    jvm.end_process_with_it()
    return SciworldEngine(jvm, simplification, gold_heap_mb)


@dataclass
class SciworldEngine:
    """One simulator, reused from episode to episode by load(); never by its reset(), which makes a gold path anew."""

    jvm: Jvm
    simplification: str
    gold_heap_mb: int
    _best: float = 0.0
    _gold: Jvm | None = None

    def load(self, task_id: str, seed: int, include: Sequence[str]) -> Outcome:
        """Begin an episode as the library's reset does: load, then a first look. The simulator has no use for a seed."""
        self._close_gold()
        task_type, variation = self._find(task_id)
        simulator = self.jvm.simulator
        simulator.load(task_type.simulator_name, variation, self.simplification, False)
        self._best = 0.0
        description = simulator.getTaskDescription()
        look = simulator.step("look around")
        info = {"task_type": task_type.name, "task_description": description}
        return self._outcome(f"{description}\n{look}", info, include)

    def step(self, action: str, include: Sequence[str]) -> Outcome:
        """Take one action."""
        from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]

        try:
            text = self.jvm.simulator.step(action)
        except Py4JJavaError:  # an exception in the simulator's own code: nothing happened
            text = REFUSED
        return self._outcome(text, {}, include)

    def expert(self, task_id: str) -> list[str]:
        """Return the simulator's gold path, from a second JVM: the search needs much more memory than an episode. It is kept for more."""
        task_type, variation = self._find(task_id)
        if self._gold is None:
            self._gold = Jvm(self.gold_heap_mb)
        self._gold.simulator.load(task_type.simulator_name, variation, self.simplification, True)
        return list(self._gold.simulator.getGoldActionSequence())

    def inspect(self, what: str) -> Any:
        """Return what AgentGym's routes show beside the episode. The simulator counts none of it as an action."""
        simulator = self.jvm.simulator
        match what:
            case "action_hint":
                return {"possible_actions": list(simulator.getPossibleActions()), "possible_objects": list(simulator.getPossibleObjects())}
            case "goals":
                return simulator.getGoalProgressStr()
            case "object_tree":
                with tempfile.TemporaryDirectory() as folder:  # the simulator writes it to a file, and only there
                    if problem := simulator.getObjectTree(folder):
                        raise RuntimeError(problem)
                    return json.loads((Path(folder) / "objectTree.json").read_text("utf-8"))
            case "look":
                return {"observation": simulator.freeActionLook(), "inventory": simulator.freeActionInventory()}
            case _:
                raise ValueError(f"there is nothing of this name to inspect: {what}")

    def close(self) -> None:
        """End both JVMs."""
        self._close_gold()
        self.jvm.close()

    def _close_gold(self) -> None:
        if self._gold is not None:
            self._gold.close()
            self._gold = None

    def _find(self, task_id: str) -> tuple[TaskType, int]:
        name, variation = split_task_id(task_id)
        return task_types()[name], variation

    def _outcome(self, text: str, info: dict[str, str], include: Sequence[str]) -> Outcome:
        simulator = self.jvm.simulator
        raw = simulator.getScore()
        self._best = best_score(self._best, raw)
        return Outcome(
            text=text,
            score=self._best,
            terminated=raw < 0 or simulator.getCompleted(),
            success=is_success(self._best),
            info=info,
            valid_actions=sorted(set(simulator.getValidActionObjectCombinations())) if "valid_actions" in include else None,
        )
