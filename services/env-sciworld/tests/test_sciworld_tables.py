"""The shipped table of tasks."""

import pytest
from env_sciworld.jvm import Jvm
from env_sciworld.scoring import best_score, is_success
from env_sciworld.tables import compact, expand, split_task_id, task_types
from env_sciworld.taskset import SciworldTasks
from hypothesis import given
from hypothesis import strategies as st

TASKS = SciworldTasks()


def test_the_splits_have_the_known_sizes():
    sizes = {split.name: len(TASKS.tasks(split.name)) for split in TASKS.splits()}
    assert sizes == {"train": 3592, "dev": 1796, "test": 1819, "eto-train": 1483, "eto-seen": 194, "eto-unseen": 211}


def test_eto_plays_24_task_types_with_limits_of_10_to_120_steps():
    eto = [t for t in task_types().values() if t.splits["eto-train"]]
    assert len(eto) == 24
    assert {t.max_steps for t in eto} == {10, 12, 15, 20, 30, 60, 80, 100, 120}
    assert task_types()["task-1-boil"].max_steps == 100
    assert task_types()["task-6-lifespan-(longest-lived-then-shortest-lived)"].max_steps == 12


def test_a_split_is_in_order_and_has_no_task_twice():
    for split in TASKS.splits():
        ids = [split_task_id(task.task_id) for task in TASKS.tasks(split.name)]
        assert ids == sorted(set(ids))


def test_each_task_of_each_split_is_found_by_its_id():
    for split in TASKS.splits():
        for task in TASKS.tasks(split.name):
            assert TASKS.find(task.task_id) == task


@pytest.mark.parametrize(
    "task_id",
    [
        *("", "task-1-boil", "task-1-boil:", "task-1-boil:30", "task-1-boil:9999", "task-1-boil:-1", "task-1-boil:01", "boil:1"),
        *("task-1-boil:1:1", "task-1-boil:\u0661", "task-1-boil: 1", "task-1-boil:1\n", "task-1-boil:99999999999999999999"),
    ],
)
def test_what_is_no_task_is_refused_with_a_reason(task_id):
    with pytest.raises(KeyError) as refused:
        TASKS.find(task_id)
    assert " " in refused.value.args[0]


@given(st.sets(st.integers(0, 2000)))
def test_compact_ranges_expand_to_the_same_numbers(numbers):
    assert expand(compact(sorted(numbers))) == tuple(sorted(numbers))


@given(st.lists(st.floats(-1, 1.01, allow_nan=False), min_size=1))
def test_the_score_never_falls_and_stays_in_0_to_1(raws):
    score = 0.0
    for raw in raws:
        before, score = score, best_score(score, raw)
        assert 0 <= before <= score <= 1
    assert is_success(score) == any(round(100 * raw) >= 100 for raw in raws)


@pytest.mark.slow
def test_the_table_is_what_the_live_simulator_says():
    jvm = Jvm(heap_mb=192)
    simulator = jvm.simulator
    try:
        assert {t.simulator_name for t in task_types().values()} == set(simulator.getTaskNames())
        for task_type in task_types().values():
            assert simulator.getTaskMaxVariations(task_type.simulator_name) == task_type.variations
            simulator.load(task_type.simulator_name, 0, "easy", False)
            for split, variations in (
                ("train", simulator.getVariationsTrain()),
                ("dev", simulator.getVariationsDev()),
                ("test", simulator.getVariationsTest()),
            ):
                assert task_type.splits[split] == tuple(sorted(variations)), (task_type.name, split)
    finally:
        jvm.close()
