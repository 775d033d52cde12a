"""Studies take hours, so what they ask for is checked before anybody begins one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from orchestrator.config import RunConfig
from orchestrator.pipeline import plan

STUDIES = Path(__file__).parents[1] / "benchmarks" / "study"


class RanOn(BaseException):
    """In place of the run that would have come next."""


@pytest.mark.parametrize("name", sorted(f.stem for f in STUDIES.glob("*.yaml") if not f.stem.endswith("-prompt")))
def test_every_arm_of_a_study_is_a_run_that_goes_on_from_a_stage_of_the_base_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(STUDIES))
    from study import Study, merged

    study = Study(name, tmp_path)

    def stages(settings: dict[str, object], tasks: str) -> list[str]:
        config = RunConfig.model_validate({**merged(study.plan["base"], settings), "name": name, "evaluate": study.plan[tasks]})
        return [stage.name for stage in plan(config)]

    base = stages({}, "dev")
    assert study.plan["until"] in base
    assert study.plan["control"] in study.arms
    for arm in study.arms.values():
        for choice in arm.get("choose", [{}]):
            own = stages(merged(arm["config"], choice), "test")
            shared = base[: base.index(arm["from"]) + 1]
            assert own[: len(shared)] == shared
            assert len(own) > len(shared)
    assert not {s["split"] for s in study.plan["dev"]} & {
        study.plan["base"]["train_tasks"]["split"],
        *(s["split"] for s in study.plan["test"]),
    }


def test_seeds_that_were_played_on_different_machines_are_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STUDIES))
    from count import markdown
    from outcomes import Outcome
    from study import Study, summary

    study = Study("alfworld", tmp_path / "runs", tmp_path)

    def played(won: int) -> dict[str, Outcome]:
        return {f"valid_seen/{i}": Outcome("valid_seen", float(i < won), i < won, 10, 1, 2) for i in range(20)}

    for seed in (0, 2):
        study.kept(seed).add("sft", played(8 - seed), {"trained": {}})
        study.kept(seed).add("sft-more", played(10), {"trained": {"moved": [1.0, -1.0]}})

    assert study.kept(0).arms["sft"] == played(8)
    found = summary(study, [0, 1, 2])
    sft, more = found["arms"]
    assert found["seeds"] == [0, 2]
    assert (sft["arm"], sft["episodes"], sft["success"][0], sft["steps"], sft["invalid"]) == ("sft", 40, 14 / 40, 10, 0.1)
    # whole tasks are drawn: two seeds on the same 20 tasks say less than 40 tasks would
    assert sft["success"][2] - sft["success"][1] > 0.35
    assert sft["difference"][0] == pytest.approx(-0.15)
    assert sft["by_seed"] == pytest.approx([-0.1, -0.2])
    assert (more["arm"], more["trained"]) == ("sft-more", [{"moved": [1.0, -1.0]}] * 2)
    assert "| sft-more | 0.500" in markdown(found)
    assert summary(study, [0, 1, 2], against="sft")["arms"][1]["difference"][0] == pytest.approx(0.15)


def test_the_page_shows_what_is_kept_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STUDIES))
    from outcomes import Outcome
    from study import Study, publish

    (tmp_path / "results").mkdir()
    study = Study("alfworld", tmp_path / "runs", tmp_path / "results")
    for arm, seeds in (("sft", (0, 1)), ("rft", (1,))):
        for seed in seeds:
            study.kept(seed).add(arm, {f"x/{i}": Outcome("x", float(i < 5), i < 5, 10, 1, 2) for i in range(20)}, {"trained": {}})
    arms = "".join(f"\n| {arm} | an arm | ? | kept |" for arm in ("sft", "rft", "step"))
    blocks = {"success": f"| arm | what | alfworld | sciworld |\n|---|---|---|---|{arms}", "alfworld to sft": "old", "sciworld": "kept"}
    marked = "between".join(f"<!-- table: {name} -->\n\n{was}\n\n<!-- end -->" for name, was in blocks.items())
    page = tmp_path / "results.md"
    page.write_text(f"before\n\n{marked}after")
    publish(study, tmp_path / "results")
    publish(study, tmp_path / "results")  # nothing is added when it is written once more
    success, differences, other = page.read_text().split("between")
    assert success.startswith("before\n\n<!-- table: success -->\n\n| arm | what | alfworld, n = 2 x 20 | sciworld |\n")
    assert "| sft | an arm | 25.0 % [10.0 %, 45.0 %] | kept |" in success
    assert "%] (1 of 2 seeds) | kept |" in success
    assert "| step | an arm | not played | kept |" in success
    assert "old" not in differences
    assert "| rft | 0.250 [0.100, 0.450] | 25.0 % [11.2 %, 46.9 %] | +0.000 [+0.000, +0.000] |" in differences
    assert other == "<!-- table: sciworld -->\n\nkept\n\n<!-- end -->after"


@pytest.mark.parametrize("name", ["alfworld", "sciworld"])
def test_the_tables_of_the_docs_are_those_of_what_is_kept(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STUDIES))
    from page import laid_in
    from study import Study, summary

    study = Study(name, tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "results.md").read_text(encoding="utf-8")
    assert f"<!-- table: {name} -->" in page
    assert laid_in(page, name, lambda against: summary(study, study.plan["seeds"], against)) == page


def test_outcomes_of_other_tasks_or_of_another_seed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STUDIES))
    from outcomes import Kept, Outcome

    kept = Kept(tmp_path / "x-s0.jsonl", "x", 0)
    kept.add("a", {"t": Outcome(None, 1.0, True, 3, 0, 0)}, {})
    with pytest.raises(SystemExit, match="other tasks"):
        kept.add("b", {"u": Outcome(None, 1.0, True, 3, 0, 0)}, {})
    with pytest.raises(SystemExit, match="seed 1 of x"):
        Kept(tmp_path / "x-s0.jsonl", "x", 1)


def test_what_was_to_be_chosen_with_the_first_seed_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STUDIES))
    from study import Study

    study = Study("sciworld", tmp_path / "runs", tmp_path)
    with pytest.raises(SystemExit, match="play that seed first"):
        study.chosen("step")
    kept = study.kept(0)
    kept.dev["step"] = [0.2, 0.3]
    kept.write()
    assert study.chosen("step") == study.arms["step"]["choose"][1]


def test_a_seed_is_not_played_again_and_other_settings_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STUDIES))
    from outcomes import Outcome
    from study import Study

    study = Study("alfworld", tmp_path / "runs", tmp_path)
    for arm in study.arms:
        study.kept(1).add(arm, {"t": Outcome(None, 1.0, True, 3, 0, 0)}, {"config": study.tested_config(arm, 1)})
    study.carry_out([1], study.arms)
    study.carry_out([0], [])
    assert not study.runs.exists()
    study.arms["eto-paper"]["config"] = {"dpo": {"learning_rate": 2.0e-6}}
    with pytest.raises(SystemExit, match=r"eto-paper in .* other settings"):
        study.carry_out([1], study.arms)


def test_arms_of_a_seed_that_would_start_from_different_sft_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STUDIES))
    from outcomes import Outcome
    from study import Study

    study = Study("alfworld", tmp_path / "runs", tmp_path)
    config = study.tested_config("sft", 0)
    study.kept(0).add("sft", {"t": Outcome(None, 1.0, True, 3, 0, 0)}, {"config": config, "base": "base-s0-lost"})
    base_run(study.runs, success=30)  # another machine's
    with pytest.raises(SystemExit, match="started from base-s0-lost"):
        study.carry_out([0], study.arms)


def base_run(runs: Path, success: int) -> None:
    """A base run of seed 0 as far as its SFT was played on 100 dev tasks."""
    stage = runs / "base-s0" / "stages" / "evaluate-sft"
    stage.mkdir(parents=True)
    (stage / "done.json").write_text(json.dumps({"summary": {"episodes": 100, "success": success}}))
    (runs / "base-s0" / "manifest.json").write_text('{"run_id": "base-s0-new"}')
    (runs / "base-s0" / "report.json").write_text("{}")


@pytest.mark.parametrize(("won", "ends"), [(29, SystemExit), (30, RanOn)])
def test_no_arm_is_played_from_a_start_that_has_little_to_lose(
    won: int, ends: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(STUDIES))
    import study as studies

    def ran_on(command: list[str]) -> None:
        raise RanOn(" ".join(command))

    monkeypatch.setattr(studies, "_carried_out", ran_on)
    study = studies.Study("alfworld", tmp_path / "runs", tmp_path)
    base_run(study.runs, won)
    with pytest.raises(ends, match="29 of 100 dev tasks" if ends is SystemExit else "base-s0.* --until explore-1"):
        study.carry_out([0], study.arms)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_study_that_is_stopped_lets_its_run_clean_up_before_the_services(tmp_path: Path, sent: signal.Signals) -> None:
    eto, said, begun = tmp_path / "eto", tmp_path / "said", tmp_path / "begun"
    eto.write_text(
        f"""#!/bin/sh
