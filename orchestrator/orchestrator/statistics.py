"""How a result is counted: means, proportions, differences and their intervals. Pure, deterministic, plain Python."""

import math
import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

#: 97.5 % point of the normal distribution: what a two-sided 95 % interval reaches to.
Z95 = 1.959963984540054
#: Scores are sums of float deltas; a difference below this is rounding, not a win.
TIE = 1e-9


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval, in the unit of the values; `n` is the number of values."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """New minus old on the same tasks, in the unit of the values. `p` is the sign test's, of wins against losses."""

    mean: float
    low: float
    high: float
    n: int
    wins: int
    ties: int
    losses: int
    p: float


def _quantile(ordered: Sequence[float], q: float) -> float:
    """The q-quantile of sorted values, linear between neighbours (Hyndman and Fan's type 7)."""
    place = q * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def bootstrap_mean(values: Sequence[float], resamples: int = 2000, seed: int = 0, clusters: Sequence[Hashable] | None = None) -> Interval:
    """The mean of `values` with a 95 % percentile bootstrap interval (Efron 1979), in the unit of the values.

    Values of the same task are not independent: `clusters` names the task of each value, and whole tasks are drawn.
    A single value (or task) gives low = high = mean: there is nothing to resample, so read `n` before the interval.
    The same values in the same order and the same seed give the same interval. Raises ValueError without values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("asked for the mean of no values, which does not exist; leave such a row out")
    if clusters is not None and len(clusters) != n:
        raise ValueError(f"{n} values but {len(clusters)} clusters; name one cluster for each value")
    groups: dict[Hashable, list[float]] = {}
    for cluster, value in zip(clusters if clusters is not None else range(n), values, strict=True):
        groups.setdefault(cluster, []).append(value)
    sums = [math.fsum(g) for g in groups.values()]
    sizes = [len(g) for g in groups.values()]
    mean = math.fsum(sums) / n
    if len(groups) == 1:
        return Interval(mean, mean, mean, n)
    rng = random.Random(seed)  # noqa: S311 - resampling, not a secret
    if len(set(sizes)) == 1:
        means = [sum(rng.choices(sums, k=len(sums))) / n for _ in range(resamples)]
    else:
        means = []
        for _ in range(resamples):
            drawn = rng.choices(range(len(sums)), k=len(sums))
            means.append(sum(map(sums.__getitem__, drawn)) / sum(map(sizes.__getitem__, drawn)))
    means.sort()
    return Interval(mean, _quantile(means, 0.025), _quantile(means, 0.975), n)


def wilson(successes: int, n: int) -> Interval:
    """A proportion (0..1) with its 95 % score interval (Wilson 1927), which holds for small n and near 0 and 1.

    Raises ValueError without trials or with impossible counts.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"asked for {successes} successes in {n} trials, which cannot be; count the trials first")
    p = successes / n
    spread = 1 + Z95**2 / n
    centre = (p + Z95**2 / (2 * n)) / spread
    half = Z95 / spread * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(p, low, high, n)


def sign_test(wins: int, losses: int) -> float:
    """The exact two-sided p value that wins and losses are equally likely (binomial; Dixon and Mood 1946).

    Ties are left out; without wins and losses it is 1.
    """
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / (1 << n))


def paired_difference(
    new: Mapping[Key, float],
    old: Mapping[Key, float],
    resamples: int = 2000,
    seed: int = 0,
    cluster_of: Callable[[Key], Hashable] | None = None,
) -> PairedDifference:
    """New minus old over the keys that both have, with a 95 % bootstrap interval of the mean difference.

    Pairing takes the difficulty of the tasks out of the comparison, so the interval is narrower than that of two
    separate means. `cluster_of` gives the task of a key, where a task has several.
    Raises ValueError without a common key.
    """
    keys = sorted(new.keys() & old.keys(), key=repr)
    if not keys:
        raise ValueError("asked to compare two policies that share no task; evaluate both on the same split")
    differences = [new[k] - old[k] for k in keys]
    clusters = [cluster_of(k) for k in keys] if cluster_of is not None else None
    interval = bootstrap_mean(differences, resamples, seed, clusters)
    wins = sum(d > TIE for d in differences)
    losses = sum(d < -TIE for d in differences)
    return PairedDifference(
        interval.mean,
        interval.low,
        interval.high,
        interval.n,
        wins,
        len(keys) - wins - losses,
        losses,
        sign_test(wins, losses),
    )
