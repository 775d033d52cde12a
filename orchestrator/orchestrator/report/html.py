"""The report as one self-contained page: no script, no network, every text of a model or an environment escaped."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined, Template
from markupsafe import Markup

from orchestrator.report.charts import MINUS, Bar, Line, bar_chart, line_chart, share_bar
from orchestrator.report.model import Curve, PairsRow, Report
from orchestrator.statistics import Interval, PairedDifference

#: Charts of a training stage: (title, y label, series with their labels, fixed axis).
_Panel = tuple[str, str, tuple[tuple[str, str], ...], tuple[float, float] | None]
_LOSS: _Panel = ("Loss", "nats per token", (("loss", "loss"),), None)
_DPO: tuple[_Panel, ...] = (
    ("DPO loss", "nats per pair", (("loss", "loss"),), None),
    ("Reward margin", f"chosen {MINUS} rejected, nats (times beta)", (("margin", "margin"),), None),
    ("Accuracy", "fraction of pairs with chosen above rejected", (("accuracy", "accuracy"),), (0.0, 1.0)),
    ("Log-probabilities", "nats per completion", (("logp_chosen", "chosen"), ("logp_rejected", "rejected")), None),
)
COLOURS = 6
DASH = "\N{EN DASH}"


def score(value: float) -> str:
    """A score, three decimals."""
    return f"{value:.3f}".replace("-", MINUS)


def signed(value: float) -> str:
    """A difference of scores with its sign."""
    return f"{value:+.3f}".replace("-", MINUS)


def interval(value: Interval | PairedDifference, text: Callable[[float], str] = score) -> str:
    """`[low, high]`; a dash where one value alone has no interval to show."""
    return f"[{text(value.low)}, {text(value.high)}]" if value.n > 1 else DASH


def percent(value: float) -> str:
    """A fraction as a percentage."""
    return f"{100 * value:.1f} %"


def duration(seconds: float | None) -> str:
    """Seconds for people: 4.2 s, 3 min 05 s, 2 h 07 min."""
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def p_value(p: float) -> str:
    """A p value; tiny ones only as a bound."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def plain(value: Any) -> str:
    """A value of a stage's summary, whatever it is, without braces and quotes."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {plain(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return " and ".join(plain(v) for v in value) or "none"
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", MINUS) if math.isfinite(value) else DASH
    return DASH if value is None else str(value)


def few_steps(last: int, most: int = 12) -> list[int]:
    """Up to about `most` indices from 0 to last, both included, evenly apart."""
    stride = max(1, -(-last // most))
    return sorted({*range(0, last + 1, stride), last})


def heat(value: float) -> str:
    """The heat map's class for a score of 0..1, in steps of a twentieth: a page without inline styles cannot be finer."""
    return f"v{round(20 * min(1.0, max(0.0, value)))}"


def css() -> str:
    """The style sheet of the report and of the live page."""
    return (resources.files("orchestrator.report") / "style.css").read_text(encoding="utf-8")


