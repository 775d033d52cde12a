"""Studies take hours, so what they ask for is checked before anybody begins one."""

from pathlib import Path

import pytest
from orchestrator.config import RunConfig
from orchestrator.pipeline import plan

STUDIES = Path(__file__).parents[1] / "benchmarks" / "study"


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
