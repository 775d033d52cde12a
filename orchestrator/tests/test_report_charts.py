"""The drawing: ticks a person would choose, labels that do not collide, gaps that stay gaps."""

import re
from itertools import pairwise

import pytest
from orchestrator.report.charts import Bar, Line, bar_chart, line_chart, nice_ticks, share_bar, spread, tick_text
from orchestrator.report.html import duration, few_steps


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-0.13, 0.42, [-0.2, 0, 0.2, 0.4, 0.6]),
        (1, 30, [0, 10, 20, 30]),
        (0, 1234, [0, 250, 500, 750, 1000, 1250]),
    ],
)
def test_ticks_are_round_numbers_around_the_values(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize("value", [0.0, 5.0, -3.2])
def test_ticks_of_a_single_value_still_span_something(value):
    ticks = nice_ticks(value, value)
    assert ticks[0] < value < ticks[-1] or ticks[0] <= value < ticks[-1]


@pytest.mark.parametrize(
    ("value", "step", "text"),
    [(0.25, 0.25, "0.25"), (0.2, 0.1, "0.2"), (-0.1, 0.1, "\N{MINUS SIGN}0.1"), (1250, 250, "1,250"), (2.5, 2.5, "2.5"), (0, 0.1, "0")],
)
def test_tick_texts_have_the_decimals_of_their_step(value, step, text):
    assert tick_text(value, step) == text


def test_labels_are_moved_apart_and_stay_inside():
    moved = spread([200, 198, 40, 201], 13, 20, 205)
    ordered = sorted(moved)
    assert all(b - a >= 13 - 1e-9 for a, b in pairwise(ordered))
    assert ordered[-1] <= 205
    assert moved[2] == 40


def test_a_gap_in_a_line_is_not_drawn_over_and_a_lone_point_is_a_dot():
    chart = line_chart("x", "t", "d", [Line("loss", [1, 2, 3, 4, 5], [1.0, 2.0, None, 3.0, None], 1)], "step", "nats")
    path = re.search(r'<path d="([^"]*)"', chart).group(1)
    assert path.count("M") == 2
    assert chart.count("<circle") == 1


def test_a_chart_without_a_number_is_no_chart():
    assert line_chart("x", "t", "d", [Line("loss", [1], [None], 1)], "step", "nats") is None


def test_a_chart_of_one_point_is_drawn():
    assert "<circle" in line_chart("x", "t", "d", [Line("loss", [1], [0.5], 1)], "step", "nats")


def test_titles_and_labels_are_escaped_in_charts():
    hostile = "<script>&"
    bar = Bar(hostile, hostile, 0.5, 0.4, 0.6, 1, hostile)
    for chart in (
        bar_chart("x", hostile, hostile, [bar], hostile),
        line_chart("x", hostile, hostile, [Line(hostile, [1, 2], [1, 2], 1)] * 2, hostile, hostile),
        share_bar("x", hostile, [(hostile, 3, "win")]),
    ):
        assert "<script>" not in chart
        assert "&lt;script&gt;&amp;" in chart


def test_a_long_policy_name_leaves_room_for_the_chart():
    name = "a-model-with-a-very-long-name-indeed-" * 5
    chart = line_chart("x", "t", "d", [Line(name, [1, 2], [1, 2], 1)] * 2, "step", "nats")
    xs = [float(x) for x in re.findall(r"[ML]([\d.]+) ", re.search(r'<path d="([^"]*)"', chart).group(1))]
    assert xs[1] - xs[0] > 100
    assert name not in bar_chart("x", "t", "d", [Bar(name, "n = 9", 0.2, 0.1, 0.3, 1, "0.2")], "score")


def test_a_negative_difference_is_drawn_left_of_zero():
    chart = bar_chart("x", "t", "d", [Bar("a", "n = 9", -0.2, -0.3, -0.1, 1, "")], "difference")
    x, width = map(float, re.search(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', chart).groups())
    axis = float(re.search(r'<line x1="([\d.]+)"[^>]*class="axis"', chart).group(1))
    assert x + width == pytest.approx(axis, abs=0.2)


def test_thousands_of_points_are_thinned_and_keep_the_last():
    chart = line_chart("x", "t", "d", [Line("loss", range(5000), [1.0] * 4999 + [2.0], 1)], "step", "nats")
    assert len(chart) < 12_000
    assert len(few_steps(4999)) <= 14
    assert few_steps(4999)[-1] == 4999


@pytest.mark.parametrize(("seconds", "text"), [(4.2, "4.2 s"), (185, "3 min 05 s"), (7620, "2 h 07 min"), (None, "\N{EN DASH}")])
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text