def environment(**packages: str) -> Environment:
    """Templates that escape what they are given: the report's under `report/`, those of other packages under the name given."""
    loaders = {name: PackageLoader(package, "") for name, package in {"report": "orchestrator.report", **packages}.items()}
    made = Environment(loader=PrefixLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {f.__name__: f for f in (score, signed, interval, percent, duration, p_value, plain, few_steps, heat)}
    made.globals |= {"signed": signed, "percent": percent}
    return made


@cache
def _template() -> Template:
    made = environment()
    made.globals["css"] = Markup(css())  # noqa: S704 - our own file
    return made.get_template("report/template.html.j2")


def render_html(report: Report) -> str:
    """The whole page."""
    return _template().render(parts(report))


def parts(report: Report) -> dict[str, Any]:
    """What the templates `lead` and `sections` draw."""
    return {
        "r": report,
        "colours": _colours(report),
        "splits": _splits(report),
        "training": training_charts(report.curves),
        "pair_bars": _pairs(report),
    }


def _colours(report: Report) -> dict[str, int]:
    """A policy keeps its colour throughout the page."""
    return {p: i % COLOURS for i, p in enumerate(dict.fromkeys(row.policy for row in report.policies))}


def _splits(report: Report) -> list[dict[str, Any]]:
    """What is drawn once a split: bars, differences, the heat map's rows, reward against steps."""
    colours = _colours(report)
    result = []
    for i, split in enumerate(dict.fromkeys(row.split for row in report.policies)):
        rows = [r for r in report.policies if r.split == split]
        differences = [d for d in report.differences if d.split == split]
        longest = max(len(r.best_score_by_step) for r in rows)
        lines = [Line(r.policy, range(longest), _held(r.best_score_by_step, longest), colours[r.policy]) for r in rows]
        result.append(
            {
                "name": split,
                "rows": rows,
                "policies": [r.policy for r in rows],
                "differences": differences,
                "types": [t for t in report.task_types if t.split == split],
                "longest": longest,
                "bars": bar_chart(
                    f"score-{i}",
                    f"Mean score per policy, {split}",
                    "; ".join(f"{r.policy} {score(r.score.mean)} {interval(r.score)}, n = {r.n}" for r in rows),
                    [
                        Bar(
                            r.policy,
                            f"n = {r.n}",
                            r.score.mean,
                            r.score.low,
                            r.score.high,
                            colours[r.policy],
                            score(r.score.mean),
                        )
                        for r in rows
                    ],
                    "mean score (0 to 1), 95 % interval",
                    (0.0, 1.0),
                ),
                "gains": _gains(i, split, report, colours) if differences else None,
                "by_step": line_chart(
                    f"steps-{i}",
                    f"Reward against steps, {split}",
                    "; ".join(f"{r.policy} reaches {score(r.best_score_by_step[-1])}" for r in rows),
                    lines,
                    "steps taken",
                    "mean best score so far (0 to 1)",
                    (0.0, max(max(r.best_score_by_step) for r in rows) or 1.0),
                ),
            }
        )
    return result


def _held(values: list[float], length: int) -> list[float]:
    """The values, the last one held: ended episodes keep their best."""
    return values + values[-1:] * (length - len(values))


def _gains(i: int, split: str, report: Report, colours: Mapping[str, int]) -> Markup:
    own = [d for d in report.differences if d.split == split]
    return bar_chart(
        f"gain-{i}",
        f"Paired difference to the policy before, {split}",
        "; ".join(f"{d.policy} minus {d.previous} {signed(d.paired.mean)} {interval(d.paired, signed)}, n = {d.paired.n}" for d in own),
        [
            Bar(
                f"{d.policy} {MINUS} {d.previous}",
                f"n = {d.paired.n}",
                d.paired.mean,
                d.paired.low,
                d.paired.high,
                colours[d.policy],
                signed(d.paired.mean),
            )
            for d in own
        ],
        "difference of mean score, 95 % interval",
    )


def training_charts(curves: Sequence[Curve], ident: str = "train") -> list[dict[str, Any]]:
    """Per training stage: its charts and a table of a few of its steps. `ident` begins the charts' ids."""
    result = []
    for i, curve in enumerate(curves):
        panels = _DPO if "logp_chosen" in curve.series or curve.method == "dpo" else (_LOSS,)
        charts = [(panel[0], chart) for j, panel in enumerate(panels) if (chart := _panel(f"{ident}-{i}-{j}", curve, panel)) is not None]
        columns = [k for panel in panels for k, _ in panel[2] if k in curve.series]
        columns += [k for k in ("learning_rate", "grad_norm", "tokens_per_s") if k in curve.series]
        table = [(curve.steps[k], [curve.series[c][k] for c in columns]) for k in few_steps(len(curve.steps) - 1)]
        result.append({"curve": curve, "charts": charts, "columns": columns, "table": table})
    return result


def _panel(ident: str, curve: Curve, panel: _Panel) -> Markup | None:
    title, unit, series, full = panel
    present = [(key, label) for key, label in series if key in curve.series]
    lines = [Line(label, curve.steps, curve.series[key], 1 + i) for i, (key, label) in enumerate(present)]
    ends = []
    for line in lines:
        known = [y for y in line.ys if y is not None]
        ends.append(f"{line.label} from {known[0]:.4g} to {known[-1]:.4g}" if known else f"{line.label} unknown")
    return line_chart(ident, f"{title}, {curve.stage}", "; ".join(ends), lines, "optimiser step", unit, full)


def _pairs(report: Report) -> list[tuple[PairsRow, Markup]]:
    return [
        (
            row,
            share_bar(
                f"pairs-{i}",
                f"Explored episodes against the expert, {row.stage}",
                [("win", row.win, "win"), ("tie", row.tie, "tie"), ("lose", row.lose, "lose")],
            ),
        )
        for i, row in enumerate(report.pairs)
    ]
