"""ETO as a list of stages (paper, figure 2), each done once: kill the run anywhere, start it again, and it goes on."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from orchestrator import ray_cluster, services
from orchestrator.config import ConfigError, RunConfig, ScratchModel
from orchestrator.launchers import local
from orchestrator.placement import EnvPlacement, PolicyPlacement
from orchestrator.progress import Display
from orchestrator.run_store import RunStore, StageRecord, file_sha256, run_id
from orchestrator.stages import learning, playing
from orchestrator.stages.context import CHECKPOINT, EPISODES, PAIRS, Context

OUTPUTS = (EPISODES, PAIRS, f"{CHECKPOINT}/manifest.json")


@dataclass(frozen=True)
class Stage:
    """A step of the run: what it reads (`needs`, finished stages) and what it does."""

    name: str
    kind: str
    needs: tuple[str, ...]
    work: Callable[[Context], Awaitable[dict[str, Any]]]


#: Stages that no other reads, so that a run may go without them.
SKIPPABLE = frozenset({"evaluate", "check"})


def plan(config: RunConfig) -> list[Stage]:
    """The stages of a run, in order. Raises ConfigError for one in `skip` that there is not, or that others read."""
    steps = _whole_plan(config)
    leaves = [s.name for s in steps if s.kind in SKIPPABLE]
    if isinstance(config.model, str) and config.method != "self-play":
        leaves.append("sft")
    if wrong := [name for name in config.skip if name not in leaves]:
        raise ConfigError(f"skip: {', '.join(wrong)} cannot be left out; these can: {', '.join(leaves)}.")
    return [s for s in steps if s.name not in config.skip]


def _whole_plan(config: RunConfig) -> list[Stage]:
    scratch = isinstance(config.model, ScratchModel)
    base = "init" if scratch else "base"
    base_needs = ("init",) if scratch else ()
    taught = config.method != "self-play"  # self-play learns from no experts: it starts from the model as it is
    cloned = taught and "sft" not in config.skip  # the model may be an SFT checkpoint already
    steps = [Stage("experts", "experts", (), playing.experts)] if taught else []
    if scratch:
        steps.append(Stage("init", "init", ("experts",), learning.init_model))
    steps.append(Stage("evaluate-base", "evaluate", base_needs, partial(playing.evaluate, policy="base", model_stage=base)))
    if cloned:
        steps += [
            Stage("sft", "sft", ("experts", *base_needs), partial(learning.sft, stage="sft", model_stage=base)),
            Stage("evaluate-sft", "evaluate", ("sft",), partial(playing.evaluate, policy="sft", model_stage="sft")),
        ]
    experts = ("experts",) if taught else ()
    current = name = "sft" if cloned else "base"
    dev: tuple[str, ...] = ()
    if config.dev is not None:
        steps.append(_dev(name, current, dev))
        dev = (f"dev-{name}",)
    explored: tuple[str, ...] = ()
    for i in range(1, config.iterations + 1):
        explore, better = f"explore-{i}", f"{config.method}-{i}"
        if config.method != "sft":
            explored += (explore,)
            needs = (*experts, *_trained(current))
            play = partial(playing.explore, stage=explore, policy=name, model_stage=current)
            if config.method == "grpo":  # the same draws in every iteration would be the same mistakes
                play = partial(play, first=(i - 1) * config.explore.samples)
            steps.append(Stage(explore, "explore", needs, play))
        if config.method == "sft":
            steps.append(Stage(better, "sft", ("experts", *_trained(current)), partial(learning.sft, stage=better, model_stage=current)))
            current = better
        elif config.method == "rft":
            work = partial(learning.rft, stage=better, explore_stages=explored, model_stage=base)
            steps.append(Stage(better, "rft", ("experts", *explored, *base_needs), work))
            current = better
        else:
            before = current
            if config.method == "grpo":
                learn = partial(learning.grpo, stage=better, explore_stage=explore, model_stage=current)
                steps.append(Stage(better, "grpo", (explore, *_trained(current)), learn))
                current = better
            else:
                steps += _contrast(i, (*experts, explore), current)
                current = f"dpo-{i}"
            if config.collapse.tasks:
                work = partial(playing.check, stage=f"check-{i}", explore_stage=explore, policy=better, model_stage=current, good=before)
                steps.append(Stage(f"check-{i}", "check", (explore, current), work))
        steps.append(Stage(f"evaluate-{better}", "evaluate", (current,), partial(playing.evaluate, policy=better, model_stage=current)))
        if config.dev is not None:
            steps.append(_dev(better, current, dev))
            dev += (f"dev-{better}",)
        name = better
    return steps


def _trained(model_stage: str) -> tuple[str, ...]:
    """The stage that made a policy, if the run made it."""
    return () if model_stage == "base" else (model_stage,)


def _dev(policy: str, model_stage: str, before: tuple[str, ...]) -> Stage:
    stage = f"dev-{policy}"
    needs = (*_trained(model_stage), *before)
    return Stage(stage, "dev", needs, partial(playing.dev, stage=stage, policy=policy, model_stage=model_stage, before=before))


def _contrast(i: int, needs: tuple[str, ...], current: str) -> list[Stage]:
    pair, dpo = f"pairs-{i}", f"dpo-{i}"
    return [
        Stage(pair, "pairs", needs, partial(learning.make_pairs, stage=pair, explore_stage=f"explore-{i}")),
        Stage(dpo, "dpo", (pair, *_trained(current)), partial(learning.dpo, stage=dpo, iteration=i, pairs_stage=pair, model_stage=current)),
    ]


def plan_until(config: RunConfig, last: str | None) -> list[Stage]:
    """The plan up to a stage; all of it without one. Raises ConfigError for a stage that there is not."""
    steps = plan(config)
    names = [s.name for s in steps]
    if last is not None and last not in names:
        raise ConfigError(f"the run has no stage {last}; its stages are {', '.join(names)}.")
    return steps if last is None else steps[: names.index(last) + 1]


async def run(config: RunConfig, store: RunStore, display: Display, todo: list[Stage], keep_services: bool = False) -> bool:
    """Carry out what is not done yet of `todo`, the plan or its beginning; returns whether anything was.

    Services that the run started are stopped at its end.
    """
    if config.rollout.ray is not None or config.trainer.ray is not None:
        ray_cluster.load()
    if config.trainer.report_to and config.trainer.ray is None and config.trainer.docker is None:
        local.check_trackers(config.trainer.report_to)  # the first job may be hours away
    owner = f"run:{run_id(store)}"
    worked = False
    base: str | None = None
    env, policy = EnvPlacement(config.env, owner, config.rollout), PolicyPlacement(config.policy, owner, config.rollout, display.note)
    try:
        async with env.client, policy.client:
            for stage in todo:
                inputs = _inputs(store, stage)
                record = store.record(stage.name)
                if record is not None and record.inputs == inputs:
                    store.check_outputs(record)
                    display.skipped(stage.name, record.summary)
                    if _ended(record, display):
                        break
                    continue
                if record is not None:
                    display.note(f"{stage.name}: its inputs have changed; the old folder is now {store.set_aside(stage.name).name}")
                if _nothing_to_learn(store, stage):
                    display.note(
                        f"{stage.needs[0]} left nothing to learn from (nothing to contrast, such as ties only): the run ends here."
                    )
                    break
                await env.start()
                with display.stage(stage.name, stage.kind) as progress:
                    if base is None and isinstance(config.model, str) and stage.kind not in ("experts", "pairs"):
                        base = await services.prepare_model(config.model)
                    ctx = Context(config, store, env, policy, progress, base)
                    record = await _carry_out(stage, ctx, inputs)
                worked = True
                if _ended(record, display):
                    break
    finally:
        if not keep_services:
            env.stop()
            policy.stop()
    return worked


def _ended(record: StageRecord, display: Display) -> bool:
    """Whether a check found the policy broken, or the dev score says that more would not help; the run ends there, and says so."""
    if record.kind not in ("check", "dev") or "stopped" not in record.summary:
        return False
    if record.kind == "dev":
        display.note(f"{record.summary['stopped']}: the run ends here; the best policy is {record.summary['best']}.")
        return True
    good = record.summary["good"]
    display.note(
        f"{record.summary['policy']} has collapsed: {record.summary['stopped']}. The run ends here; the last good checkpoint is {good}."
    )
    return True


async def _carry_out(stage: Stage, ctx: Context, inputs: dict[str, str]) -> StageRecord:
    folder = ctx.store.stage_dir(stage.name)
    folder.mkdir(parents=True, exist_ok=True)
    started, clock = datetime.now(UTC), time.monotonic()
    summary = await stage.work(ctx)
    outputs = {name: file_sha256(folder / name) for name in OUTPUTS if (folder / name).exists()}
    record = StageRecord(
        stage=stage.name,
        kind=stage.kind,
        started_at=started.isoformat(timespec="seconds"),
        duration_s=round(time.monotonic() - clock, 1),
        inputs=inputs,
        outputs=outputs,
        summary=summary,
    )
    ctx.store.write_record(record)
    ctx.progress.finish(summary)
    return record


def _inputs(store: RunStore, stage: Stage) -> dict[str, str]:
    """The files that a stage reads, by name, as the stages before left them."""
    records = [r for name in stage.needs if (r := store.record(name)) is not None]
    return {f"{r.stage}/{name}": sha for r in records for name, sha in r.outputs.items()}


def _nothing_to_learn(store: RunStore, stage: Stage) -> bool:
    record = store.record(stage.needs[0]) if stage.kind in ("dpo", "grpo") else None
    return record is not None and 0 in (record.summary.get("pairs"), record.summary.get("mixed"))
