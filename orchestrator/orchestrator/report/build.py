"""From a run's files to its report: pure counting, no output."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from orchestrator import best
from orchestrator.records import Episode
from orchestrator.report.load import Run, Stage, load_run, mapping, number
from orchestrator.report.model import (
    Comparison,
    Curve,
    DevRow,
    Difference,
    PairsRow,
    PolicyRow,
    Provenance,
    Report,
    StageRow,
    Totals,
    TypeCell,
    TypeRow,
)
from orchestrator.report.trajectories import choose_evaluations, choose_pairs
from orchestrator.statistics import Interval, bootstrap_mean, paired_difference, wilson

#: Fields of a `step` event that describe the step, not the training's course.
_NOT_A_SERIES = frozenset({"step", "steps", "epoch", "elapsed_s"})


def build_report(run_dir: Path) -> Report:
    """Count a run. Raises FileNotFoundError without the directory, DataFileError where a data file is damaged."""
    run = load_run(run_dir)
    evaluations = [(s, split, eps) for s in run.stages if s.kind == "evaluate" for split, eps in _by_split(s.episodes)]
    return Report(
        run=_provenance(run),
        policies=[_policy_row(*evaluation) for evaluation in evaluations],
        dev=_dev_rows([s for s in run.stages if s.kind == "dev" and s.done and s.episodes]),
        differences=_differences(evaluations),
        task_types=_task_types(evaluations),
        curves=[c for s in run.stages if (c := training_curve(s.name, s.kind, s.progress)) is not None],
        pairs=[_pairs_row(s) for s in run.stages if s.kind == "pairs" and (s.done or s.pairs)],
        comparisons=_comparisons(run),
        stages=[_stage_row(s) for s in run.stages],
        totals=_totals(run),
        config=run.config,
        config_text=run.config_text,
        notes=[*run.notes, *_stopped(run), *_made_otherwise(run)],
    )


def _by_split(episodes: Iterable[Episode]) -> list[tuple[str, list[Episode]]]:
    splits: dict[str, list[Episode]] = {}
    for episode in episodes:
        splits.setdefault(episode.split or "unnamed", []).append(episode)
    return list(splits.items())


def _provenance(run: Run) -> Provenance:
    episodes = [e for s in run.stages for e in s.episodes]
    trained = [s.checkpoint for s in run.stages if s.checkpoint]
    bases = [c["base_model"] for c in trained if isinstance(c.get("base_model"), str)]
    env, model = run.config.get("env"), run.config.get("model")
    origin = mapping(run.manifest.get("from"))
    versions: dict[str, str] = {}
    for source in [*(e for s in run.stages for e in s.progress if e.get("event") == "start"), *trained]:
        versions |= {str(k): str(v) for k, v in mapping(source.get("versions")).items()}
    return Provenance(
        name=str(run.manifest.get("name") or run.directory.name),
        run_id=_text(run.manifest.get("run_id")),
        created_at=_text(run.manifest.get("created_at")),
        code_version=_text(run.manifest.get("code_version")),
        config_sha256=_text(run.manifest.get("config_sha256")),
        env=episodes[0].env if episodes else _text(mapping(env).get("name") or env),
        model=_model(model) or (bases[0] if bases else None),
        splits=sorted({e.split or "unnamed" for s in run.stages if s.kind == "evaluate" for e in s.episodes}),
        experts=sum(len(s.episodes) for s in run.stages if s.kind == "experts"),
        versions=dict(sorted(versions.items())),
        begun_from=":".join(str(origin[k]) for k in ("run", "stage")) if {"run", "stage"} <= origin.keys() else None,
    )


def _model(model: Any) -> str | None:
    """The name of the model that the run starts from; that of a fresh one is of its size, as in `eto runs list`."""
    if {"hidden_size", "layers"} <= mapping(model).keys():
        return f"scratch-{model['hidden_size']}x{model['layers']}"
    return _text(mapping(model).get("name") or mapping(model).get("path") or model)


def _stopped(run: Run) -> Iterable[str]:
    """Stages that a collapse ended early, and those that ended the run."""
    for stage in run.stages:
        if why := stage.summary.get("stopped"):
            yield f"{'the run ended with ' if stage.kind in ('check', 'dev') else ''}{stage.name}: {why}"


def _made_otherwise(run: Run) -> Iterable[str]:
    """Stages of another run that were made with settings which this run's configuration has otherwise."""
    for stage in run.stages:
        if settings := mapping(stage.origin.get("settings")):
            made = ", ".join(f"{key} {'not set' if value is None else value}" for key, value in settings.items())
            yield f"{stage.name} is run {stage.origin.get('run')}'s, made with {made}; the configuration below holds for the later stages"


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int | float) and value != "" else None


