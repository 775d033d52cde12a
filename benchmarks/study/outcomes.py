"""What is kept of a study: one file a seed, small enough to be committed, so that seeds may be played on different machines.

docs/results/STUDY-sSEED.jsonl: a line that names the tasks, and one for each arm with columns in their order.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.records import Episode

SCHEMA = "eto.study/1"
COLUMNS = ("score", "success", "steps", "invalid", "repeated")


@dataclass(frozen=True)
class Outcome:
    """How a test episode ended. `score` 0..1; `steps`, `invalid` (refused) and `repeated` count turns."""

    split: str | None
    score: float
    success: bool
    steps: int
    invalid: int
    repeated: int


#: Outcomes by seed and task.
Seeded = Mapping[tuple[int, str], Outcome]


def outcome_of(episode: Episode) -> Outcome:
    """What counts of an episode."""
    invalid = sum(not step.valid for step in episode.steps)
    return Outcome(episode.split, episode.score, episode.success, len(episode.steps), invalid, sum(repeated(episode)))


def repeated(episode: Episode) -> Iterator[bool]:
    """For each turn, whether the same action was taken before in the episode with the same observation as answer: a loop."""
    seen: set[tuple[str | None, str]] = set()
    answers = [m.content for m in episode.turns if m.role == "user"]
    for step, answer in zip(episode.steps, answers, strict=False):
        yield (step.action, answer) in seen
        seen.add((step.action, answer))


class Kept:
    """The file of a seed. `dev`: an arm's mean score on dev for each of its choices; `about`: versions, and how an arm was trained."""

    def __init__(self, file: Path, study: str, seed: int) -> None:
        self.file, self.study, self.seed = file, study, seed
        self.dev: dict[str, list[float]] = {}
        self.arms: dict[str, dict[str, Outcome]] = {}
        self.about: dict[str, dict[str, Any]] = {}
        if file.exists():
            self._read(*map(json.loads, file.read_text(encoding="utf-8").splitlines()))

    def _read(self, head: Mapping[str, Any], *arms: Mapping[str, Any]) -> None:
        if [head.get(key) for key in ("schema", "study", "seed")] != [SCHEMA, self.study, self.seed]:
            raise SystemExit(f"{self.file} does not hold the outcomes of seed {self.seed} of {self.study} ({SCHEMA}): move it away.")
        self.dev = head["dev"]
        for arm in arms:
            columns = zip(*(arm[column] for column in COLUMNS), strict=True)
            self.arms[arm["arm"]] = {task: Outcome(split, *row) for (task, split), row in zip(head["tasks"], columns, strict=True)}
            self.about[arm["arm"]] = arm["about"]

    def add(self, arm: str, outcomes: Mapping[str, Outcome], about: Mapping[str, Any]) -> None:
        """Keep an arm. Raises SystemExit where other arms played other tasks."""
        if any(other.keys() != outcomes.keys() for other in self.arms.values()):
            raise SystemExit(f"{arm} played other tasks than the arms in {self.file}: move the file away to begin anew.")
        self.arms[arm], self.about[arm] = dict(outcomes), dict(about)
        self.write()

    def write(self) -> None:
        """Write the file: a line that says of what, then one for each arm."""
        tasks = sorted({(task, o.split) for arm in self.arms.values() for task, o in arm.items()})
        head = {"schema": SCHEMA, "study": self.study, "seed": self.seed, "dev": self.dev, "tasks": tasks}
        arms = [
            {"arm": name, "about": self.about[name], **{column: [getattr(arm[task], column) for task, _ in tasks] for column in COLUMNS}}
            for name, arm in self.arms.items()
        ]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_suffix(".part")
        part.write_text("".join(json.dumps(line) + "\n" for line in [head, *arms]), encoding="utf-8")
        part.replace(self.file)
