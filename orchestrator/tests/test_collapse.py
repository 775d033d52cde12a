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


def test_the_default_bound_stands_between_the_collapses_that_were_seen_and_the_arms_that_did_no_harm() -> None:
    """Shares of docs/results.md, seed 0, all test tasks: SFT, then the arm."""
    bound = CollapseSection().invalid_rise
    collapses = {"ALFWorld eto-rate": (0.210, 0.458), "ALFWorld uncut": (0.210, 0.464), "ScienceWorld eto-rate": (0.318, 0.607)}
    harmless = {"ALFWorld step": (0.210, 0.239), "ALFWorld eto-anchored": (0.210, 0.192), "ScienceWorld step": (0.318, 0.320)}
    assert [name for name, (before, now) in collapses.items() if verdict(before, now, 32, bound) is None] == []
    assert [name for name, (before, now) in harmless.items() if verdict(before, now, 32, bound)] == []


def test_no_task_means_no_check() -> None:
    common = {"name": "one", "train_tasks": {"split": "train"}, "evaluate": [{"split": "test"}]}
    for tasks, expected in ((8, ["check-1"]), (0, [])):
        stages = plan(RunConfig.model_validate({**common, "collapse": {"tasks": tasks}}))
        assert [s.name for s in stages if s.kind == "check"] == expected
