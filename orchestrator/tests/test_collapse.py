"""Invalid actions as the sign of a broken policy."""

from builders import played
from hypothesis import given
from hypothesis import strategies as st
from orchestrator.collapse import invalid_share, verdict
from orchestrator.config import RunConfig
from orchestrator.config_training import CollapseSection
from orchestrator.pipeline import plan
from orchestrator.records import Episode

SHARES = st.floats(0, 1)


def with_valid(valid: list[bool]) -> Episode:
    episode = played(["go"] * len(valid), 0.0)
    return episode.model_copy(update={"steps": [s.model_copy(update={"valid": v}) for s, v in zip(episode.steps, valid, strict=True)]})


@given(st.lists(st.lists(st.booleans(), max_size=9), max_size=5))
def test_the_share_is_over_all_turns_of_all_episodes(episodes: list[list[bool]]) -> None:
    turns = [v for e in episodes for v in e]
    expected = sum(not v for v in turns) / len(turns) if turns else 0.0
    assert invalid_share(with_valid(e) for e in episodes) == expected


@given(before=SHARES, now=SHARES, bound=st.floats(0.01, 1))
def test_a_run_stops_only_when_the_share_rose_by_more_than_the_bound(before: float, now: float, bound: float) -> None:
    assert (verdict(before, now, 8, bound) is not None) == (now - before > bound)


def test_the_sentence_names_both_shares_how_many_tasks_and_the_setting() -> None:
    found = verdict(0.18, 0.74, 8, 0.3)
    assert found == "invalid turns rose from 18% to 74% on 8 training tasks, by more than collapse.invalid_rise 0.3"


def test_the_default_bound_tells_the_policies_that_were_wrecked_from_the_others() -> None:
    """What the check found of the learning study's arms (docs/training.md): shares in exploration and after training."""
    wrecked = {"ALFWorld eto-rate": (0.146, 0.383), "ALFWorld uncut": (0.146, 0.309)}
    wrecked |= {"ScienceWorld eto-rate": (0.183, 0.540), "ScienceWorld uncut": (0.183, 0.433)}
    others = {"ALFWorld three-epochs": (0.146, 0.168), "ScienceWorld no-sft-term": (0.183, 0.211)}
    by_default = CollapseSection()
    stopped = [n for n, s in (wrecked | others).items() if verdict(*s, by_default.tasks, by_default.invalid_rise)]
    assert stopped == list(wrecked)


def test_no_task_means_no_check() -> None:
    common = {"name": "one", "train_tasks": {"split": "train"}, "evaluate": [{"split": "test"}]}
    for tasks, expected in ((8, ["check-1"]), (0, [])):
        stages = plan(RunConfig.model_validate({**common, "collapse": {"tasks": tasks}}))
        assert [s.name for s in stages if s.kind == "check"] == expected
