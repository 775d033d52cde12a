"""A worker process: engines in numbered slots, asked one call at a time by JSON lines over two pipes that only its parent holds.

Started as `python -m env_core.worker FACTORY OPTIONS READ_FD WRITE_FD PARENT_PID`.
It imports nothing that it does not need: its start counts.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
from dataclasses import asdict
from typing import Any, BinaryIO

from env_core.environment import Engine

PR_SET_PDEATHSIG = 1


def _die_with_parent(parent_pid: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the call above
        sys.exit(1)


def _create(factory: str, options: dict[str, Any]) -> Engine:
    module, _, function = factory.partition(":")
    engine: Engine = getattr(importlib.import_module(module), function)(**options)
    return engine


def answer(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request of the parent. `render` and `inspect` are asked only where the environment says that they are there."""
    match request["call"]:
        case "load":
            return asdict(engine.load(request["task_id"], request["seed"], request["include"]))
        case "step":
            return asdict(engine.step(request["action"], request["include"]))
        case "expert":
            return {"actions": engine.expert(request["task_id"])}
        case "render":
            return {"value": engine.render()}  # type: ignore[attr-defined]
        case "inspect":
            return {"value": engine.inspect(request["what"])}  # type: ignore[attr-defined]
        case other:
            raise ValueError(f"no such call: {other}")


def _write(pipe: BinaryIO, message: dict[str, Any]) -> None:
    pipe.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
    pipe.flush()


def main(argv: list[str]) -> None:
    """Serve until the parent closes its end or dies."""
    factory, options, read_fd, write_fd, parent_pid = argv
    _die_with_parent(int(parent_pid))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.dup2(2, 1)  # what an engine prints must not look like an answer
    os.set_inheritable(int(read_fd), False)  # an engine's own children must not hold these open
    os.set_inheritable(int(write_fd), False)
    with open(int(read_fd), "rb") as requests, open(int(write_fd), "wb") as answers:
        engines = {0: _create(factory, json.loads(options))}  # the other slots are filled when they are first asked for
        _write(answers, {"ready": True})
        try:
            for line in requests:
                request = json.loads(line)
                slot = request["slot"]
                if slot not in engines:
                    engines[slot] = _create(factory, json.loads(options))
                _write(answers, answer(engines[slot], request))
        finally:
            for engine in engines.values():
                engine.close()


if __name__ == "__main__":
    main(sys.argv[1:])
