"""`eto runs gc`: what it finds, what it leaves alone, and that it removes only when told."""

import json
import os
import shutil
from pathlib import Path

import pytest
from orchestrator.cli import app
from orchestrator.run_store import RunStore
from run_builder import make_run, write, write_done
from typer.testing import CliRunner


def weights(stage: str) -> str:
    return f"stages/{stage}/checkpoint/model.safetensors"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with a finished run of two iterations, a stage set aside in it and some leftovers."""
    run = make_run(tmp_path / "demo", splits=("eto-seen",), iterations=2)
    for stage in ("init", "sft", "dpo-1", "dpo-2"):
        write(run / weights(stage), "w" * 1000)
    write(run / "stages/pairs-1.stale-1/pairs.jsonl", "p" * 500)
    write(run / "stages/sft/checkpoint.partial/checkpoint-3/optimizer.pt", "o" * 300)
    write(run / "stages/explore-1/episodes.jsonl.part", "e" * 20)
    write(tmp_path / ".gone.removed-1234/config.yaml", "name: gone")
    return tmp_path


def gc(runs: Path, *options: str) -> dict[str, int]:
    """What it lists, by its path in the folder of runs, and the bytes each frees."""
    done = CliRunner().invoke(app, ["runs", "gc", "--runs", str(runs), "--json", *options])
    assert done.exception is None, done.output
    return {os.path.relpath(w["path"], runs): w["bytes"] for w in json.loads(done.stdout)}


def test_it_lists_what_nothing_refers_to_and_removes_nothing_unasked(runs: Path) -> None:
    before = sorted(runs.rglob("*"))
    assert gc(runs) == {
        "demo/stages/pairs-1.stale-1": 500,
        "demo/stages/sft/checkpoint.partial": 300,
        "demo/stages/explore-1/episodes.jsonl.part": 20,
        **{f"demo/{weights(stage)}": 1000 for stage in ("init", "sft", "dpo-1")},
        ".gone.removed-1234": 10,
    }
    assert sorted(runs.rglob("*")) == before


def test_told_to_it_removes_just_that(runs: Path) -> None:
    listed = gc(runs, "--yes")
    assert [path for path in listed if (runs / path).exists()] == []
    assert (runs / "demo" / weights("dpo-2")).exists()
    assert (runs / "demo/stages/sft/checkpoint/manifest.json").exists()
    assert gc(runs) == {}
    assert CliRunner().invoke(app, ["runs", "show", "demo", "--runs", str(runs)]).exit_code == 0


def test_the_best_policy_and_those_named_are_kept(runs: Path) -> None:
    for policy in ("sft", "eto-1", "eto-2"):
        write_done(runs / "demo/stages", f"dev-{policy}", "dev", 9, {"policy": policy, "best": "eto-1"})
    assert [p for p in gc(runs, "--keep", "sft") if p.endswith("safetensors")] == [f"demo/{weights('init')}"]


def test_an_unfinished_run_keeps_all_its_weights_and_what_its_next_stage_goes_on_with(runs: Path) -> None:
    (runs / "demo/stages/dpo-2/done.json").unlink()
    write(runs / "demo/stages/dpo-2/checkpoint.partial/checkpoint-3/optimizer.pt", "o")
    found = gc(runs)
    assert not any(path.endswith("safetensors") for path in found)
    assert "demo/stages/dpo-2/checkpoint.partial" not in found


def test_weights_that_another_run_shares_free_nothing(runs: Path) -> None:
    shutil.copytree(runs / "demo", runs / "arm", copy_function=os.link)
    assert gc(runs, "demo")[f"demo/{weights('sft')}"] == 0


def test_a_run_that_is_worked_on_is_left_alone(runs: Path) -> None:
    with RunStore(runs / "demo").locked():
        assert list(gc(runs, "--yes")) == [".gone.removed-1234"]
        assert "an `eto` works on it" in CliRunner().invoke(app, ["runs", "gc", "--runs", str(runs)]).stdout
    assert (runs / "demo/stages/pairs-1.stale-1").exists()
