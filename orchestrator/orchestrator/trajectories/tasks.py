"""Which task of the environment a trajectory from elsewhere belongs to, and what the two sides call the same thing."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from orchestrator.records import Message
from orchestrator.trajectories.formats import Trajectory

# AgentTraj numbers ScienceWorld's tasks through, type by type, without 2-3, 5-*, 9-* and 10-*. Read off the opening texts of its 2,120
# trajectories: the borders 1096, 1136, 2636, 2936, 3236, 3536, 3836, 3940 and 4315 fall where these counts put them.
AGENTTRAJ_SCIWORLD = (
    *(("task-1-boil", 30), ("task-1-melt", 30), ("task-1-freeze", 30), ("task-1-change-the-state-of-matter-of", 30)),
    *(("task-10-use-thermometer", 540), ("task-10-measure-melting-point-(known-substance)", 436)),
    *(("task-2-power-component", 20), ("task-2-power-component-(renewable-vs-nonrenewable-energy)", 20)),
    *(("task-2a-test-conductivity", 900), ("task-2a-test-conductivity-of-unknown-substances", 600)),
    *(("task-3-find-living-thing", 300), ("task-3-find-non-living-thing", 300), ("task-3-find-plant", 300), ("task-3-find-animal", 300)),
    *(("task-5-chemistry-mix", 32), ("task-5-chemistry-mix-paint-(secondary-color)", 36)),
    ("task-5-chemistry-mix-paint-(tertiary-color)", 36),
    *(("task-6-lifespan-(longest-lived)", 125), ("task-6-lifespan-(shortest-lived)", 125)),
    ("task-6-lifespan-(longest-lived-then-shortest-lived)", 125),
    *(("task-7-identify-life-stages-1", 14), ("task-7-identify-life-stages-2", 10)),
)


@dataclass(frozen=True)
class Wording:
    """What an older release of an engine wrote: names, replaced in every message, and phrases (patterns) that only the world says.

    `drawn` is a pattern of what the engine that was recorded draws anew in each run; its one group is the number drawn.
    """

    names: tuple[tuple[str, str], ...] = ()
    phrases: tuple[tuple[str, str], ...] = ()
    drawn: str | None = None

    def today(self, message: Message) -> Message:
        """The message in today's words."""
        text = message.content
        for old, new in self.names:
            text = text.replace(old, new)
        for pattern, new in self.phrases if message.role == "user" else ():
            text = re.sub(pattern, new, text)
        return message.model_copy(update={"content": text})

    def redrawn(self, turns: list[Message], recorded: str, here: str) -> list[Message]:
        """The turns with the number that was drawn here in place of the recorded one, also where the agent speaks of it as a limit.

        `recorded` and `here` are the two openings, which hold the numbers.
        """
        old, new = (re.search(self.drawn, text) if self.drawn else None for text in (recorded, here))
        if old is None or new is None:
            return turns
        limit = re.compile(rf"{BEFORE_A_LIMIT}{float(old[1]):g}(\.0+)?(?![\w%]|\.\d)")

        def redraw(turn: Message) -> str:
            if turn.role == "user":
                return turn.content.replace(old[0], new[0])
            return limit.sub(lambda spoken: f"{spoken[1]}{float(new[1]):{'.2f' if spoken[2] else 'g'}}", turn.content)

        return [turn.model_copy(update={"content": redraw(turn)}) for turn in turns]


#: What an agent says before a number that is a limit: `price < 50.00`, `lower than 50.00 dollars`, `under $50`.
BEFORE_A_LIMIT = r"((?:<|\b(?:than|under|below|price of))\s*\$?)"
#: scienceworld 1.2 against the release that AgentTraj was played with, found by comparing observations.
WORDINGS = {
    "sciworld": Wording(
        names=(("green house", "greenhouse"), ("bath tub", "bathtub"), ("sandwhich", "sandwich")),
        phrases=((r"\bdegrees\b(?! celsius)", "degrees celsius"),),
    ),
    "webshop": Wording(drawn=r"price lower than ([\d.]+) dollars"),
}


def task_of(env: str, trajectory: Trajectory) -> str | None:
    """The task id that a record names, in our words or its own; None if it names none."""
    named = trajectory.fields.get("task_id")
    if isinstance(named, str):
        return named
    game = trajectory.fields.get("game_file")
    if env == "alfworld" and isinstance(game, str):
        return str(PurePosixPath(game.removeprefix("json_2.1.1/")).parent)
    prefix, _, number = trajectory.source.rpartition("_")
    if env == "sciworld" and prefix == "sciworld" and number.isdigit():
        return _nth_sciworld(int(number))
    if env == "webshop" and prefix == "webshop" and number.isdigit():  # AgentGym's goals, in the original's order
        return f"synthetic:{number}"
    return trajectory.source if ":" in trajectory.source else None


def tasks_of(env: str, trajectory: Trajectory) -> list[str]:
    """The tasks that a record may belong to, likeliest first: mostly one.

    AgentTraj does not name its ALFWorld games. Who searched for them lists those that fit as `game_candidates` (TASK/TRIAL, train games).
    """
    named = trajectory.fields.get("game_candidates")
    if env == "alfworld" and isinstance(named, list):
        return [f"train/{name}" for name in named]
    task = task_of(env, trajectory)
    return [] if task is None else [task]


def _nth_sciworld(number: int) -> str | None:
    for name, variations in AGENTTRAJ_SCIWORLD:
        if number < variations:
            return f"{name}:{number}"
        number -= variations
    return None
