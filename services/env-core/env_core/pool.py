"""The worker pool: how engine processes are started, kept warm, handed out, recycled and killed."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Coroutine

from env_core.engine_process import EngineLostError, EngineProcess, EngineTimeoutError
from env_core.environment import Environment
from env_core.errors import draining, engine_unavailable

log = logging.getLogger(__name__)

RETRY_START_S = 5.0
FAILED_STARTS_TOLD = 2  # one may be bad luck: an engine killed from outside while it started


class EnginePool:
    """Engines, either idle here or lent out. Must be used on one event loop.

    At most `sessions + warm` exist at a time; `warm` idle ones are kept while fewer than `sessions` exist.
    """

    def __init__(self, environment: Environment, sessions: int, warm: int, start_timeout_s: float) -> None:
        self._environment = environment
        self._sessions = sessions
        self._warm = warm
        self._most = sessions + max(warm, 1)
        self._start_timeout_s = start_timeout_s
        self._idle: list[EngineProcess] = []
        self._lent: set[EngineProcess] = set()
        self._starting = 0
        self._waiting = 0
        self._failures = 0
        self._last_failure = ""
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._start_slots = asyncio.Semaphore(os.cpu_count() or 1)
        self._closed = False
        self.ready = False

    def open(self) -> None:
        """Start the spares; one at least, to know that engines start here."""
        for _ in range(max(self._warm, 1)):
            self._spawn_start()

    async def acquire(self, timeout_s: float) -> EngineProcess:
        """Lend out an idle engine, or a new one."""
        failures = self._failures
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                while True:
                    if self._closed:
                        raise draining()
                    while self._idle:
                        engine = self._idle.pop()
                        if engine.alive:
                            self._lent.add(engine)
                            return engine
                        self._spawn(engine.kill())
                    if self._failures >= failures + FAILED_STARTS_TOLD:
                        raise engine_unavailable(f"none could be started: {self._last_failure}")
                    self._fill()
                    await self._changed.wait()
        except TimeoutError:
            raise engine_unavailable(f"none was free or started within {timeout_s:g} s") from None
        finally:
            self._waiting -= 1
            self._fill()

    async def release(self, engine: EngineProcess) -> None:
        """Take back an engine that is fit for another episode."""
        limit = self._environment.recycle_rss_mb
        if self._closed or not engine.alive or (limit is not None and engine.rss_mb() > limit):
            await self.discard(engine)
            return
        self._lent.discard(engine)
        self._idle.append(engine)
        await self._notify()

    async def discard(self, engine: EngineProcess) -> None:
        """Kill an engine."""
        try:
            await engine.kill()
        finally:
            self._lent.discard(engine)
            self._fill()
            await self._notify()

    async def close(self) -> None:
        """Stop every engine."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(engine.stop() for engine in [*self._idle, *self._lent]), return_exceptions=True)
        self._idle.clear()
        self._lent.clear()
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _fill(self) -> None:
        """Start what is missing for those who wait, then for the spares."""
        if self._closed:
            return
        coming = len(self._idle) + self._starting
        existing = coming + len(self._lent)
        for_waiting = max(0, min(self._waiting - coming, self._most - existing))
        for_spares = min(self._warm + self._waiting - coming, self._sessions - existing) - for_waiting
        for _ in range(for_waiting + max(0, for_spares)):
            self._spawn_start()

    def _spawn_start(self) -> None:
        self._starting += 1
        self._spawn(self._start())

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self) -> None:
        environment = self._environment
        try:
            async with self._start_slots:
                engine = await EngineProcess.start(environment.engine, environment.engine_options, self._start_timeout_s)
        except (EngineLostError, EngineTimeoutError, OSError) as error:
            log.error("An engine of %s could not be started: %s", environment.name, error)
            self._failures += 1
            self._last_failure = str(error)
            await self._notify()
            self._spawn(self._fill_later())
            return
        finally:
            self._starting -= 1
        self.ready = True
        self._idle.append(engine)
        await self._notify()

    async def _fill_later(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(RETRY_START_S)
            self._fill()
            if not (self.ready or self._starting):
                self._spawn_start()
