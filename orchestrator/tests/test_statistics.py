"""The statistics against published values and against what they promise."""

import random
import time

import pytest
from orchestrator.statistics import bootstrap_mean, paired_difference, sign_test, wilson


# Newcombe 1998 (Statistics in Medicine 17:857-872), table I, method 3: the score method without continuity correction
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(successes, n, low, high):
    interval = wilson(successes, n)
    assert interval.mean == successes / n
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


def test_wilson_of_all_successes_mirrors_that_of_none():
    assert wilson(20, 20).low == pytest.approx(1 - wilson(0, 20).high)
    assert wilson(20, 20).high == 1.0


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="cannot be"):
        wilson(successes, n)


def test_the_bootstrap_agrees_with_the_normal_interval_where_that_holds():
    rng = random.Random(1)
    values = [rng.gauss(0.5, 0.2) for _ in range(400)]
    interval = bootstrap_mean(values)
    assert interval.low < interval.mean < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.2 / 400**0.5, rel=0.15)


def test_the_bootstrap_covers_the_true_mean_about_as_often_as_it_says():
    rng = random.Random(2)
    trials = 200
    covered = 0
    for seed in range(trials):
        interval = bootstrap_mean([rng.random() for _ in range(40)], resamples=300, seed=seed)
        covered += interval.low <= 0.5 <= interval.high
    assert 0.88 <= covered / trials <= 0.99


def test_the_bootstrap_repeats_itself_for_a_seed_and_differs_for_another():
    values = [0.0, 0.1, 0.5, 1.0, 1.0, 0.3]
    assert bootstrap_mean(values) == bootstrap_mean(values)
    assert bootstrap_mean(values, seed=0) != bootstrap_mean(values, seed=1)


def test_one_value_is_its_own_interval_and_says_so_by_n():
    interval = bootstrap_mean([0.25])
    assert (interval.mean, interval.low, interval.high, interval.n) == (0.25, 0.25, 0.25, 1)


def test_the_mean_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no values"):
        bootstrap_mean([])


def test_samples_of_one_task_do_not_pass_for_independent_ones():
    rng = random.Random(3)
    task_scores = [rng.random() for _ in range(30)]
    values = [s for s in task_scores for _ in range(8)]
    tasks = [t for t in range(30) for _ in range(8)]
    naive, clustered = bootstrap_mean(values), bootstrap_mean(values, clusters=tasks)
    assert clustered.mean == pytest.approx(naive.mean)
    assert clustered.high - clustered.low == pytest.approx(8**0.5 * (naive.high - naive.low), rel=0.2)


def test_clusters_of_unequal_size_keep_the_plain_mean():
    interval = bootstrap_mean([0.0, 1.0, 1.0, 1.0], clusters=["a", "b", "b", "b"])
    assert interval.mean == 0.75
    assert 0.0 <= interval.low < interval.high <= 1.0


def test_clusters_must_match_the_values():
    with pytest.raises(ValueError, match="2 values but 1 clusters"):
        bootstrap_mean([0.0, 1.0], clusters=["a"])


def test_two_thousand_values_take_less_than_three_seconds():
    rng = random.Random(4)
    values = [rng.random() for _ in range(2000)]
    start = time.process_time()
    bootstrap_mean(values)
    assert time.process_time() - start < 3


@pytest.mark.parametrize(("wins", "losses", "p"), [(0, 0, 1.0), (5, 0, 0.0625), (9, 1, 22 / 1024), (1, 9, 22 / 1024), (5, 5, 1.0)])
def test_the_sign_test_is_the_exact_binomial(wins, losses, p):
    assert sign_test(wins, losses) == pytest.approx(p)


def test_the_sign_test_of_thousands_is_still_a_number():
    assert 0.0 <= sign_test(2500, 1500) < 1e-50


def test_a_paired_difference_uses_only_the_tasks_of_both():
    new = {("a", 0): 1.0, ("b", 0): 0.5, ("c", 0): 0.2, ("only new", 0): 0.0}
    old = {("a", 0): 0.0, ("b", 0): 0.5, ("c", 0): 0.4, ("only old", 0): 1.0}
    difference = paired_difference(new, old)
    assert difference.n == 3
    assert difference.mean == pytest.approx(0.8 / 3)
    assert (difference.wins, difference.ties, difference.losses) == (1, 1, 1)
    assert difference.p == 1.0
    assert difference.low <= difference.mean <= difference.high


def test_a_constant_gain_on_tasks_of_all_difficulties_is_certain():
    old = {t: t / 100 for t in range(90)}
    difference = paired_difference({t: s + 0.1 for t, s in old.items()}, old)
    assert difference.low == pytest.approx(0.1)
    assert difference.high == pytest.approx(0.1)
    assert difference.wins == 90


def test_rounding_of_summed_rewards_is_a_tie():
    difference = paired_difference({"a": 0.1 + 0.2}, {"a": 0.3})
    assert (difference.wins, difference.ties, difference.losses) == (0, 1, 0)


def test_the_order_of_episodes_does_not_change_a_paired_difference():
    new = {f"t{i}": i % 3 / 2 for i in range(20)}
    old = {f"t{i}": i % 5 / 4 for i in range(20)}
    assert paired_difference(new, old) == paired_difference(dict(reversed(new.items())), old)


def test_policies_without_a_common_task_cannot_be_compared():
    with pytest.raises(ValueError, match="share no task"):
        paired_difference({"a": 1.0}, {"b": 1.0})
