"""The stages of each method."""

import pytest
from orchestrator.config import ConfigError, RunConfig
from orchestrator.pipeline import plan, plan_until

COMMON = {"name": "one", "train_tasks": {"split": "train"}, "evaluate": [{"split": "test"}], "iterations": 2}
SCRATCH = {"hidden_size": 64, "heads": 2}


def stages(**settings: object) -> dict[str, tuple[str, ...]]:
    """Each stage's name and what it reads."""
    return {s.name: s.needs for s in plan(RunConfig.model_validate({**COMMON, **settings}))}


@pytest.mark.parametrize("method", ["eto", "step"])
def test_eto_clones_then_explores_pairs_and_contrasts(method: str) -> None:
    assert list(stages(method=method)) == [
        *("experts", "evaluate-base", "sft", "evaluate-sft"),
        *("explore-1", "pairs-1", "dpo-1", "check-1", f"evaluate-{method}-1"),
        *("explore-2", "pairs-2", "dpo-2", "check-2", f"evaluate-{method}-2"),
    ]


def test_rft_trains_the_base_model_anew_on_all_that_was_explored() -> None:
    found = stages(method="rft", model=SCRATCH)
    assert [n for n in found if "pairs" in n or "dpo" in n] == []
    assert found["rft-2"] == ("experts", "explore-1", "explore-2", "init")
    assert found["explore-2"] == ("experts", "rft-1")
    assert found["evaluate-rft-2"] == ("rft-2",)


def test_self_play_needs_no_expert_anywhere() -> None:
    found = stages(method="self-play", explore={"samples": 2, "temperature": 1.0})
    assert list(found)[:4] == ["evaluate-base", "explore-1", "pairs-1", "dpo-1"]
    assert not any("experts" in needs or "sft" in needs for needs in found.values())
    assert found["dpo-2"] == ("pairs-2", "dpo-1")


def test_more_sft_goes_on_from_the_policy_before_and_explores_nothing() -> None:
    found = stages(method="sft")
    assert list(found) == ["experts", "evaluate-base", "sft", "evaluate-sft", "sft-1", "evaluate-sft-1", "sft-2", "evaluate-sft-2"]
    assert found["sft-2"] == ("experts", "sft-1")


def test_evaluations_and_checks_can_be_left_out_and_nothing_else() -> None:
    skipped = {"evaluate-base", "check-1"}
    assert set(stages()) - set(stages(skip=sorted(skipped))) == skipped
    for name in ("dpo-1", "evaluate-eto-9"):
        with pytest.raises(ConfigError, match=f"{name} cannot be left out"):
            stages(skip=[name])


@pytest.mark.parametrize("method", ["eto", "step", "rft", "sft", "grpo"])
def test_a_model_that_is_an_sft_checkpoint_already_starts_without_sft(method: str) -> None:
    settings = {**(GRPO if method == "grpo" else {}), "method": method, "dev": {"held_out": 1}}
    found, whole = stages(skip=["sft"], **settings), stages(**settings)
    assert set(whole) - set(found) == {"sft", "evaluate-sft", "dev-sft"}
    assert set(found) - set(whole) == {"dev-base"}
    before: set[str] = set()
    for name, needs in found.items():
        assert set(needs) <= before
        before.add(name)


@pytest.mark.parametrize("settings", [{"model": SCRATCH}, {"method": "self-play", "explore": {"samples": 2, "temperature": 1.0}}])
def test_sft_is_not_left_out_where_nothing_would_be_known_or_where_there_is_none(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="sft cannot be left out"):
        stages(skip=["sft"], **settings)


def test_a_plan_ends_with_the_stage_that_is_named() -> None:
    config = RunConfig.model_validate(COMMON)
    assert [s.name for s in plan_until(config, "sft")] == ["experts", "evaluate-base", "sft"]
    assert len(plan_until(config, None)) == len(plan_until(config, "evaluate-eto-2")) == len(plan(config))
    with pytest.raises(ConfigError, match="no stage sft-9; its stages are experts, evaluate-base, sft, "):
        plan_until(config, "sft-9")


def test_dev_tasks_are_played_by_each_trained_policy_and_compared_with_those_before() -> None:
    found = stages(dev={"held_out": 1})
    assert [n for n in found if n.startswith("dev")] == ["dev-sft", "dev-eto-1", "dev-eto-2"]
    assert found["dev-eto-2"] == ("dpo-2", "dev-sft", "dev-eto-1")
    assert not any("evaluate" in need for needs in found.values() for need in needs)
    found = stages(method="self-play", explore={"samples": 2, "temperature": 1.0}, dev={"split": "dev"})
    assert found["dev-base"] == ()


@pytest.mark.parametrize("method", ["eto", "step", "rft", "sft"])
def test_every_stage_reads_only_what_stands_before_it(method: str) -> None:
    for model in ("some/model", SCRATCH):
        before: set[str] = set()
        for name, needs in stages(method=method, model=model, dev={"held_out": 1}).items():
            assert set(needs) <= before
            before.add(name)


GRPO = {"method": "grpo", "explore": {"samples": 4, "temperature": 1.0}}


def test_grpo_learns_from_what_it_explored_without_pairs_and_explores_anew() -> None:
    found = stages(**GRPO)
    assert list(found) == [
        *("experts", "evaluate-base", "sft", "evaluate-sft"),
        *("explore-1", "grpo-1", "check-1", "evaluate-grpo-1", "explore-2", "grpo-2", "check-2", "evaluate-grpo-2"),
    ]
    assert found["grpo-1"] == ("explore-1", "sft")
    assert found["explore-2"] == ("experts", "grpo-1")
    assert found["grpo-2"] == ("explore-2", "grpo-1")


@pytest.mark.parametrize(
    "change", [{"explore": {"samples": 1, "temperature": 1.0}}, {"explore": {"samples": 4}}, {"rollout": {"top_p": 0.9}}]
)
def test_grpo_needs_samples_drawn_by_the_models_own_probabilities(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="method grpo compares samples of a task"):
        stages(**{**GRPO, **change})