[ "$1" = run ] || {{ echo "$*" >> {said}; exit; }}
trap 'sleep 0.5; echo run stopped >> {said}; exit 130' INT TERM
touch {begun}
for i in $(seq 600); do sleep 0.1; done  # to be stopped long before
"""
    )
    eto.chmod(0o755)
    program = f"""
import pathlib, signal, sys, study
signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts tests may ignore it
study.ETO, study.Study.kept = {str(eto)!r}, lambda self, seed: study.Kept(pathlib.Path({str(tmp_path)!r}, "none"), self.name, seed)
sys.argv = ["study", "alfworld", "--runs", {str(tmp_path / "runs")!r}]
study.main()
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=STUDIES, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while not begun.exists() and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(sent)
        assert process.communicate(timeout=60)[1] == "stopped. Start the study again to go on.\n"
        assert process.returncode == 1
    assert said.read_text() == "run stopped\nservices down\n"


def test_tasks_that_share_a_world_count_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STUDIES))
    from count import totals, world_of
    from outcomes import Outcome

    world = world_of({"find": 30})
    assert [world(t) for t in ("find-animal:29", "find-plant:0", "find-plant:30", "boil:3")] == [
        ("find", 0),
        ("find", 0),
        ("find", 1),
        "boil:3",
    ]
    tasks = [(0, f"find-{kind}:{n}") for kind in ("animal", "plant") for n in range(30)] + [(0, "boil:1"), (0, "boil:2")]

    def played(*, boils: bool, finds: bool) -> dict[tuple[int, str], Outcome]:
        return {key: Outcome(None, float(won), won, 3, 0, 0) for key in tasks for won in [boils if "boil" in key[1] else finds]}

    alone, shared = (totals(played(boils=False, finds=True), played(boils=True, finds=False), w) for w in (world_of({}), world))
    assert (alone["worlds"], shared["worlds"]) == (62, 3)
    assert alone["wins_ties_losses"] == shared["wins_ties_losses"] == [60, 0, 2]
    assert alone["p"] < 1e-9
    assert shared["p"] == pytest.approx(1, abs=1e-3)  # whatever the signs, the difference is 58 at least
    assert shared["success"][1] == 0  # a draw of worlds can miss the only one that was won
    assert alone["success"][1] > 0.85


def test_the_p_of_worlds_is_the_same_in_every_process() -> None:
    program = """
import random
from count import totals, world_of
from outcomes import Outcome
draw = random.Random(1)
sides = [{(0, f"find-{k}:{n}"): Outcome(None, draw.random(), True, 3, 0, 0) for k in "ab" for n in range(40)} for _ in range(2)]
print(totals(*sides, world_of({"find": 2}))["p"])
"""
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=STUDIES,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in "123"
    }
    assert len(said) == 1
    assert 0.01 < float(said.pop()) < 0.99
