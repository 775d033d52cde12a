"""Searches for a plan in a process of its own, which can be ended: a search may take a minute, or go on for ever.

Run as `python -m env_alfworld.planner STORE ROOT TASK_ID MEMORY_MB`. The game must be translated; its plan, as commands, goes to standard
output.
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

#: Below the core's own limit for an expert (120 s), so that a search that is given up costs no engine.
TIMEOUT_S = 100.0
#: Of address space: a search that finds nothing grows by 20 MB a CPU second.
MEMORY_MB = 1500


class NotFoundInTimeError(Exception):
    """The search was given up."""


def plan(store: Path, root: Path, task_id: str, timeout_s: float = TIMEOUT_S, memory_mb: int = MEMORY_MB) -> list[str] | None:
    """Return commands that lead from the start of a game to its goal; None where there are none.

    Raises NotFoundInTimeError where the search took longer, or more memory.
    """
    command = [sys.executable, "-m", "env_alfworld.planner", str(store), str(root), task_id, str(memory_mb)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise NotFoundInTimeError(f"the planner found no plan for {task_id} in {timeout_s:g} s") from None
    if done.returncode != 0:
        raise NotFoundInTimeError(f"the planner found no plan for {task_id} (status {done.returncode}; it may use {memory_mb} MB)")
    found: list[str] | None = json.loads(done.stdout)
    return found


def main() -> None:
    """Search."""
    from env_alfworld.ahead import end_with_parent
    from env_alfworld.catalogue import read_game
    from env_alfworld.downward import Library
    from env_alfworld.relevance import relevant
    from env_alfworld.store import Store
    from env_alfworld.translation import Translated, optimized_sas
    from env_alfworld.world import Game, World

    end_with_parent()
    path, root, task_id, memory_mb = sys.argv[1:]  # before the translator, which overwrites them
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_mb) << 20,) * 2)
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the library prints its progress
        store = Store(Path(path))
        file = store.game(task_id)
        data = store.translated(file.sha256) if file is not None else None
        if file is None or data is None:
            raise SystemExit(f"{task_id} is not translated")
        world = World(Library(), Game(Translated.from_bytes(data)))
        content, _ = read_game(Path(root), file.path, file.sha256)
        whole = optimized_sas(content)
        json.dump(world.plan(relevant(whole, world.game.types)) or world.plan(whole), answer)


if __name__ == "__main__":
    main()
