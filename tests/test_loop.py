"""The whole loop with real parts (ScienceWorld, vLLM, the trainer) on a model of a few thousand weights, killed where it hurts.

benchmarks/soak/loop.py is the long form: it kills at random, again and again.
"""

import json
from collections.abc import Iterator

import pytest
from orchestrator.records import Pair
from tiny_run import HELD_OUT, Run, kill, wait_for

from orchestrator import jsonl, process

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("loop")
    # services of the other tests run under the same names
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ETO_STATE", str(folder / "state"))
        yield Run(folder, **HELD_OUT)
        for running in process.find_all():
            process.stop(running)


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
    assert eto.wait(600) == 0, run.log.read_text()

    run.check_complete()
    assert {stage: run.done()[stage] for stage in before} == before  # nothing finished was done again
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
    eto = run.start()
    assert eto.wait(60) == 0
    assert run.done() == before
    assert process.find_all() == []
    report = json.loads((run.folder / "report.json").read_text())
    assert [p["policy"] for p in report["policies"]] == ["base", "sft", "eto-1"]
    assert (run.folder / "report.html").stat().st_mtime > 0


def test_the_best_policy_is_chosen_by_tasks_that_were_neither_trained_on_nor_evaluated(run: Run) -> None:
    report = json.loads((run.folder / "report.json").read_text())
    assert [(row["policy"], row["n"], row["checkpoint"]) for row in report["dev"]] == [
        ("sft", 2, "stages/sft/checkpoint"),
        ("eto-1", 2, "stages/dpo-1/checkpoint"),
    ]
    assert sum(row["best"] for row in report["dev"]) == 1
    tasks = {stage: {e.task_id for e in run.episodes(stage)} for stage in ("experts", "explore-1", "dev-sft", "evaluate-sft")}
    assert tasks["explore-1"] <= tasks["experts"]
    assert not tasks["dev-sft"] & (tasks["experts"] | tasks["explore-1"] | tasks["evaluate-sft"])


def test_another_run_goes_on_from_its_pairs_with_dpo_settings_of_its_own(run: Run) -> None:
    training = {"batch_size": 4, "micro_batch_size": 4, "max_length": 1024, "precision": "fp32"}
    arm = Run(run.config.parent, "arm", **HELD_OUT, dpo={**training, "epochs": 1, "learning_rate": 1e-3})
    eto = arm.start("--from", "loop:pairs-1")
    assert eto.wait(600) == 0, arm.log.read_text()
    arm.check_complete()
    records = {stage: json.loads(text) for stage, text in arm.done().items()}
    taken = {stage for stage, record in records.items() if record.get("taken_from")}
    assert taken == {"experts", "init", "evaluate-base", "sft", "evaluate-sft", "dev-sft", "explore-1", "pairs-1"}
    assert all(records[stage]["outputs"] == json.loads(run.done()[stage])["outputs"] for stage in taken)
    versions = {r.folder.name: json.loads(r.done()["dpo-1"])["summary"]["version"] for r in (run, arm)}
    assert versions["arm"] != versions["loop"]
    assert {e.model.version for e in arm.episodes("evaluate-eto-1")} == {versions["arm"]}
    report = json.loads((arm.folder / "report.json").read_text())
    assert report["run"]["begun_from"] == "loop:pairs-1"
    assert process.find_all() == []


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
