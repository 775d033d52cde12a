"""A job ended from outside (killed, preempted, its container removed) is started again and resumes; one that fails is not."""

from collections.abc import Awaitable, Callable
from typing import Any

from orchestrator.launchers.local import JobKilled


async def until_done(run: Callable[[], Awaitable[None]], progress: Callable[[dict[str, Any]], None], retries: int) -> None:
    """Run a job to its end, at most `retries` times again. Raises what `run` raises: JobFailed at once, JobKilled the last time."""
    for attempt in range(1, retries + 1):
        try:
            return await run()
        except JobKilled as killed:
            progress({"event": "restart", "reason": killed.reason, "attempt": attempt, "of": retries})
    await run()
