"""A study's results as figures: what each arm scores on test and how far it is from the control; how training moved a pair's sides."""

import math
from html import escape
from typing import Any

ROW, TOP, LEFT, WIDTH, GAP = 30, 54, 170, 250, 50
HEIGHT, COLUMNS = 160, 3  # of the panels of draw_training
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#222}.t{font-weight:600}.n{fill:#666}line{stroke:#ddd}.zero{stroke:#888}"
    ".i{stroke:#1f5fa8;stroke-width:2}circle{fill:#1f5fa8}polyline{fill:none;stroke-width:1.5;stroke:#1f5fa8}.r{stroke:#b3423a}text.r{fill:#b3423a;stroke:none}text.c{fill:#1f5fa8}"
)


def draw(found: dict[str, Any]) -> str:
    """SVG with a row for each arm; intervals of 95 %."""
    arms = found["arms"]
    differences = [r["difference"] for r in arms if "difference" in r]
    reach = math.ceil(10 * max([0.1, *(abs(x) for d in differences for x in d)])) / 10  # so that its half is a round number too
    height, right = TOP + ROW * len(arms) + 30, LEFT + WIDTH + GAP
    body = [_text(LEFT, 18, f"{found['study']}: test tasks, 95 % intervals", "t"), _text(LEFT, 40, "mean score", "n")]
    body += [_text(right, 40, f"difference to {found['control']}", "n"), *_axis(LEFT, 0.0, 1.0, height, "{:.2f}")]
    body += _axis(right, -reach, reach, height, "{:+.2f}")
    for i, r in enumerate(arms):
        y = TOP + ROW * i + ROW / 2
        body += [_text(LEFT - 10, y + 4, f"{r['arm']} (n {r['episodes']})", anchor="end"), *_dot(LEFT, y, r["score"], 0.0, 1.0)]
        if "difference" in r:
            body += _dot(right, y, r["difference"], -reach, reach)
    title = f"{found['study']}: scores of the arms and their differences to {found['control']}"
    return _svg(right + WIDTH + 30, height, title, body)


def draw_training(found: dict[str, Any]) -> str:
    """SVG with a panel, of its own scale, for each arm that learns from pairs: what a step's sides have gained since the start."""
    curves = [(r["arm"], r["trained"][0]["curve"]) for r in found["arms"] if r["trained"] and "curve" in r["trained"][0]]
    seed = f", seed {found['seeds'][0]}" if found["seeds"] else ""
    body = [_text(20, 18, f"{found['study']}: log-probability gained in training, nats a side{seed}:", "t")]
    body += [_text(520, 18, "chosen", "c"), _text(575, 18, "rejected", "r")]
    for i, (arm, curve) in enumerate(curves):
        body += _panel(60 + i % COLUMNS * (WIDTH + GAP), TOP + i // COLUMNS * (HEIGHT + GAP), arm, curve)
    rows, columns = -(-len(curves) // COLUMNS), min(len(curves), COLUMNS)
    title = f"{found['study']}: how training moved the sides of pairs"
    return _svg(max(640, 60 + columns * (WIDTH + GAP)), TOP + rows * (HEIGHT + GAP), title, body)


def _panel(left: float, top: float, arm: str, curve: list[list[float]]) -> list[str]:
    """`curve`: step, what chosen and rejected have gained."""
    last, bottom = max(curve[-1][0], 2), top + HEIGHT
    low, high = (pick([0.0, *(value for point in curve for value in point[1:])]) for pick in (min, max))
    body = [_text(left + WIDTH / 2, top - 14, f"{arm}, {last:.0f} steps", anchor="middle")]

    def up(value: float) -> float:
        return bottom - (value - low) / ((high - low) or 1) * HEIGHT

    for value in (low, 0.0, high):
        body.append(_line(left, up(value), left + WIDTH, up(value), "zero" if value == 0 else ""))
        if value == 0 or abs(value) > (high - low) / 10:
            body.append(_text(left - 6, up(value) + 4, f"{value:.1f}", "n", "end"))
    for side, css in ((1, ""), (2, "r")):
        places = " ".join(f"{_at(left, point[0], 1, last):.1f},{up(point[side]):.1f}" for point in curve)
        body.append(f'<polyline class="{css}" points="{places}"/>')
    return body


def _svg(width: float, height: float, title: str, body: list[str]) -> str:
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"><title>{escape(title)}</title>'
    return f'{opening}<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(body)}</svg>\n'


def _text(x: float, y: float, text: str, css: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, css: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def _axis(left: float, low: float, high: float, height: float, form: str) -> list[str]:
    marks = [low + (high - low) * i / 4 for i in range(5)]
    lines = [_line(x, TOP, x, height - 28, "zero" if mark == 0 else "") for mark in marks for x in [_at(left, mark, low, high)]]
    return [*lines, *(_text(_at(left, mark, low, high), height - 12, form.format(mark), "n", "middle") for mark in marks)]


def _dot(left: float, y: float, interval: list[float], low: float, high: float) -> list[str]:
    mean, start, end = (_at(left, value, low, high) for value in interval)
    return [_line(start, y, end, y, "i"), f'<circle cx="{mean:.1f}" cy="{y:.1f}" r="4"/>']


def _at(left: float, value: float, low: float, high: float) -> float:
    return left + (value - low) / (high - low) * WIDTH
