"""The smallest run with real parts (ScienceWorld, vLLM, the trainer): a model of a few thousand weights."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from orchestrator.records import Episode

from orchestrator import jsonl

TYPES = ["task-6-lifespan-(longest-lived)", "task-6-lifespan-(shortest-lived)"]
#: Every stage, and how many episodes it must hold at the end.
STAGES = {
    "experts": 8,
    "init": 0,
    "evaluate-base": 6,
    "sft": 0,
    "evaluate-sft": 6,
    "explore-1": 8,
    "pairs-1": 0,
    "dpo-1": 0,
    "check-1": 2,
    "evaluate-eto-1": 6,
}
#: The same with a task of each type held out to choose the best policy.
HELD_OUT: dict[str, Any] = {"dev": {"held_out": 1}}
STAGES_HELD_OUT = {**STAGES, "experts": 6, "explore-1": 6, "dev-sft": 2, "dev-eto-1": 2}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Run:
    """`eto run` as a person starts it, on a configuration of the smallest sizes."""

    def __init__(self, folder: Path, name: str = "loop", **settings: object) -> None:
        training = {"batch_size": 4, "micro_batch_size": 4, "max_length": 1024, "precision": "fp32"}
        config = {
            "name": name,
            "model": {"vocab_size": 512, "hidden_size": 64, "layers": 2, "heads": 2},
            "env": {"port": free_port(), "max_engines": 4},
            "policy": {"port": free_port(), "max_model_len": 1024, "max_num_seqs": 4, "kv_cache_gib": 0.25},
            "train_tasks": {"split": "eto-train", "types": TYPES, "per_type": 4},
            "evaluate": [{"split": "eto-unseen", "types": TYPES, "per_type": 3}],
            "rollout": {"concurrency": 4, "max_tokens": 24, "example": False, "patience_s": 240},
            "sft": {**training, "epochs": 30, "learning_rate": 2e-3},
            "collapse": {"tasks": 2, "invalid_rise": 1.0},  # so small a model may well collapse; benchmarks/soak/methods.py makes one stop
            "dpo": {**training, "epochs": 1, "learning_rate": 1e-4},
            **settings,
        }
        self.stages = STAGES_HELD_OUT if "dev" in settings else STAGES
        self.config = folder / f"{name}.yaml"
        self.config.write_text(yaml.safe_dump(config))
        self.folder = folder / "runs" / name
        self.log = folder / f"{name}.log"

    def start(self, *options: str, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        command = [str(Path(sys.executable).with_name("eto")), "run", str(self.config), "--runs", str(self.folder.parent), *options]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def done(self) -> dict[str, str]:
        """The records of finished stages, as written."""
        return {f.parent.name: f.read_text() for f in self.folder.glob("stages/*/done.json")}

    def lines(self, stage: str) -> int:
        file = self.folder / "stages" / stage / "episodes.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    def episodes(self, stage: str) -> list[Episode]:
        return list(jsonl.read(self.folder / "stages" / stage / "episodes.jsonl", Episode))

    def check_complete(self) -> None:
        """Every stage is there and holds each episode once."""
        assert sorted(self.done()) == sorted(self.stages)
        for stage, count in self.stages.items():
            keys = [e.key for e in self.episodes(stage)] if count else []
            assert len(set(keys)) == len(keys) == count, (stage, keys)


def wait_for(what: Callable[[], bool], eto: subprocess.Popen[bytes], run: Run, timeout_s: float = 600) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert eto.poll() is None, run.log.read_text()
        assert time.monotonic() < deadline, run.log.read_text()
        time.sleep(0.02)


def wait_until(what: Callable[[], bool], timeout_s: float) -> None:
    """Poll until it is so."""
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
