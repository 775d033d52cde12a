"""A session's hold on an engine, and the rule by which it may be taken away. No input or output here."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from env_core.worker_process import WorkerProcess

TURN_IN_REPLAYS = 4.0
SHORTEST_REPLAY_S = 0.005


@dataclass(eq=False, slots=True)
class Lease:
    """One slot of a worker, lent out. Times are of the monotonic clock, in seconds.

    `replay_s` is what it takes to play the session's episode again up to where it is, and so what taking the engine away costs.
    `rested_at` is None while the holder uses the engine; `over` says that the slot is no longer the holder's.
    """

    worker: WorkerProcess
    slot: int
    since: float
    rested_at: float | None = None
    replay_s: float = 0.0
    over: bool = False

    async def call(self, request: dict[str, Any], timeout_s: float) -> tuple[dict[str, Any], float]:
        """Ask the engine; return its answer and the seconds it took."""
        return await self.worker.call(self.slot, request, timeout_s)

    def due_at(self) -> float:
        """Return when another session that waits may have the engine; infinity while it is used.

        An engine at rest is kept as long as a replay would take (the ski-rental rule: never more than twice the cost of knowing the
        future), so a session that is stepped briskly keeps its own. Its turn ends after `TURN_IN_REPLAYS` replays, so that others are
        not shut out, and replays stay a bounded part of the work.
        """
        if self.rested_at is None:
            return float("inf")
        cost_s = max(self.replay_s, SHORTEST_REPLAY_S)
        return min(self.rested_at + cost_s, max(self.rested_at, self.since + TURN_IN_REPLAYS * cost_s))


def next_due(leases: Iterable[Lease]) -> Lease | None:
    """Return the lease that may be taken first, or None where all are in use."""
    resting = [lease for lease in leases if lease.rested_at is not None]
    return min(resting, key=Lease.due_at, default=None)
