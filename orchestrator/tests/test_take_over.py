"""`eto run --from RUN:STAGE`, on run directories whose stages hold small files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from orchestrator.config import ConfigError, RunConfig
from orchestrator.pipeline import plan
from orchestrator.report import build_report
from orchestrator.run_store import RunStore, RunStoreError, StageRecord, file_sha256, open_run
from orchestrator.take_over import TakeOver, carry_out, check_whole, find
from orchestrator.versions import weights_version
from run_builder import played_by

from orchestrator import pipeline

COMMON: dict[str, Any] = {
    "model": {"hidden_size": 64, "heads": 2},
    "train_tasks": {"split": "eto-train"},
    "evaluate": [{"split": "eto-seen"}],
    "iterations": 2,
}


def config(name: str = "arm", **settings: Any) -> RunConfig:
    return RunConfig.model_validate({**COMMON, "name": name, **settings})


def finish(store: RunStore, stage: pipeline.Stage) -> None:
    """A finished stage as the pipeline leaves it, played and trained by nobody."""
    folder = store.stage_dir(stage.name)
    folder.mkdir(parents=True)
    if stage.kind in ("experts", "explore", "evaluate", "check"):
        episodes = played_by(stage.name, "eto-seen", 2, 0.5)
        (folder / "episodes.jsonl").write_text("".join(json.dumps(e) + "\n" for e in episodes))
    elif stage.kind == "pairs":
        (folder / "pairs.jsonl").write_text("")
    else:
        (folder / "checkpoint").mkdir()
        (folder / "checkpoint" / "model.safetensors").write_bytes(stage.name.encode() * 99)
        manifest = {"version": weights_version(folder / "checkpoint"), "method": stage.kind}
        (folder / "checkpoint" / "manifest.json").write_text(json.dumps(manifest))
    outputs = {name: file_sha256(folder / name) for name in pipeline.OUTPUTS if (folder / name).exists()}
    inputs = pipeline._inputs(store, stage)
    record = StageRecord(stage=stage.name, kind=stage.kind, started_at="then", duration_s=9, inputs=inputs, outputs=outputs, summary={})
    store.write_record(record)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with a run `first`, finished up to its pairs."""
    store = open_run(tmp_path, config("first"))
    stages = plan(config())
    for stage in stages[: [s.name for s in stages].index("pairs-1") + 1]:
        finish(store, stage)
    return tmp_path


def taken(runs: Path, text: str, given: RunConfig | None = None) -> RunStore:
    given = given or config()
    found = find(runs, text, given)
    assert isinstance(found, TakeOver)
    store = open_run(runs, given)
    carry_out(found, store)
    return store


def stages_of(store: RunStore) -> list[str]:
    return sorted(f.name for f in (store.path / "stages").iterdir())


def test_the_stages_up_to_the_named_one_are_taken_with_where_they_come_from(runs: Path) -> None:
    store = taken(runs, "first:evaluate-sft")
    assert stages_of(store) == ["evaluate-base", "evaluate-sft", "experts", "init", "sft"]
    record = store.record("sft")
    assert record is not None
    assert record.taken_from is not None
    manifest = json.loads((store.path / "manifest.json").read_text())
    assert record.taken_from.run_id == json.loads((runs / "first/manifest.json").read_text())["run_id"]
    assert manifest["from"] == {
        "run": "first",
        "run_id": record.taken_from.run_id,
        "stage": "evaluate-sft",
        "stages": ["experts", "init", "evaluate-base", "sft", "evaluate-sft"],
    }
    assert not (store.path / "stages.part").exists()


def test_the_pipeline_finds_nothing_to_do_before_the_stage_it_goes_on_with(runs: Path) -> None:
    store = taken(runs, "first:pairs-1", config(dpo={"beta": 0.7}, seed=5))
    for stage in plan(config()):
        record = store.record(stage.name)
        if stage.name == "dpo-1":
            assert record is None
            break
        if record is not None:  # evaluations with another seed are played anew
            store.check_outputs(record)
            assert record.inputs == pipeline._inputs(store, stage)


def test_weights_are_shared_and_files_that_grow_are_not(runs: Path) -> None:
    store = taken(runs, "first:sft")
    source = RunStore(runs / "first")
    weights, episodes = "sft/checkpoint/model.safetensors", "experts/episodes.jsonl"
    assert (store.path / "stages" / weights).samefile(source.path / "stages" / weights)
    assert not (store.path / "stages" / episodes).samefile(source.path / "stages" / episodes)
    shutil.rmtree(source.path)
    assert weights_version(store.stage_dir("sft") / "checkpoint") == json.loads(
        (store.stage_dir("sft") / "checkpoint/manifest.json").read_text()
    )["version"]  # fmt: skip