def _policy_row(stage: Stage, split: str, episodes: Sequence[Episode]) -> PolicyRow:
    steps = [s for e in episodes for s in e.steps]
    successes = sum(e.success for e in episodes)
    invalid = sum(not s.valid for s in steps)
    versions = {e.model.version for e in episodes}
    by_task = _by_task(episodes)
    samples = max(len(own) for own in by_task.values())
    # an unfinished evaluation may hold fewer of some task, whose best would be of fewer
    sampled = [own for own in by_task.values() if len(own) == samples] if samples > 1 else []
    return PolicyRow(
        stage=stage.name,
        policy=stage.policy,
        split=split,
        finished=bool(stage.done),
        model_version=versions.pop() if len(versions) == 1 else None,
        n=len(episodes),
        tasks=len({e.task_id for e in episodes}),
        score=bootstrap_mean([e.score for e in episodes], clusters=[e.task_id for e in episodes]),
        success=_success(episodes, samples),
        samples=samples,
        best_of=bootstrap_mean([max(e.score for e in own) for own in sampled]) if sampled else None,
        success_at=wilson(sum(any(e.success for e in own) for own in sampled), len(sampled)) if sampled else None,
        successes=successes,
        mean_steps=len(steps) / len(episodes),
        steps=len(steps),
        invalid_steps=invalid,
        invalid_rate=invalid / len(steps) if steps else 0.0,
        terminate_reasons=dict(sorted(Counter(e.terminate_reason.value for e in episodes).items())),
        prompt_tokens=sum(e.usage.prompt_tokens for e in episodes),
        completion_tokens=sum(e.usage.completion_tokens for e in episodes),
        best_score_by_step=best_score_by_step(episodes),
    )


def _by_task(episodes: Iterable[Episode]) -> dict[str, list[Episode]]:
    tasks: dict[str, list[Episode]] = {}
    for episode in episodes:
        tasks.setdefault(episode.task_id, []).append(episode)
    return tasks


def _success(episodes: Sequence[Episode], samples: int) -> Interval:
    """Samples of a task are not independent, which Wilson's interval takes them to be."""
    if samples > 1:
        return bootstrap_mean([float(e.success) for e in episodes], clusters=[e.task_id for e in episodes])
    return wilson(sum(e.success for e in episodes), len(episodes))


def _dev_rows(stages: Sequence[Stage]) -> list[DevRow]:
    if not stages:
        return []
    now = best.standing([(s.policy, fmean(e.score for e in s.episodes)) for s in stages])
    return [
        DevRow(
            policy=s.policy,
            split=", ".join(sorted({e.split or "unnamed" for e in s.episodes})),
            n=len(s.episodes),
            score=bootstrap_mean([e.score for e in s.episodes], clusters=[e.task_id for e in s.episodes]),
            success=wilson(sum(e.success for e in s.episodes), len(s.episodes)),
            best=s.policy == now.policy,
            checkpoint=_checkpoint(s),
        )
        for s in stages
    ]


def _checkpoint(stage: Stage) -> str | None:
    """The weights that a stage played with, within the run."""
    files = [str(name) for name in mapping(stage.done.get("inputs")) if str(name).endswith("/checkpoint/manifest.json")]
    return f"stages/{files[0].removesuffix('/manifest.json')}" if files else None


def best_score_by_step(episodes: Sequence[Episode]) -> list[float]:
    """Mean over the episodes of the best score after 0, 1, 2, ... steps; an ended episode keeps its best."""
    longest = max((len(e.steps) for e in episodes), default=0)
    sums = [0.0] * (longest + 1)
    for episode in episodes:
        best = 0.0
        for k in range(1, longest + 1):
            if k <= len(episode.steps):
                best = max(best, episode.steps[k - 1].score)
            sums[k] += best
    return [s / len(episodes) for s in sums]


def _differences(evaluations: Sequence[tuple[Stage, str, list[Episode]]]) -> list[Difference]:
    differences = []
    previous: dict[str, tuple[str, dict[tuple[str, int], float]]] = {}
    for stage, split, episodes in evaluations:
        scores = {e.key: e.score for e in episodes}
        if split in previous:
            before, old = previous[split]
            if scores.keys() & old.keys():
                paired = paired_difference(scores, old, cluster_of=lambda key: key[0])
                differences.append(Difference(policy=stage.policy, previous=before, split=split, paired=paired))
        previous[split] = (stage.policy, scores)
    return differences


