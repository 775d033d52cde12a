"""What a person sees while a run works: bars on a terminal, a line now and then elsewhere."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from orchestrator.records import Episode

#: Seconds between lines when the output is no terminal.
QUIET_S = 20.0
PLAIN_WIDTH = 110


class StageProgress:
    """One stage's bar. Counts what it is told; knows nothing of how stages work."""

    def __init__(self, display: "Display", name: str) -> None:
        self._display, self._name = display, name
        self._started = time.monotonic()
        self._spoke = time.monotonic()
        self._total = 0
        self._done = 0
        self._resumed = 0
        self._scores = 0.0
        self._tokens = 0
        self._began = self._started
        self._bar: TaskID = display.bars.add_task(name, total=None, detail="")

    def total(self, number: int, unit: str) -> None:
        """How much there is to do. Speeds count from now on: before it a server may have had to start."""
        self._total = number
        self._display.bars.update(self._bar, total=number)
        self._began = time.monotonic()

    def episode(self, episode: Episode) -> None:
        """An episode has ended (or was found on disk)."""
        self._done += 1
        self._scores += episode.score
        elapsed = max(time.monotonic() - self._began, 1e-3)
        if elapsed < 0.05 and self._resumed == self._done - 1:
            self._resumed += 1  # read from disk, not played now: it must not count towards the speed
        else:
            self._tokens += episode.usage.completion_tokens
        speed = (self._done - self._resumed) / elapsed
        detail = f"score {self._scores / self._done:.3f} | {speed * 60:.0f} episodes/min | {self._tokens / elapsed:.0f} tokens/s"
        self._show(self._done, detail)

    def advance(self) -> None:
        """One more of what the stage counts."""
        self._done += 1
        self._show(self._done, "")

    def job(self, event: dict[str, Any]) -> None:
        """A training job's progress line, or a `note` of what starts it."""
        if event.get("event") == "start":
            self.total(int(event.get("steps", 0)), "steps")
        elif event.get("event") == "step":
            names = {"loss": "loss", "margin": "margin", "accuracy": "accuracy", "tokens_per_s": "tokens/s"}
            values = [f"{label} {event[key]:.4g}" for key, label in names.items() if isinstance(event.get(key), int | float)]
            self._show(int(event.get("step", 0)), " | ".join(values))
        elif event.get("event") == "restart":
            said = f"{event['reason']}; it is started again and resumes ({event['attempt']} of {event['of']})"
            self._display.note(f"  {self._name}: {said}")
        elif event.get("event") == "note":
            self._display.note(str(event.get("message", "")))

    def _show(self, done: int, detail: str) -> None:
        self._display.bars.update(self._bar, completed=done, detail=detail)
        now = time.monotonic()
        if not self._display.live and now - self._spoke > QUIET_S:
            self._spoke = now
            self._display.console.print(f"  {self._name}: {done}/{self._total} | {detail}", highlight=False, markup=False, soft_wrap=True)

    def finish(self, summary: dict[str, Any]) -> None:
        """The stage is done."""
        seconds = time.monotonic() - self._started
        self._display.line("done", self._name, f"{seconds:6.1f} s", summary)

    def leave(self) -> None:
        """The stage was left, finished or not."""
        self._display.bars.remove_task(self._bar)


def terminal() -> Console:
    """Standard output. Where it is no terminal its width is unknown, and 80 columns would break the table's lines."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=PLAIN_WIDTH)


class Display:
    """The terminal of a run."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console if console is not None else terminal()
        self.live = self.console.is_terminal
        self.bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.live,
        )

    @contextmanager
    def stage(self, name: str, kind: str) -> Iterator[StageProgress]:
        """The bar of one stage."""
        if not self.live:
            self.console.print(f"begin {name}", highlight=False, markup=False, soft_wrap=True)
        progress = StageProgress(self, name)
        self.bars.start()
        try:
            yield progress
        finally:
            progress.leave()
            self.bars.stop()

    def skipped(self, name: str, summary: dict[str, Any]) -> None:
        """A stage that an earlier start of the run finished."""
        self.line("kept", name, "", summary)

    def note(self, text: str) -> None:
        """A sentence."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def line(self, word: str, name: str, duration: str, summary: dict[str, Any]) -> None:
        """One line per stage."""
        facts = ", ".join(f"{k} {_short(v)}" for k, v in summary.items() if not isinstance(v, dict))
        self.console.print(f"{word}  {name:<16} {duration:>9}  {facts}", highlight=False, markup=False, soft_wrap=True)


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
