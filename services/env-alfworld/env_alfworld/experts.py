"""Experts: an imported gold episode, the planner's plan, alfworld's hand-coded agent. What is returned was played here, and won."""

import logging
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from env_alfworld.downward import Library
from env_alfworld.planner import TIMEOUT_S, NotFoundInTimeError, plan
from env_alfworld.store import GameFile, Store
from env_alfworld.world import Game, World

log = logging.getLogger(__name__)

Expert = Literal["gold", "planner", "handcoded"]
#: Who is asked when the one before has no episode that wins.
ORDER: dict[str, Sequence[str]] = {"gold": ("gold", "planner"), "planner": ("planner",), "handcoded": ("handcoded", "planner")}
HANDCODED_STEPS = 200  # alfworld's own bound (AlfredExpert, alfworld 0.4.2)


def find_actions(store: Store, root: Path, file: GameFile, game: Game, kind: str, plan_timeout_s: float = TIMEOUT_S) -> list[str]:
    """Return the actions of an expert of this kind, from the store where it was asked before; [] where none wins."""
    known = store.plan(file.sha256, kind)
    if known is not None:
        return known
    ask: dict[str, Callable[[], Sequence[str] | None]] = {
        "gold": lambda: file.gold,
        "planner": lambda: plan(store.path, root, file.task_id, plan_timeout_s),
        "handcoded": lambda: handcoded_actions(root, file, game),
    }
    actions: list[str] = []
    for expert in ORDER[kind]:
        try:
            found = ask[expert]()
        except NotFoundInTimeError as error:
            log.warning("%s", error)
            return []  # not kept: on another day the machine may be less busy
        if found and (actions := replay(game, found)):
            break
    store.keep_plan(file.sha256, kind, actions)
    return actions


def replay(game: Game, actions: Sequence[str]) -> list[str]:
    """Play actions; return those up to the one that wins, [] where none does."""
    with Library() as library:
        world = World(library, game)
        for number, action in enumerate(actions, start=1):
            world.step(action)
            if world.won:
                return list(actions[:number])
    return []


def handcoded_actions(root: Path, file: GameFile, game: Game) -> list[str] | None:
    """Return what alfworld's agent does, None where it fails. It reads the task from traj_data.json."""
    from alfworld.agents.expert import HandCodedAgentFailed, HandCodedAgentTimeout, HandCodedTWAgent  # type: ignore[import-untyped]

    folder = (root / file.path).parent
    agent = HandCodedTWAgent(max_steps=HANDCODED_STEPS)
    try:
        agent.reset(str(folder / "game"))  # it takes the folder, and reads traj_data.json there
    except (OSError, ValueError, KeyError):
        return None
    random.seed(0)  # the agent draws from the module's generator
    taken: list[str] = []
    with Library() as library:
        world = World(library, game)
        agent.observe(world.text)
        command = "look"
        try:
            while not world.won and len(taken) < HANDCODED_STEPS:
                taken.append(command)
                world.step(command)
                moves = {_with_move(c): c for c in world.commands}
                command = moves.get(agent.act(_state(world, list(moves)), 0, world.won, _with_put(command)), "look")
        except (HandCodedAgentFailed, HandCodedAgentTimeout, IndexError):
            return None
    return taken


def _state(world: World, commands: list[str]) -> dict[str, Any]:
    """Return what alfworld's agent reads of a state."""
    names = world.game.names
    facts = [SimpleNamespace(name=name, names=[names.get(a, a) for a in arguments]) for name, arguments in world.facts.all()]
    return {"feedback": world.text, "facts": facts, "admissible_commands": commands, "won": world.won}


def _with_move(command: str) -> str:
    """Return a command as the agent says it: it knows `move X to Y` only."""
    return re.sub(r"^put (.+) in/on (.+)$", r"move \1 to \2", command)


def _with_put(command: str) -> str:
    """Return a command as the agent remembers it: only after a `put` does it know that its hands are empty (alfworld 0.4.2)."""
    return re.sub(r"^move (.+) to (.+)$", r"put \1 in/on \2", command)
