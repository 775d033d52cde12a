"""The parent's side of one worker process: start it, ask it, kill it."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

import orjson

MAX_ANSWER_BYTES = 16 * 1024 * 1024
STOP_TIMEOUT_S = 3.0


class EngineLostError(Exception):
    """The worker process ended; `began` says whether the call had been sent to it."""

    def __init__(self, message: str, began: bool = True) -> None:
        super().__init__(message)
        self.began = began


class EngineTimeoutError(Exception):
    """The worker process did not answer in time; nothing is known of its state."""


class WorkerProcess:
    """One worker, alone in a process group, so that a kill takes the engines' own children too."""

    def __init__(self, process: asyncio.subprocess.Process, answers: asyncio.StreamReader, requests_fd: int) -> None:
        self._process = process
        self._answers = answers
        self._requests_fd = requests_fd
        self._transport: asyncio.ReadTransport | None = None
        self._one_at_a_time = asyncio.Lock()
        self._broken = False

    @classmethod
    async def start(cls, factory: str, options: Mapping[str, Any], timeout_s: float) -> "WorkerProcess":
        """Start a worker and wait for its first engine."""
        child_reads, parent_writes = os.pipe()
        parent_reads, child_writes = os.pipe()
        with contextlib.ExitStack() as failed:
            failed.callback(os.close, parent_writes)
            failed.callback(os.close, parent_reads)
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-m", "env_core.worker", factory, orjson.dumps(dict(options)).decode()),
                    *(str(child_reads), str(child_writes), str(os.getpid())),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(child_reads, child_writes),
                    start_new_session=True,
                )
            finally:
                os.close(child_reads)
                os.close(child_writes)
            failed.pop_all()  # from here on they are the worker's
        answers = asyncio.StreamReader(limit=MAX_ANSWER_BYTES)
        worker = cls(process, answers, parent_writes)
        worker._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(answers), os.fdopen(parent_reads, "rb", 0)
        )
        try:
            await worker._read(timeout_s)
        except (EngineLostError, EngineTimeoutError, asyncio.CancelledError):  # cancelled where the service ends
            await worker.kill()
            raise
        return worker

    @property
    def alive(self) -> bool:
        """Whether the worker holds its pipe open and no call to it was broken off."""
        return not self._broken and self._process.returncode is None and not self._answers.at_eof()

    @property
    def pid(self) -> int:
        """The worker's process id, which is its process group's too."""
        return self._process.pid

    def rss_mb(self) -> float:
        """Return the resident memory of the worker's main process, 0 where it is gone."""
        try:
            with open(f"/proc/{self.pid}/statm", encoding="ascii") as statm:
                return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        except OSError:
            return 0.0

    async def call(self, slot: int, request: dict[str, Any], timeout_s: float) -> tuple[dict[str, Any], float]:
        """Ask the engine in a slot; return its answer and the seconds it took, which the wait for other slots' calls is not part of.

        After an exception the process is good for nothing but a kill.
        """
        async with self._one_at_a_time:
            if not self.alive:
                raise EngineLostError("the engine's process has ended", began=False)
            started = time.monotonic()
            answered = False
            try:
                # Never blocks: one request is out at a time, and the longest is smaller than a pipe's 64 KiB.
                os.write(self._requests_fd, orjson.dumps({"slot": slot, **request}) + b"\n")
                answer = await self._read(timeout_s)
                answered = True
            except OSError as error:
                raise EngineLostError("the engine's process has ended") from error
            finally:  # also when cancelled: this answer would be taken for the next call's
                self._broken = self._broken or not answered
        return answer, time.monotonic() - started

    async def _read(self, timeout_s: float) -> dict[str, Any]:
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._answers.readline()
        except TimeoutError:
            raise EngineTimeoutError(f"the engine gave no answer within {timeout_s:g} s") from None
        except ValueError as error:
            raise EngineLostError("the engine's answer was too long") from error
        if not line.endswith(b"\n"):
            raise EngineLostError("the engine's process has ended")
        try:
            answer: dict[str, Any] = orjson.loads(line)
        except orjson.JSONDecodeError as error:  # what Python's json writes and JSON does not know: NaN, half a surrogate pair
            raise EngineLostError(f"the engine's answer was no JSON ({error})") from error
        return answer

    def _signal_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _close_pipes(self) -> None:
        if self._requests_fd >= 0:
            os.close(self._requests_fd)
            self._requests_fd = -1
        if self._transport is not None:
            self._transport.close()

    async def ended(self) -> None:
        """Return when the process has ended."""
        await self._process.wait()

    async def kill(self) -> None:
        """End the whole process group at once."""
        self._broken = True
        self._signal_group()
        self._close_pipes()
        await self._process.wait()

    async def stop(self) -> None:
        """Let the engines close themselves, then make sure."""
        self._broken = True
        if self._requests_fd >= 0:
            os.close(self._requests_fd)
            self._requests_fd = -1
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)
        await self.kill()
