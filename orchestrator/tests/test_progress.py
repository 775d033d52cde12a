"""What a run's terminal shows where it is no terminal: whole lines, and text as it came."""

import io

from orchestrator.progress import Display
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
