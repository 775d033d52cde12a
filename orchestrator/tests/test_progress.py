"""What a run's terminal shows where it is no terminal: whole lines, and text as it came."""

import io

import pytest
from builders import episode
from orchestrator.progress import Display
from orchestrator.records import Usage
from rich.console import Console


def test_lines_are_neither_broken_nor_read_as_markup() -> None:
    out = io.StringIO()
    reason = "the job ended: [/red] in [bold]" + " and so on" * 20
    display = Display(Console(file=out, width=40))
    with display.stage("sft", "sft") as progress:
        progress.job({"event": "restart", "reason": reason, "attempt": 1, "of": 2})
    display.line("done", "sft", "1.0 s", {"reason": reason})
    assert f"  sft: {reason}; it is started again and resumes (1 of 2)\n" in out.getvalue()
    assert f"reason {reason}\n" in out.getvalue()


def test_speeds_do_not_count_the_time_before_the_first_episode_began(monkeypatch: pytest.MonkeyPatch) -> None:
    out, clock = io.StringIO(), [1000.0]
    monkeypatch.setattr("orchestrator.progress.time.monotonic", lambda: clock[0])
    display = Display(Console(file=out, width=40))
    with display.stage("explore-1", "explore") as progress:
        clock[0] += 90  # a server starts
        progress.total(10, "episodes")
        clock[0] += 30
        progress.episode(episode(2, 1.0).model_copy(update={"usage": Usage(completion_tokens=60)}))
    assert "  explore-1: 1/10 | score 1.000 | 2 episodes/min | 2 tokens/s\n" in out.getvalue()
