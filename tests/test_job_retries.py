"""A training job of this machine that is killed from outside: the same call starts it again."""

import asyncio
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from orchestrator.launchers import again, local
from orchestrator.launchers.local import JobFailed, JobKilled
from tiny_run import kill

from orchestrator import versions

pytestmark = pytest.mark.slow
SHAPE = {"vocab_size": 320, "hidden_size": 64, "layers": 2, "heads": 2}


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    turns = [{"role": "user", "content": "Open the door."}, {"role": "assistant", "content": "Action: open door"}]
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"messages": turns}) + "\n")
    return {"method": "init", "data": str(data), "output": str(tmp_path / "checkpoint"), "init": SHAPE, "seed": 0}


def process_of(job_file: Path) -> int | None:
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = line.read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if b"trainer" in words and str(job_file).encode() in words:
            return int(line.parent.name)
    return None


async def run_and_kill(job: dict[str, Any], folder: Path, retries: int, times: int, told: Callable[[dict[str, Any]], None]) -> None:
    """Run the job; its process is killed as soon as it is there, so many times."""
    running = asyncio.create_task(again.until_done(partial(local.run_job, job, folder, told), told, retries))
    killed: set[int] = set()
    while len(killed) < times and not running.done():
        pid = process_of(folder / "job.json")
        if pid is not None and pid not in killed:
            kill(pid)
            killed.add(pid)
        await asyncio.sleep(0.01)
    await running


def test_a_job_that_is_killed_is_started_again_and_ends_well(job: dict[str, Any], tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    asyncio.run(run_and_kill(job, tmp_path / "job", retries=2, times=1, told=events.append))
    (restart,) = [e for e in events if e.get("event") == "restart"]
    assert "SIGKILL" in restart["reason"]
    assert (restart["attempt"], restart["of"]) == (1, 2)
    assert versions.read_checkpoint(Path(job["output"])) is not None


def test_a_job_that_is_killed_more_often_than_it_is_retried_fails_and_says_why(job: dict[str, Any], tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    with pytest.raises(JobKilled, match=r"SIGKILL.*[\s\S]*Run again to resume"):
        asyncio.run(run_and_kill(job, tmp_path / "job", retries=1, times=2, told=events.append))
    assert [e["attempt"] for e in events if e.get("event") == "restart"] == [1]


def test_a_job_that_fails_by_itself_is_not_started_again(job: dict[str, Any], tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    with pytest.raises(JobFailed, match="no-such-file"):
        asyncio.run(
            again.until_done(partial(local.run_job, {**job, "data": "no-such-file"}, tmp_path / "job", events.append), events.append, 2)
        )
    assert not [e for e in events if e.get("event") == "restart"]
