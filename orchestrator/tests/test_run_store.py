import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from orchestrator.config import EvaluateSet, RunConfig, TaskSet
from orchestrator.run_store import RunStore, RunStoreError, StageRecord, file_sha256, open_run, run_id


def config(**settings: Any) -> RunConfig:
    return RunConfig(name="r", train_tasks=TaskSet(split="a"), evaluate=[EvaluateSet(split="b")], **settings)


def finish(store: RunStore, stage: str, outputs: dict[str, str]) -> None:
    for name, text in outputs.items():
        file = store.stage_dir(stage) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    hashes = {name: file_sha256(store.stage_dir(stage) / name) for name in outputs}
    record = StageRecord(stage=stage, kind="pairs", started_at="now", duration_s=1, inputs={}, outputs=hashes, summary={"pairs": 1})
    store.write_record(record)


def test_a_run_is_opened_again_with_the_same_configuration_and_keeps_its_id(tmp_path: Path) -> None:
    first = run_id(open_run(tmp_path, config()))
    assert run_id(open_run(tmp_path, config())) == first


def test_what_only_changes_how_a_run_is_carried_out_may_differ(tmp_path: Path) -> None:
    open_run(tmp_path, config())
    open_run(tmp_path, config(rollout={"concurrency": 3}, env={"port": 9000}))


def test_another_configuration_is_refused_with_the_names_of_what_differs(tmp_path: Path) -> None:
    open_run(tmp_path, config())
    with pytest.raises(RunStoreError, match=r"different: seed, dpo\. Give the run another `name`"):
        open_run(tmp_path, config(seed=1, dpo={"beta": 0.5}))


def test_a_second_orchestrator_is_kept_out(tmp_path: Path) -> None:
    store = open_run(tmp_path, config())
    code = f"import sys; sys.path[:0] = {sys.path!r}; from pathlib import Path; from orchestrator.run_store import RunStore\n"
    code += f"with RunStore(Path({str(store.path)!r})).locked(): pass"
    with store.locked():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another `eto` works on" in done.stderr
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("text", ["", "{", "[]", "name: [", "\x00"])
def test_a_damaged_configuration_is_told_with_what_to_do(tmp_path: Path, text: str) -> None:
    (open_run(tmp_path, config()).path / "config.yaml").write_text(text)
    with pytest.raises(RunStoreError, match=r"config\.yaml is damaged\. Remove it"):
        open_run(tmp_path, config())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_a_damaged_manifest_is_told_with_what_to_do(tmp_path: Path, text: str) -> None:
    store = open_run(tmp_path, config())
    (store.path / "manifest.json").write_text(text)
    with pytest.raises(RunStoreError, match=r"manifest\.json is damaged\. Remove it"):
        run_id(store)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"schema": "eto.stage/1"}'])
def test_a_damaged_record_is_told_with_what_to_do(tmp_path: Path, text: str) -> None:
    store = open_run(tmp_path, config())
    finish(store, "pairs-1", {"pairs.jsonl": "{}\n"})
    (store.stage_dir("pairs-1") / "done.json").write_text(text)
    with pytest.raises(RunStoreError, match=r"done\.json is damaged .* Remove the folder .*pairs-1 to run the stage again"):
        store.record("pairs-1")


def test_a_finished_stages_file_that_was_changed_or_lost_is_noticed(tmp_path: Path) -> None:
    store = open_run(tmp_path, config())
    finish(store, "pairs-1", {"pairs.jsonl": "{}\n"})
    record = store.record("pairs-1")
    assert record is not None
    store.check_outputs(record)
    file = store.stage_dir("pairs-1") / "pairs.jsonl"
    file.write_text("{}\n{}\n")
    with pytest.raises(RunStoreError, match=r"was changed since stage pairs-1 finished"):
        store.check_outputs(record)
    file.unlink()
    with pytest.raises(RunStoreError, match=r"is missing since stage pairs-1 finished"):
        store.check_outputs(record)


def test_a_stage_set_aside_is_kept_under_another_name(tmp_path: Path) -> None:
    store = open_run(tmp_path, config())
    for _ in range(2):
        finish(store, "pairs-1", {"pairs.jsonl": "{}\n"})
        store.set_aside("pairs-1")
    assert sorted(p.name for p in (store.path / "stages").iterdir()) == ["pairs-1.stale-1", "pairs-1.stale-2"]
    assert json.loads((store.path / "stages" / "pairs-1.stale-2" / "done.json").read_text())["stage"] == "pairs-1"