def _task_types(evaluations: Sequence[tuple[Stage, str, list[Episode]]]) -> list[TypeRow]:
    rows: dict[tuple[str, str], TypeRow] = {}
    for stage, split, episodes in evaluations:
        for task_type in sorted({e.task_type for e in episodes}):
            own = [e for e in episodes if e.task_type == task_type]
            row = rows.setdefault((split, task_type), TypeRow(split=split, task_type=task_type, cells={}))
            row.cells[stage.policy] = TypeCell(n=len(own), score=fmean(e.score for e in own), success_rate=fmean(e.success for e in own))
    return [rows[k] for k in sorted(rows, key=lambda k: (k[0], _by_number(k[1])))]


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts task-2 before task-10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def training_curve(stage: str, kind: str, progress: Sequence[dict[str, Any]]) -> Curve | None:
    """A training stage's course, from the events of its progress file; None before the first step."""
    by_step: dict[int, dict[str, Any]] = {}
    for event in progress:
        at = number(event.get("step"))
        if event.get("event") == "step" and at is not None:
            by_step[int(at)] = event  # a resumed job repeats steps after its last checkpoint: the later one counts
    if not by_step:
        return None
    steps = sorted(by_step)
    present = {k for e in by_step.values() for k, v in e.items() if k not in _NOT_A_SERIES and isinstance(v, int | float)}
    start: dict[str, Any] = next((e for e in progress if e.get("event") == "start"), {})
    last = progress[-1]
    examples, total = number(start.get("examples")), number(by_step[steps[-1]].get("steps"))
    return Curve(
        stage=stage,
        method=str(start.get("method") or kind),
        steps=steps,
        series={k: [number(by_step[s].get(k)) for s in steps] for k in sorted(present)},
        examples=int(examples) if examples is not None else None,
        total_steps=int(total) if total is not None else None,
        elapsed_s=number(last.get("elapsed_s")),
        error=_text(last.get("message")) if last.get("event") == "error" else None,
    )


def _pairs_row(stage: Stage) -> PairsRow:
    counts = {k: int(number(stage.summary.get(k)) or 0) for k in ("win", "tie", "lose", "pairs")}
    if not stage.done:
        outcomes = Counter(p.outcome for p in stage.pairs)
        counts = {"win": outcomes["win"], "tie": 0, "lose": outcomes["lose"], "pairs": len(stage.pairs)}
    dropped = {str(k): int(number(v) or 0) for k, v in mapping(stage.summary.get("dropped")).items()}
    return PairsRow(stage=stage.name, dropped=dict(sorted(dropped.items())), **counts)


def _comparisons(run: Run) -> list[Comparison]:
    """The last policy against SFT (or, if it is SFT, the one before), then pairs of the first iteration that has some."""
    evaluated = [s for s in run.stages if s.kind == "evaluate" and s.episodes]
    chosen: list[Comparison] = []
    if len(evaluated) > 1:
        last = evaluated[-1]
        before = next((s for s in evaluated[:-1] if s.policy == "sft"), evaluated[-2])
        chosen += choose_evaluations(before.episodes, last.episodes)
    with_pairs = next((s for s in run.stages if s.pairs), None)
    return chosen + (choose_pairs(with_pairs.name, with_pairs.pairs) if with_pairs is not None else [])


def _stage_row(stage: Stage) -> StageRow:
    return StageRow(
        name=stage.name,
        kind=stage.kind,
        finished=bool(stage.done),
        started_at=_text(stage.done.get("started_at")),
        duration_s=number(stage.done.get("duration_s")),
        taken_from=_text(stage.origin.get("run")),
        episodes=len(stage.episodes),
        summary=stage.summary,
        inputs={str(k): str(v) for k, v in mapping(stage.done.get("inputs")).items()},
        outputs={str(k): str(v) for k, v in mapping(stage.done.get("outputs")).items()},
    )


def _totals(run: Run) -> Totals:
    own = [s for s in run.stages if not s.origin]
    played = [e for s in own if s.kind != "experts" for e in s.episodes]
    durations = {s.name: number(s.done.get("duration_s")) or 0.0 for s in own}
    return Totals(
        duration_s=sum(durations.values()),
        training_s=sum(durations[s.name] for s in own if s.kind in {"sft", "dpo", "rft", "grpo"}),
        episodes=len(played),
        steps=sum(len(e.steps) for e in played),
        prompt_tokens=sum(e.usage.prompt_tokens for e in played),
        completion_tokens=sum(e.usage.completion_tokens for e in played),
    )
