"""The run directories that the pages show, and what is remembered of each between requests."""

import json
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from orchestrator.records import Episode, Pair
from orchestrator.report import Report, build_report
from orchestrator.run_index import RunInfo, find_runs, is_run, read_run
from orchestrator.ui.records_index import EpisodeRow, PairRow, RecordsFile, episode_row, pair_row
from orchestrator.ui.tail import Tail

EpisodesFile = RecordsFile[EpisodeRow, Episode]
PairsFile = RecordsFile[PairRow, Pair]
#: A report that took t seconds is not counted again for this many t: a run that writes all the time costs a part of a core at most.
REST = 10.0
#: What a report is counted from.
SOURCES = ("config.yaml", "manifest.json")
STAGE_SOURCES = ("done.json", "episodes.jsonl", "pairs.jsonl", "checkpoint.progress.jsonl", "checkpoint/manifest.json")


class ProgressFile:
    """A training job's events, each read once."""

    def __init__(self, path: Path) -> None:
        self._tail, self._lock = Tail(path), threading.Lock()
        self.events: list[dict[str, Any]] = []

    def update(self) -> list[dict[str, Any]]:
        """Read what is new; returns all events. A line that is none is passed over."""
        with self._lock:
            try:
                if self._tail.changed():
                    if self._tail.replaced():
                        self.events = []
                    for line in self._tail.read():
                        self._add(line.text)
            except OSError:
                self.events, self._tail = [], Tail(self._tail.path)
            return list(self.events)

    def _add(self, text: bytes) -> None:
        try:
            event = json.loads(text)
        except (ValueError, RecursionError):
            return
        if isinstance(event, dict):
            self.events.append(event)


class ReportCache:
    """A run's report, counted in the background when its files have changed."""

    def __init__(self, folder: Path, workers: ThreadPoolExecutor) -> None:
        self._folder, self._workers, self._lock = folder, workers, threading.Lock()
        self._report: Report | None = None
        self._fault: str | None = None
        self._counted: object = None
        self._rest_until = 0.0
        self._work: Future[None] | None = None

    def get(self, wait_s: float) -> tuple[Report | None, str | None, bool]:
        """The report, or why there is none, and whether a newer one is being counted. Waits for it up to `wait_s` seconds."""
        with self._lock:
            idle = self._work is None or self._work.done()
            if idle and time.monotonic() >= self._rest_until and (now := self._sources()) != self._counted:
                self._work = self._workers.submit(self._count, now)
            work = self._work
        if work is not None:
            wait([work], wait_s)
        return self._report, self._fault, work is not None and not work.done()

    def _count(self, sources: object) -> None:
        started = time.monotonic()
        try:
            report, fault = build_report(self._folder), None
        except (OSError, ValueError, ArithmeticError, RecursionError) as error:  # damage: build_report's errors say what and where
            report, fault = None, str(error).splitlines()[0]
        now = time.monotonic()
        self._report, self._fault, self._counted = report, fault, sources
        self._rest_until = now + REST * (now - started)

    def _sources(self) -> object:
        files = [self._folder / name for name in SOURCES]
        files += [f / name for f in sorted((self._folder / "stages").glob("*")) for name in STAGE_SOURCES]
        marks = []
        for file in files:
            try:
                stat = file.stat()
            except OSError:
                continue
            marks.append((str(file), stat.st_size, stat.st_mtime_ns))
        return marks


class Run:
    """One run directory."""

    def __init__(self, folder: Path, workers: ThreadPoolExecutor) -> None:
        self.folder = folder
        self.report = ReportCache(folder, workers)
        self._episodes: dict[str, EpisodesFile] = {}
        self._pairs: dict[str, PairsFile] = {}
        self._progress: dict[str, ProgressFile] = {}

    def info(self) -> RunInfo:
        """Its state now."""
        return read_run(self.folder)

    def episodes(self, stage: str) -> EpisodesFile:
        """A stage's episodes, up to date."""
        path = self.folder / "stages" / stage / "episodes.jsonl"
        file = self._episodes.setdefault(stage, RecordsFile(path, Episode, episode_row))
        file.update()
        return file

    def pairs(self, stage: str) -> PairsFile:
        """A stage's pairs, up to date."""
        file = self._pairs.setdefault(stage, RecordsFile(self.folder / "stages" / stage / "pairs.jsonl", Pair, pair_row))
        file.update()
        return file

    def progress(self, stage: str) -> list[dict[str, Any]]:
        """A training stage's events."""
        path = self.folder / "stages" / stage / "checkpoint.progress.jsonl"
        return self._progress.setdefault(stage, ProgressFile(path)).update()

    def stages_with(self, file: str) -> list[str]:
        """Names of the stages that have a file, in the pipeline's order."""
        return [s.name for s in self.info().stages if (self.folder / "stages" / s.name / file).is_file()]


class Library:
    """All runs of a folder."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self._known: dict[str, Run] = {}
        self._lock = threading.Lock()
        # counting is plain Python: a second thread would only slow the pages
        self._workers = ThreadPoolExecutor(max_workers=1, thread_name_prefix="report")

    def names(self) -> list[str]:
        """The runs there are now."""
        return [folder.name for folder in find_runs(self.runs)]

    def get(self, name: str) -> Run | None:
        """A run by its folder's name; None where there is none. A name is never a path."""
        if name in ("", ".", "..") or "/" in name or "\0" in name or not is_run(self.runs / name):
            with self._lock:
                self._known.pop(name, None)
            return None
        with self._lock:
            return self._known.setdefault(name, Run(self.runs / name, self._workers))
