"""Expert actions: worked out once a task, kept in memory."""

import asyncio

from env_core.environment import Environment
from env_core.errors import ServiceError, engine_unavailable
from env_core.lease import Lease
from env_core.pool import EnginePool
from env_core.worker_process import EngineLostError, EngineTimeoutError

KEPT = 512
#: Experts are asked for in bursts: the engine stays lent that long after each, warm for the next.
ENGINE_KEPT_S = 20.0


class Experts:
    """Answers from memory, else asks an engine; one task at a time, so that episodes keep their engines."""

    def __init__(self, environment: Environment, pool: EnginePool, load_timeout_s: float, timeout_s: float) -> None:
        self._environment = environment
        self._pool = pool
        self._load_timeout_s = load_timeout_s
        self._timeout_s = timeout_s
        self._lease: Lease | None = None
        self._give_back: asyncio.Task[None] | None = None
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
            if not self._known.get(task_id):  # none found, in the time there was, is no answer to keep
                self._known[task_id] = await self._ask(task_id)
                while len(self._known) > KEPT:
                    del self._known[next(iter(self._known))]
        return self._known[task_id], source

    async def _ask(self, task_id: str) -> list[str]:
        if self._give_back is not None:
            self._give_back.cancel()
        lease, self._lease = self._lease, None
        if lease is None or not self._pool.resume(lease):
            lease = await self._pool.acquire(self._load_timeout_s)
        try:
            answer, took_s = await lease.call({"call": "expert", "task_id": task_id}, self._timeout_s)
        except EngineTimeoutError:
            await self._pool.discard(lease, "timeout")
            raise ServiceError(
                504,
                "step_timeout",
                f"The expert's actions for {task_id} were asked for, but were not found within {self._timeout_s:g} s; "
                "ask again, or start the service with a longer ETO_ENV_EXPERT_TIMEOUT_S.",
            ) from None
        except EngineLostError as error:
            await self._pool.discard(lease, "lost")
            raise engine_unavailable(str(error)) from error
        except asyncio.CancelledError:
            await self._pool.discard(lease, "broken_off")
            raise
        self._lease = lease
        self._pool.rest(lease, took_s)
        self._give_back = asyncio.create_task(self._give_back_later())
        actions: list[str] = answer["actions"]
        return actions

    async def _give_back_later(self) -> None:
        """End the engine, not merely return it: what an expert needs in memory, an episode does not. A shared worker goes on."""
        await asyncio.sleep(ENGINE_KEPT_S)
        lease, self._lease = self._lease, None
        if lease is not None and self._environment.slots_per_worker == 1:
            self._pool.retire(lease)
        elif lease is not None:
            self._pool.release(lease)
