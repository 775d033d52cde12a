"""Charts as inline SVG. Colours are classes of style.css (`c0`..`c5`), so that light, dark and print each have their own.

Every chart carries a title and a description for screen readers; its numbers also stand in a table of the page.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from markupsafe import Markup

#: A chart is set in these units, and is drawn about as wide as a phone, so that it is legible there without zooming.
WIDTH = 380
MINUS = "\N{MINUS SIGN}"
CHARACTER = 6.1  # an upper estimate of a character's width at that size
MOST_POINTS = 300


@dataclass(frozen=True)
class Bar:
    """A value with its interval. `note` stands under the label (the number of episodes)."""

    label: str
    note: str
    value: float
    low: float
    high: float
    colour: int
    text: str


@dataclass(frozen=True)
class Line:
    """A series over x; None is a gap."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    colour: int


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) that cover low..high."""
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def tick_text(value: float, step: float) -> str:
    """A tick with as many decimals as its step needs; a real minus sign; thousands set apart."""
    decimals = next(d for d in range(13) if abs(step * 10**d - round(step * 10**d)) < 1e-6 * step * 10**d)
    return f"{value:,.{decimals}f}".replace("-", MINUS) if round(value, 9) != 0 else "0"


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The places moved apart to at least `gap`, in the same order, within low..high as far as there is room."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = [places[i] for i in order]
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    excess = moved[-1] - high if moved else 0.0
    if excess > 0:
        moved[-1] = high
        for i in range(len(moved) - 2, -1, -1):
            moved[i] = max(low, min(moved[i], moved[i + 1] - gap))
    result = [0.0] * len(places)
    for i, place in zip(order, moved, strict=True):
        result[i] = place
    return result


def short(label: str, most: int = 22) -> str:
    """A label that leaves room for the chart; tables have the whole name."""
    return label if len(label) <= most else label[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _text(x: float, y: float, text: str, css: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def _svg(ident: str, height: float, title: str, description: str, body: Sequence[str]) -> Markup:
    head = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-labelledby="{ident}-t {ident}-d">'
        f'<title id="{ident}-t">{escape(title)}</title><desc id="{ident}-d">{escape(description)}</desc>'
    )
    return Markup(head + "".join(body) + "</svg>")  # noqa: S704 - every text went through escape()


def bar_chart(
    ident: str, title: str, description: str, bars: Sequence[Bar], x_label: str, full: tuple[float, float] | None = None
) -> Markup:
    """Horizontal bars from zero with interval whiskers. `full` fixes the axis, where the unit has known ends."""
    low, high = full or (min(0.0, *(b.low for b in bars)), max(0.0, *(b.high for b in bars)))
    ticks = nice_ticks(low, high)
    left = min(160.0, 12 + CHARACTER * max(len(t) for b in bars for t in (short(b.label), b.note)))
    right = WIDTH - 14 - CHARACTER * max(len(b.text) for b in bars)
    row, top = 38, 8
    bottom = top + row * len(bars)

    def x(value: float) -> float:
        return left + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (right - left)

    body = [_line(x(t), top, x(t), bottom, "grid") for t in ticks]
    for i, bar in enumerate(bars):
        middle = top + row * i + row / 2
        start, end = sorted((x(0), x(bar.value)))
        body += [
            _text(left - 8, middle - 2, short(bar.label), "strong", "end"),
            _text(left - 8, middle + 11, bar.note, "soft", "end"),
            f'<rect x="{start:.1f}" y="{middle - 9:.1f}" width="{end - start:.1f}" height="18" class="bar c{bar.colour}"/>',
            _line(x(bar.low), middle, x(bar.high), middle, "whisker"),
            _line(x(bar.low), middle - 4, x(bar.low), middle + 4, "whisker"),
            _line(x(bar.high), middle - 4, x(bar.high), middle + 4, "whisker"),
            _text(WIDTH - 4, middle + 4, bar.text, "strong", "end"),
        ]
    body.append(_line(x(0), top, x(0), bottom, "axis"))
    step = ticks[1] - ticks[0]
    body += [_text(x(t), bottom + 15, tick_text(t, step), "soft", "middle") for t in ticks]
    body.append(_text((left + right) / 2, bottom + 32, x_label, "soft", "middle"))
    return _svg(ident, bottom + 40, title, description, body)


def _decimate(line: Line) -> list[tuple[float, float | None]]:
    points = list(zip(line.xs, line.ys, strict=True))
    stride = math.ceil(len(points) / MOST_POINTS)
    return points if stride <= 1 else [*points[:-1:stride], points[-1]]


def line_chart(
    ident: str,
    title: str,
    description: str,
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    full: tuple[float, float] | None = None,
) -> Markup | None:
    """Lines with axes and, where there are several, a label at each end. None without a single number."""
    values = [y for line in lines for y in line.ys if y is not None]
    if not values:
        return None
    xs = [x for line in lines for x in line.xs]
    y_ticks = nice_ticks(*(full or (min(values), max(values))))
    x_ticks = [t for t in nice_ticks(min(xs), max(xs)) if float(t).is_integer()]
    x_low, x_high = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 1, max(xs) + 1)
    x_ticks = [t for t in x_ticks if x_low <= t <= x_high]
    y_step = y_ticks[1] - y_ticks[0]
    top, bottom = 24.0, 210.0
    left = 12 + CHARACTER * max(len(tick_text(t, y_step)) for t in y_ticks)
    right = WIDTH - (16 + CHARACTER * max(len(short(line.label)) for line in lines) if len(lines) > 1 else 16.0)

    def x(value: float) -> float:
        return left + (value - x_low) / (x_high - x_low) * (right - left)

    def y(value: float) -> float:
        return bottom - (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - top)

    body = [_text(2, 12, y_label, "soft")]
    for t in y_ticks:
        body += [_line(left, y(t), right, y(t), "grid"), _text(left - 6, y(t) + 4, tick_text(t, y_step), "soft", "end")]
    body.append(_line(left, bottom, right, bottom, "axis"))
    x_step = x_ticks[1] - x_ticks[0] if len(x_ticks) > 1 else 1.0
    for t in x_ticks:
        body += [_line(x(t), bottom, x(t), bottom + 4, "axis"), _text(x(t), bottom + 17, tick_text(t, x_step), "soft", "middle")]
    body.append(_text((left + right) / 2, bottom + 33, x_label, "soft", "middle"))
    ends = []
    for line in lines:
        points = _decimate(line)
        body.append(_path([(x(a), None if b is None else y(b)) for a, b in points], line.colour))
        ends.append(next(y(b) for _, b in reversed(points) if b is not None) if any(b is not None for _, b in points) else top)
    if len(lines) > 1:
        for line, place in zip(lines, spread(ends, 13.0, top, bottom), strict=True):
            body.append(_text(right + 7, place + 4, short(line.label), f"label t{line.colour}"))
    return _svg(ident, bottom + 40, title, description, body)


def _path(points: Sequence[tuple[float, float | None]], colour: int) -> str:
    """A line through the points, broken at gaps; a point alone between gaps becomes a dot."""
    path, dots = "", ""
    gap: tuple[float, float | None] = (0.0, None)
    for before, (px, py), after in zip([gap, *points], points, [*points[1:], gap], strict=False):
        if py is None:
            continue
        if before[1] is None and after[1] is None:
            dots += f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2.5" class="dot c{colour}"/>'
        path += f"{'M' if before[1] is None else 'L'}{px:.1f} {py:.1f}"
    return f'<path d="{path}" class="line s{colour}"/>{dots}'


def share_bar(ident: str, title: str, parts: Sequence[tuple[str, int, str]]) -> Markup:
    """One bar cut in proportion to the parts: (label, count, css class)."""
    total = sum(n for _, n, _ in parts) or 1
    description = ", ".join(f"{label} {n}" for label, n, _ in parts)
    edges = [0.0]
    for _, n, _ in parts:
        edges.append(edges[-1] + n / total * WIDTH)
    body = []
    for (a, b), (label, n, css) in zip(pairwise(edges), parts, strict=True):
        body.append(f'<rect x="{a:.1f}" y="0" width="{max(0.0, b - a - 1.5):.1f}" height="22" class="{css}"/>')
        if b - a > CHARACTER * (len(label) + len(str(n)) + 3):
            body.append(_text((a + b) / 2, 15, f"{label} {n}", "onbar", "middle"))
    return _svg(ident, 22, title, description, body)
