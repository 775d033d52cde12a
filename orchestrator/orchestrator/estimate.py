"""What `eto run --dry-run` tells: each stage's episodes, tokens and seconds, from what runs in the store took, else from rules of thumb."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from orchestrator.config import ConfigError, RunConfig, TaskSet
from orchestrator.config_file import load_config
from orchestrator.env_client import EnvClient
from orchestrator.http import Refused, Unavailable
from orchestrator.pipeline import Stage
from orchestrator.run_index import find_runs
from orchestrator.run_store import RunStore, RunStoreError, StageRecord
from orchestrator.stages.choice import StageError, choose_tasks
from orchestrator.stages.context import EPISODES
from orchestrator.take_over import TakeOver

#: Where no run has done the like. Turns of an episode, tokens of an answer, seconds of a gold path and of a service's start: about what
#: docs/performance.md's runs took. Tokens a second that a server answers and a trainer learns: those of SmolLM2-135M on two cores, more
#: for a smaller fresh model; on a GPU an order of magnitude and no more than that.
TURNS = {"sciworld": 12, "webshop": 6, "alfworld": 20}
TOKENS_OF_A_TURN, TOKENS_OF_A_PROMPT = 40, 1000
EXPERT_S, START_S = 0.25, 60.0
ANSWERED_PER_S = {"a CPU": 60.0, "a GPU": 2000.0}
LEARNT_PER_S = {"a CPU": 300.0, "a GPU": 10_000.0}
USUAL_WEIGHTS, MOST_ANSWERED_PER_S = 135e6, 500.0
EPOCHS = {"sft": 3.0, "rft": 3.0, "dpo": 3.0, "grpo": 1.0}  # the trainer's, where the configuration leaves them
NOT_COUNTED = "unknown: how many tasks the environment has. Start it (`eto services up`), or give types and per_type"
#: A file's first so many episodes tell what one costs.
SAMPLE = 200
PLAYED = ("explore", "check", "evaluate", "dev")


@dataclass(frozen=True)
class Estimate:
    """A stage to be. `state`: to do, done, or taken (from another run). None: not known. Tokens: `prompt` and `completion` of episodes,
    or `trained` (with their repetitions). `basis` says what the numbers come from."""

    name: str
    kind: str
    needs: tuple[str, ...]
    state: str
    episodes: int | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    seconds: float | None = None
    basis: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Past:
    """A run that may tell something."""

    store: RunStore
    config: RunConfig
    records: dict[str, StageRecord]

    @property
    def name(self) -> str:
        return self.store.path.name

    def of_kind(self, kind: str) -> list[StageRecord]:
        return [r for r in self.records.values() if r.kind == kind]


async def estimate(config: RunConfig, runs: Path, steps: Sequence[Stage], taken: TakeOver | None = None) -> list[Estimate]:
    """A line for each stage of a plan. Nothing is started; the environment is asked for its tasks if it answers at once."""
    own = RunStore(runs / config.name)
    done = _records(own)
    past = _known_runs(config, runs)
    counts = await _counts(config, past)
    lines: list[Estimate] = []
    for stage in steps:
        record = done.get(stage.name) or (next((r for r in taken.records if r.stage == stage.name), None) if taken else None)
        line = Estimate(stage.name, stage.kind, stage.needs, "to do")
        if record is not None:
            state, where = ("done", "this run") if stage.name in done else ("taken", taken.source.path.name if taken else "")
            episodes = record.summary.get("episodes")
            lines.append(replace(line, state=state, episodes=episodes, seconds=0.0, basis=where))
        elif stage.kind in (*PLAYED, "experts"):
            made = _episodes(line, config, past, counts)
            started = any(x.kind in PLAYED and x.state == "to do" for x in lines)
            if made.kind in PLAYED and made.basis.startswith("rule") and not started:
                basis = f"{made.basis}, {START_S:g} s to start the server"
                made = replace(made, seconds=(made.seconds or 0) + START_S, basis=basis)
            lines.append(made)
        elif stage.kind == "pairs":
            lines.append(replace(line, seconds=1.0, basis="rule of thumb: a second"))
        else:
            lines.append(_training(line, config, past, counts))
    return lines


def total(lines: Iterable[Estimate]) -> dict[str, Any]:
    """Sums over what is to do; `unknown` names stages whose episodes or time are not known."""
    todo = [x for x in lines if x.state == "to do"]
    tokens = {kind: sum(x.tokens.get(kind, 0) for x in todo) for kind in ("prompt", "completion", "trained")}
    unknown = [x.name for x in todo if x.seconds is None]
    return {
        "episodes": sum(x.episodes or 0 for x in todo),
        "tokens": tokens,
        "seconds": sum(x.seconds or 0 for x in todo),
        "unknown": unknown,
    }


def _episodes(line: Estimate, config: RunConfig, past: list[_Past], counts: Mapping[str, int | None]) -> Estimate:
    number = counts[line.kind]
    if number is None:
        return replace(line, basis=NOT_COUNTED)
    for run in past:
        kinds = ("dev", "evaluate") if line.kind == "dev" else (line.kind,)
        records = [r for kind in kinds for r in run.of_kind(kind) if r.summary.get("episodes")]
        if line.kind != "experts" and run.config.model != config.model:
            continue
        record = next((r for r in records if r.stage == line.name), records[-1] if records else None)
        if record is None:
            continue
        prompt, completion = _tokens(run.store, record)
        share = number / int(record.summary["episodes"])
        tokens = {"prompt": round(prompt * number), "completion": round(completion * number)} if completion else {}
        # experts, like others, were played beside each other: time goes with their number
        return replace(line, episodes=number, tokens=tokens, seconds=record.duration_s * share, basis=f"{run.name}:{record.stage}")
    if line.kind == "experts":
        return replace(line, episodes=number, seconds=EXPERT_S * number, basis=f"rule of thumb: {EXPERT_S} s a gold path")
    device, turns = _device(config), TURNS[config.env.name]
    answers = number * turns * TOKENS_OF_A_TURN
    speed = min(ANSWERED_PER_S[device] * _smaller(config), max(MOST_ANSWERED_PER_S, ANSWERED_PER_S[device]))
    rule = f"rule of thumb: {turns} turns an episode, {TOKENS_OF_A_TURN} tokens a turn, {speed:.0f} tokens/s on {device}"
    tokens = {"prompt": number * turns * TOKENS_OF_A_PROMPT, "completion": answers}
    return replace(line, episodes=number, tokens=tokens, seconds=answers / speed, basis=rule)


def _training(line: Estimate, config: RunConfig, past: list[_Past], counts: Mapping[str, int | None]) -> Estimate:
    examples = counts["experts" if line.kind in ("init", "sft", "rft") else "explore"]
    if line.kind == "init":
        return replace(line, seconds=10.0, basis="rule of thumb: 10 s")
    if examples is None:
        return replace(line, basis=NOT_COUNTED)
    epochs = _epochs(config, line)
    for run in past:
        if run.config.model != config.model:
            continue
        for record in run.of_kind(line.kind):
            metrics = record.summary.get("metrics") or {}
            trained, seen = metrics.get("tokens"), metrics.get("examples")
            if not trained or not seen:
                continue
            # the run's own tokens hold its passes
            share = examples * epochs / (seen * _epochs(run.config, replace(line, name=record.stage)))
            basis = f"{run.name}:{record.stage}"
            return replace(line, tokens={"trained": round(trained * share)}, seconds=record.duration_s * share, basis=basis)
    device, turns = _device(config), TURNS[config.env.name]
    sides = 2 if line.kind == "dpo" else 1
    trained = round(examples * epochs * sides * (TOKENS_OF_A_PROMPT / 2 + turns * TOKENS_OF_A_TURN))
    speed = LEARNT_PER_S[device] * _smaller(config)
    rule = f"rule of thumb: {trained / examples / epochs:.0f} tokens an example of {line.kind}, {speed:.0f} tokens/s on {device}"
    return replace(line, tokens={"trained": trained}, seconds=trained / speed, basis=rule)


def _epochs(config: RunConfig, line: Estimate) -> float:
    if line.kind == "dpo":
        epochs = config.dpo[min(int(line.name.rpartition("-")[2]), len(config.dpo)) - 1].epochs
    else:
        epochs = (config.grpo if line.kind == "grpo" else config.sft).epochs
    return epochs or EPOCHS[line.kind]


def _smaller(config: RunConfig) -> float:
    """How much smaller than the usual model a fresh one is; 1 for a named one, whose size is not known here."""
    m = config.model
    return 1.0 if isinstance(m, str) else max(1.0, USUAL_WEIGHTS / (m.hidden_size * (2 * m.vocab_size + 12 * m.hidden_size * m.layers)))


def _device(config: RunConfig) -> str:
    gpu = config.policy.device == "cuda" or (config.policy.device == "auto" and shutil.which("nvidia-smi") is not None)
    return "a GPU" if gpu else "a CPU"


def _known_runs(config: RunConfig, runs: Path) -> list[_Past]:
    """Runs on this environment: this one first, then the newest."""
    found = []
    for folder in find_runs(runs):
        try:
            old = load_config(folder / "config.yaml")
        except ConfigError:
            continue
        if old.env.name == config.env.name and (records := _records(RunStore(folder))):
            found.append(_Past(RunStore(folder), old, records))
    newest = sorted(found, key=lambda p: max(r.started_at for r in p.records.values()), reverse=True)
    return sorted(newest, key=lambda p: p.name != config.name)


def _records(store: RunStore) -> dict[str, StageRecord]:
    found = {}
    for file in (store.path / "stages").glob("*/done.json"):
        if ".stale-" in file.parent.name:
            continue
        try:
            record = store.record(file.parent.name)
        except RunStoreError:
            continue
        if record is not None:
            found[record.stage] = record
    return found


async def _counts(config: RunConfig, past: list[_Past]) -> dict[str, int | None]:
    """How many episodes each kind of stage plays."""
    sets: list[TaskSet] = [config.train_tasks, *config.evaluate]
    dev = config.dev
    if dev is not None and dev.split is not None:
        sets.append(TaskSet(split=dev.split, types=dev.types, per_type=dev.per_type))
    known = [_count_from(s, past) for s in sets]
    if None in known:
        asked = await _ask(config, sets)
        known = [k if k is not None else a for k, a in zip(known, asked, strict=True)]
    train, sizes = known[0], known[1 : 1 + len(config.evaluate)]
    samples = [n * s.samples for n, s in zip(sizes, config.evaluate, strict=True) if n is not None]
    evaluated = sum(samples) if len(samples) == len(sizes) else None
    chosen_by = known[-1] if dev is not None and dev.split is not None else None
    if dev is not None and dev.held_out is not None and config.train_tasks.types and train is not None:
        chosen_by = dev.held_out * len(config.train_tasks.types)
        train -= chosen_by
    explored = None if train is None else min(train, config.explore.tasks or train) * config.explore.samples
    checked = None if train is None else min(train, config.collapse.tasks)
    return {"experts": train, "explore": explored, "check": checked, "evaluate": evaluated, "dev": chosen_by}


def _count_from(tasks: TaskSet, past: list[_Past]) -> int | None:
    """What a run on the very same set found, else what the set itself says."""
    for run in past:
        stages = run.of_kind("experts") if run.config.train_tasks == tasks else []
        stages += run.of_kind("evaluate") if run.config.evaluate == [tasks] else []
        if (found := next((r.summary.get("episodes") for r in stages), None)) is not None:
            return int(found)
    return len(tasks.types) * tasks.per_type if tasks.types and tasks.per_type else None


async def _ask(config: RunConfig, sets: list[TaskSet]) -> list[int | None]:
    async with EnvClient(config.env.addresses, config.env.name, patience_s=0.0, timeout_s=5.0) as env:
        try:
            return [len(await choose_tasks(env, s)) for s in sets]
        except (Unavailable, Refused, StageError, OSError):
            return [None] * len(sets)


def _tokens(store: RunStore, record: StageRecord) -> tuple[float, float]:
    """Mean prompt and completion tokens of an episode."""
    try:
        with open(store.stage_dir(record.stage) / EPISODES, encoding="utf-8") as file:
            usages = [json.loads(line).get("usage") or {} for line in islice(file, SAMPLE)]
    except (OSError, ValueError):
        return 0.0, 0.0
    number = max(len(usages), 1)
    return sum(u.get("prompt_tokens", 0) for u in usages) / number, sum(u.get("completion_tokens", 0) for u in usages) / number
