"""Expert actions: worked out once a task, kept in memory."""

import asyncio

from env_core.environment import Environment
from env_core.errors import ServiceError
from env_core.player import Player

KEPT = 512


class Experts:
    """Answers from memory, else asks an engine; one task at a time, so that episodes keep their engines."""

    def __init__(self, environment: Environment, player: Player, timeout_s: float) -> None:
        self._environment = environment
        self._player = player
        self._timeout_s = timeout_s
        self._known: dict[str, list[str]] = {}
        self._one_at_a_time = asyncio.Lock()

    async def actions(self, task_id: str) -> tuple[list[str], str]:
        """Return the actions for a task and where they come from."""
        source = self._environment.expert_source
        if source is None:
            raise ServiceError(
                501,
                "no_expert",
                f"The expert's actions for {task_id} were asked for, but {self._environment.name} has no expert; "
                "bring expert episodes of your own.",
            )
        async with self._one_at_a_time:
            if task_id not in self._known:
                self._known[task_id] = await self._player.expert(task_id, self._timeout_s)
                while len(self._known) > KEPT:
                    del self._known[next(iter(self._known))]
        return self._known[task_id], source
