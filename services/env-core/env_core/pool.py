"""The worker pool: how worker processes are started, kept warm, recycled and killed, and how their engines are lent out."""

import asyncio
import contextlib
import logging
import math
import os
import time
from collections import deque
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field

from env_core.environment import Environment
from env_core.errors import draining, engine_unavailable
from env_core.lease import Lease, next_due
from env_core.metrics import Metrics
from env_core.worker_process import EngineLostError, EngineTimeoutError, WorkerProcess

log = logging.getLogger(__name__)

RETRY_START_S = 5.0
FAILED_STARTS_TOLD = 2  # one may be bad luck: an engine killed from outside while it started


@dataclass(eq=False, slots=True)
class _Worker:
    """A live worker: which of its slots are free, and which are lent. A `retiring` one takes no new episodes."""

    process: WorkerProcess
    free: list[int]
    leases: set[Lease] = field(default_factory=set)
    retiring: bool = False


@dataclass(eq=False, slots=True)
class _Waiter:
    lease: asyncio.Future[Lease]
    failures_before: int


class EnginePool:
    """Engines, lent out on leases. Must be used on one event loop.

    At most `max_engines` exist at a time, `warm` of them idle while there are fewer than that. Those who wait are served in order: by a
    free engine, else by a new one, else, where no more may be started, by one whose session lets it rest (see Lease.due_at).
    """

    def __init__(self, environment: Environment, max_engines: int, warm: int, start_timeout_s: float, metrics: Metrics) -> None:
        self._environment = environment
        self._max_engines = max_engines
        self._slots = environment.slots_per_worker
        self._max_workers = math.ceil(max_engines / self._slots)
        self._warm = warm
        self._start_timeout_s = start_timeout_s
        self._metrics = metrics
        self._workers: dict[WorkerProcess, _Worker] = {}
        self._waiters: deque[_Waiter] = deque()
        self._starting = 0
        self._failures = 0
        self._last_failure = ""
        self._start_failed_at = 0.0  # 0 while starts succeed
        self._tasks: set[asyncio.Task[None]] = set()
        self._start_slots = asyncio.Semaphore(os.cpu_count() or 1)
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.ready = False
        metrics.watch("eto_env_engines", "Engines, by state.", self.counts)

    def counts(self) -> Mapping[str, int]:
        """Return how many engines are in each state; `starting` counts workers."""
        leases = [lease for worker in self._workers.values() for lease in worker.leases]
        busy = sum(lease.rested_at is None for lease in leases)
        free = sum(len(worker.free) for worker in self._workers.values())
        return {"busy": busy, "resting": len(leases) - busy, "free": free, "starting": self._starting}

    def open(self) -> None:
        """Start the spares; one worker at least, to know that engines start here."""
        self._fill()
        if not self._starting:
            self._spawn_start()

    async def acquire(self, timeout_s: float) -> Lease:
        """Lend out an engine; ServiceError 503 where none can be had in time."""
        if self._closed:
            raise draining()
        waiter = _Waiter(asyncio.get_running_loop().create_future(), self._failures)
        self._waiters.append(waiter)
        self._serve()
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter.lease
        except (TimeoutError, asyncio.CancelledError) as error:
            if waiter.lease.done() and not waiter.lease.cancelled() and waiter.lease.exception() is None:
                self.release(waiter.lease.result())  # lent in the very moment in which the asker gave up
            if isinstance(error, TimeoutError):
                raise engine_unavailable(f"none was free or started within {timeout_s:g} s") from None
            raise
        finally:
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)

    def rest(self, lease: Lease, replay_s: float) -> None:
        """The holder does not need the engine now, and may find it gone when it does."""
        if lease.over:
            return
        lease.rested_at, lease.replay_s = time.monotonic(), replay_s
        self._retire_if_large(self._workers[lease.worker])
        if self._waiters:
            self._serve()

    def resume(self, lease: Lease) -> bool:
        """Take an engine that rested into use again; False where the lease is over."""
        if lease.over or not lease.worker.alive:
            return False
        lease.rested_at = None
        return True

    def release(self, lease: Lease) -> None:
        """Take back an engine that is fit for another episode."""
        if lease.over:
            return
        worker = self._workers[lease.worker]
        self._take(lease)
        self._retire_if_large(worker)
        self._serve()

    def retire(self, lease: Lease) -> None:
        """Take back an engine, and end its worker as soon as nobody uses it."""
        if not lease.over:
            worker = self._workers[lease.worker]
            self._take(lease)
            self._retire(worker)
            self._serve()

    async def discard(self, lease: Lease, reason: str) -> None:
        """Kill the worker of an engine that cannot be trusted; other sessions' leases on it are over too."""
        if not lease.over:
            await self._end(lease.worker, reason)

    async def close(self) -> None:
        """Stop every worker."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for waiter in self._waiters:
            if not waiter.lease.done():
                waiter.lease.set_exception(draining())
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for worker in self._workers.values():
            for lease in worker.leases:
                lease.over = True
        await asyncio.gather(*(process.stop() for process in self._workers), return_exceptions=True)
        self._workers.clear()

    def _serve(self) -> None:
        """Start what is missing, lend to those who wait what can be lent now, come back when a rest is over."""
        self._fill()
        while self._waiters and not self._closed:
            waiter = self._waiters[0]
            if not waiter.lease.done() and (lease := self._lend()) is not None:
                waiter.lease.set_result(lease)
            elif not waiter.lease.done():
                break
            self._waiters.popleft()

    def _lend(self) -> Lease | None:
        open_ones = [w for w in self._workers.values() if w.free and not w.retiring and w.process.alive]
        if not open_ones:
            self._take_one_that_rests()
            open_ones = [w for w in self._workers.values() if w.free and not w.retiring and w.process.alive]
        if not open_ones:
            return None
        worker = min(open_ones, key=lambda w: len(w.leases))
        lease = Lease(worker.process, worker.free.pop(), time.monotonic())
        worker.leases.add(lease)
        return lease

    def _take_one_that_rests(self) -> None:
        """Free the slot of the session whose rest is over first, unless one more engine comes anyway."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._starting and not self._start_failed_at:
            return
        lease = next_due(lease for worker in self._workers.values() if not worker.retiring for lease in worker.leases)
        if lease is None:
            return
        wait_s = lease.due_at() - time.monotonic()
        if wait_s <= 0:
            self._take(lease)
            self._metrics.evictions.inc()
        else:
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._serve)

    def _take(self, lease: Lease) -> None:
        worker = self._workers[lease.worker]
        lease.over = True
        worker.leases.discard(lease)
        worker.free.append(lease.slot)
        self._end_if_unused(worker)

    def _retire_if_large(self, worker: _Worker) -> None:
        limit = self._environment.recycle_rss_mb
        if worker.retiring or (limit is not None and worker.process.rss_mb() > limit):
            self._retire(worker)

    def _retire(self, worker: _Worker) -> None:
        worker.retiring = True
        for lease in [lease for lease in worker.leases if lease.rested_at is not None]:
            self._take(lease)
        self._end_if_unused(worker)

    def _end_if_unused(self, worker: _Worker) -> None:
        if worker.retiring and not worker.leases and worker.process in self._workers:
            self._spawn(self._end(worker.process, "recycled"))

    async def _end(self, process: WorkerProcess, reason: str) -> None:
        """Kill a worker and forget it."""
        worker = self._workers.pop(process, None)
        if worker is not None:
            self._metrics.kills.labels(reason).inc()
            for lease in worker.leases:
                lease.over = True
            worker.leases.clear()
        await process.kill()
        self._serve()

    def _fill(self) -> None:
        """Start the workers that are missing for those who hold or wait, for the spares, and so that each core has one in use."""
        failing = self._workers and time.monotonic() < self._start_failed_at + RETRY_START_S
        if self._closed or failing:
            return
        wanted = sum(len(worker.leases) for worker in self._workers.values()) + len(self._waiters)
        spread = min(wanted, os.cpu_count() or 1) if self._slots > 1 else 0
        workers = max(math.ceil((wanted + self._warm) / self._slots), spread)
        usable = sum(not worker.retiring for worker in self._workers.values()) + self._starting
        room = self._max_workers - len(self._workers) - self._starting
        for _ in range(min(workers - usable, room)):
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
                process = await WorkerProcess.start(environment.engine, environment.engine_options, self._start_timeout_s)
        except (EngineLostError, EngineTimeoutError, OSError) as error:
            log.error("An engine of %s could not be started: %s", environment.name, error)
            self._failures += 1
            self._last_failure = str(error)
            self._start_failed_at = time.monotonic()
            self._spawn(self._fill_later())
        else:
            self._start_failed_at = 0.0
            self.ready = True
            existing = sum(len(worker.free) + len(worker.leases) for worker in self._workers.values())
            self._workers[process] = _Worker(process, list(range(min(self._slots, self._max_engines - existing))))
            self._spawn(self._watch(process))
        finally:
            self._starting -= 1
        self._tell_of_failures()
        self._serve()

    async def _watch(self, process: WorkerProcess) -> None:
        """Forget a worker that ends by itself; its sessions notice when they are used."""
        await process.ended()
        if process in self._workers:
            log.warning("A worker of %s, process %d, ended by itself.", self._environment.name, process.pid)
            await self._end(process, "died")

    def _tell_of_failures(self) -> None:
        """Give up on those who wait, if there is no engine at all that they could wait for."""
        if self._workers:
            return
        error = engine_unavailable(f"none could be started: {self._last_failure}")
        for waiter in [w for w in self._waiters if self._failures >= w.failures_before + FAILED_STARTS_TOLD]:
            self._waiters.remove(waiter)
            if not waiter.lease.done():
                waiter.lease.set_exception(error)

    async def _fill_later(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(RETRY_START_S)
            self._fill()
            if not (self.ready or self._starting):
                self._spawn_start()