def test_where_links_cannot_be_made_files_are_copied(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("orchestrator.take_over.os.link", refuse)
    store = taken(runs, "first:sft")
    weights = "stages/sft/checkpoint/model.safetensors"
    assert (store.path / weights).read_bytes() == (runs / "first" / weights).read_bytes()


def test_an_evaluation_under_other_settings_is_played_anew(runs: Path) -> None:
    found = find(runs, "first:evaluate-sft", config(evaluate=[{"split": "eto-seen"}, {"split": "eto-unseen"}]))
    assert found is not None
    assert found.names == ["experts", "init", "sft"]
    assert list(found.anew) == ["evaluate-base", "evaluate-sft"]
    assert "evaluate-sft is done anew: evaluate differs from there" in found.told()


def test_a_stage_made_with_other_settings_says_so_in_its_record_and_in_the_report(runs: Path) -> None:
    store = taken(runs, "first:explore-1", config(seed=3, sft={"epochs": 9}, explore={"samples": 4}))
    record = store.record("sft")
    assert record is not None
    assert record.taken_from is not None
    assert record.taken_from.settings == {"seed": 0, "sft.epochs": None}
    report = build_report(store.path)
    assert report.run.begun_from == "first:explore-1"
    assert any("sft is run first's, made with seed 0, sft.epochs not set" in note for note in report.notes)
    assert {s.taken_from for s in report.stages} == {"first"}
    assert (report.totals.duration_s, report.totals.episodes) == (0, 0)


def test_a_stage_taken_twice_names_both_runs(runs: Path) -> None:
    taken(runs, "first:evaluate-sft")
    record = taken(runs, "arm:sft", config("third")).record("sft")
    assert record is not None
    assert record.taken_from is not None
    assert record.taken_from.taken_from is not None
    assert (record.taken_from.run, record.taken_from.taken_from.run) == ("arm", "first")


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"env": {"name": "webshop"}}, r"env\.name: 'sciworld' there, 'webshop' here"),
        ({"train_tasks": {"split": "eto-train", "per_type": 3}}, r"train_tasks\.per_type: None there, 3 here"),
        ({"dev": {"held_out": 2}}, r"dev\.held_out: None there, 2 here"),
        ({"model": {"hidden_size": 128, "heads": 2}}, r"model\.hidden_size: 64 there, 128 here"),
        ({"model": "some/model"}, "model: .* there, 'some/model' here"),
        ({"method": "step"}, "method: 'eto' there, 'step' here"),
        ({"method": "rft"}, "no stage pairs-1; its stages are experts, init"),
    ],
)
def test_a_configuration_that_does_not_fit_is_told_what_differs(runs: Path, settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        find(runs, "first:pairs-1", config(**settings))
    assert not (runs / "arm").exists()


def test_another_method_may_go_on_from_what_all_methods_share(runs: Path) -> None:
    for method in ("step", "rft"):
        assert "sft" in stages_of(taken(runs, "first:evaluate-sft", config(method, method=method)))


def test_experts_serve_another_model(runs: Path) -> None:
    for other in ({"model": "some/model"}, {"model": {"hidden_size": 128, "heads": 2}}, {"model": "some/model", "skip": ["sft"]}):
        given = config(f"arm-{len(list(runs.iterdir()))}", **other)
        assert stages_of(taken(runs, "first:experts", given)) == ["experts"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("none:sft", RunStoreError, "no run 'none'"),
        ("first", ConfigError, "which stage.*it has experts, init, evaluate-base, sft"),
        ("first:dpo-1", RunStoreError, "has not finished there; finished are experts"),
        ("first:nonsense", ConfigError, "no stage nonsense"),
        ("arm:sft", RunStoreError, "no run 'arm' .*there are first"),
    ],
)
def test_what_cannot_be_gone_on_from_is_told(runs: Path, text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        find(runs, text, config())


def test_a_run_does_not_go_on_from_itself(runs: Path) -> None:
    with pytest.raises(ConfigError, match="is the run itself"):
        find(runs, "first:sft", config("first"))


@pytest.mark.parametrize(
    ("file", "message"),
    [("experts/episodes.jsonl", "was changed since stage experts finished"), ("sft/checkpoint/model.safetensors", "the weights in .* are")],
)
def test_damage_is_not_taken_over(runs: Path, file: str, message: str) -> None:
    with (runs / "first/stages" / file).open("ab") as f:
        f.write(b"x")
    with pytest.raises(RunStoreError, match=message):
        find(runs, "first:sft", config())


def test_a_stage_that_no_longer_follows_from_those_before_it_is_not_taken(runs: Path) -> None:
    store = RunStore(runs / "first")
    record = store.record("sft")
    assert record is not None
    store.write_record(record.model_copy(update={"inputs": {"experts/episodes.jsonl": "ab"}}))
    with pytest.raises(RunStoreError, match="sft is needed, but it was made from other files"):
        find(runs, "first:evaluate-sft", config())


def test_asked_again_it_has_what_it_needs_even_without_its_source(runs: Path) -> None:
    taken(runs, "first:sft")
    shutil.rmtree(runs / "first")
    assert find(runs, "first:sft", config()) is None


def test_a_run_that_has_begun_otherwise_is_left_alone(runs: Path) -> None:
    store = taken(runs, "first:sft")
    before = stages_of(store)
    found = find(runs, "first:evaluate-sft", config())
    assert found is not None
    with pytest.raises(RunStoreError, match="has begun already, and not from first:evaluate-sft"):
        carry_out(found, store)
    assert stages_of(store) == before


def test_taking_over_that_was_cut_off_is_noticed_and_mended(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find(runs, "first:sft", config())
    assert found is not None
    store = open_run(runs, config())
    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.take_over._link_or_copy", lambda source, target: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            carry_out(found, store)
    with pytest.raises(RunStoreError, match=r"was cut off\. Give --from first:sft again"):
        check_whole(store)
    carry_out(found, store)
    check_whole(store)
    assert stages_of(store) == ["evaluate-base", "experts", "init", "sft"]
