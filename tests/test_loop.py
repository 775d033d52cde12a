"""The whole loop with real parts (ScienceWorld, vLLM, the trainer) on a model of a few thousand weights, killed where it hurts.

benchmarks/soak/loop.py is the long form: it kills at random, again and again.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from conftest import free_port
from orchestrator.records import Episode, Pair

from orchestrator import jsonl, process

TYPES = ["task-6-lifespan-(longest-lived)", "task-6-lifespan-(shortest-lived)"]
STAGES = ["experts", "init", "evaluate-base", "sft", "evaluate-sft", "explore-1", "pairs-1", "dpo-1", "evaluate-eto-1"]
pytestmark = pytest.mark.slow


class Run:
    """`eto run` as a person starts it, on a configuration of the smallest sizes."""

    def __init__(self, folder: Path) -> None:
        training = {"batch_size": 4, "micro_batch_size": 4, "max_length": 1024, "precision": "fp32"}
        config = {
            "name": "loop",
            "model": {"vocab_size": 512, "hidden_size": 64, "layers": 2, "heads": 2},
            "env": {"port": free_port(), "max_sessions": 4},
            "policy": {"port": free_port(), "max_model_len": 1024, "max_num_seqs": 4, "kv_cache_gib": 0.25},
            "train_tasks": {"split": "eto-train", "types": TYPES, "per_type": 4},
            "evaluate": [{"split": "eto-unseen", "types": TYPES, "per_type": 3}],
            "rollout": {"concurrency": 4, "max_tokens": 24, "example": False, "patience_s": 60},
            "sft": {**training, "epochs": 30, "learning_rate": 2e-3},
            "dpo": {**training, "epochs": 1, "learning_rate": 1e-4},
        }
        self.config = folder / "loop.yaml"
        self.config.write_text(yaml.safe_dump(config))
        self.folder = folder / "runs" / "loop"
        self.log = folder / "eto.log"

    def start(self) -> subprocess.Popen[bytes]:
        command = [str(Path(sys.executable).with_name("eto")), "run", str(self.config), "--runs", str(self.folder.parent)]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def done(self) -> dict[str, str]:
        """The records of finished stages, as written."""
        return {f.parent.name: f.read_text() for f in self.folder.glob("stages/*/done.json")}

    def lines(self, stage: str) -> int:
        file = self.folder / "stages" / stage / "episodes.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    def episodes(self, stage: str) -> list[Episode]:
        return list(jsonl.read(self.folder / "stages" / stage / "episodes.jsonl", Episode))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    run = Run(tmp_path_factory.mktemp("loop"))
    yield run
    for running in process.find_all():
        process.stop(running)


def wait_for(what: Callable[[], bool], eto: subprocess.Popen[bytes], run: Run, timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert eto.poll() is None, run.log.read_text()
        assert time.monotonic() < deadline, run.log.read_text()
        time.sleep(0.02)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_a_run_whose_orchestrator_is_killed_in_explore_and_whose_policy_is_killed_in_evaluate_ends_complete(run: Run) -> None:
    eto = run.start()
    wait_for(lambda: run.lines("explore-1") >= 2, eto, run)
    kill(eto.pid)
    eto.wait()
    before = run.done()
    assert "explore-1" not in before
    explored = {e.key: e for e in run.episodes("explore-1")}

    eto = run.start()  # finds the services that the killed one left
    wait_for(lambda: run.lines("evaluate-eto-1") >= 1, eto, run)
    policy = process.find("policy")
    assert policy is not None
    kill(policy.pid)
    assert eto.wait(300) == 0, run.log.read_text()

    assert sorted(run.done()) == sorted(STAGES)
    assert {stage: run.done()[stage] for stage in before} == before  # nothing finished was done again
    for stage, count in (("experts", 8), ("evaluate-base", 6), ("evaluate-sft", 6), ("explore-1", 8), ("evaluate-eto-1", 6)):
        keys = [e.key for e in run.episodes(stage)]
        assert len(set(keys)) == len(keys) == count, stage
    assert [e for e in run.episodes("explore-1") if explored.get(e.key, e) != e] == []
    assert process.find_all() == []  # it stopped what it had started


def test_the_run_trained_on_what_it_explored_and_every_turn_names_its_version(run: Run) -> None:
    pairs = list(jsonl.read(run.folder / "stages" / "pairs-1" / "pairs.jsonl", Pair))
    assert pairs
    explored = {e.task_id: e for e in run.episodes("explore-1")}
    for pair in pairs:
        assert pair.chosen_reward > pair.rejected_reward
        assert pair.prompt == explored[pair.task_id].prompt
    versions = {}
    for stage in ("init", "sft", "dpo-1"):
        manifest = json.loads((run.folder / "stages" / stage / "checkpoint" / "manifest.json").read_text())
        versions[stage] = manifest["version"]
    assert len(set(versions.values())) == 3
    for stage, model in (("evaluate-base", "init"), ("evaluate-sft", "sft"), ("explore-1", "sft"), ("evaluate-eto-1", "dpo-1")):
        assert {e.model.version for e in run.episodes(stage)} == {versions[model]}, stage


def test_a_finished_run_started_again_does_nothing_and_reports(run: Run) -> None:
    before = run.done()
    started = time.monotonic()
    eto = run.start()
    assert eto.wait(60) == 0
    assert run.done() == before
    assert process.find_all() == []
    report = json.loads((run.folder / "report.json").read_text())
    assert [p["policy"] for p in report["policies"]] == ["base", "sft", "eto-1"]
    assert (run.folder / "report.html").stat().st_mtime > 0
    assert time.monotonic() - started < 60


def test_a_changed_file_of_a_finished_stage_is_noticed(run: Run) -> None:
    file = run.folder / "stages" / "pairs-1" / "pairs.jsonl"
    text = file.read_text()
    file.write_text(text.replace("lose", "win", 1))
    try:
        eto = run.start()
        assert eto.wait(60) == 2
        assert "was changed since stage pairs-1 finished" in run.log.read_text().splitlines()[-1]
    finally:
        file.write_text(text)
