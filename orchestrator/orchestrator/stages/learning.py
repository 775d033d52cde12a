"""Stages that make training data of episodes, and training jobs of data."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from orchestrator import jsonl, pairs, selection, versions
from orchestrator.config_training import JobSection, SourceSection
from orchestrator.launchers import again, docker, local, ray
from orchestrator.mixture import ConversationLine, Line, PairLine, mixed_lines
from orchestrator.prompts import Prompt
from orchestrator.records import Episode
from orchestrator.stages.choice import StageError
from orchestrator.stages.context import CHECKPOINT, PAIRS, Context
from orchestrator.stages.playing import mixed


async def make_pairs(ctx: Context, stage: str, explore_stage: str) -> dict[str, Any]:
    """Pair the explored episodes, by the method's rule."""
    explored, cut = sorted(ctx.episodes(explore_stage), key=lambda e: e.key), ctx.config.pairs.cut
    if ctx.config.method == "self-play":
        made = pairs.make_self_play_pairs(explored, cut)
    else:
        rule = pairs.make_step_pair if ctx.config.method == "step" else pairs.make_pair
        made = pairs.make_pairs(explored, ctx.successful_experts(), partial(rule, cut=cut))
    jsonl.write_all(ctx.store.stage_dir(stage) / PAIRS, made.pairs)
    return made.summary()


async def init_model(ctx: Context) -> dict[str, Any]:
    """A fresh small model and its tokenizer."""
    scratch = ctx.config.model
    assert not isinstance(scratch, str)  # noqa: S101 - the stage exists only for scratch models
    data = _training_data(ctx, "init")
    return await _train(ctx, "init", {"method": "init", "data": str(data), "init": scratch.model_dump()})


async def sft(ctx: Context, stage: str, model_stage: str) -> dict[str, Any]:
    """Behavioural cloning of the experts."""
    data = _training_data(ctx, stage, mixture=ctx.config.sft.data)
    job = {"method": "sft", "model": ctx.model_dir(model_stage), "data": str(data), **train_settings(ctx.config.sft)}
    return await _train(ctx, stage, job)


async def rft(ctx: Context, stage: str, explore_stages: Sequence[str], model_stage: str) -> dict[str, Any]:
    """Behavioural cloning of the experts and of the agent's own successes so far, anew from the model before SFT."""
    explored = [e for name in explore_stages for e in sorted(ctx.episodes(name), key=lambda e: e.key)]
    chosen = selection.select_successes(explored, ctx.successful_experts())
    data = _training_data(ctx, stage, chosen.kept, ctx.config.sft.data)
    job = {"method": "sft", "model": ctx.model_dir(model_stage), "data": str(data), **train_settings(ctx.config.sft)}
    return {**await _train(ctx, stage, job), **chosen.summary()}


async def dpo(ctx: Context, stage: str, iteration: int, pairs_stage: str, model_stage: str) -> dict[str, Any]:
    """Learn from the pairs; the reference is the policy that explored."""
    section = ctx.config.dpo[min(iteration, len(ctx.config.dpo)) - 1]
    file = ctx.store.stage_dir(pairs_stage) / PAIRS
    if section.data is None:
        data = file.resolve()
    else:
        data = _write_data(ctx, stage, {"pairs": list(jsonl.read(file, PairLine))}, section.data, PairLine)
    job = {"method": "dpo", "model": ctx.model_dir(model_stage), "data": str(data), **train_settings(section)}
    return await _train(ctx, stage, job)


async def grpo(ctx: Context, stage: str, explore_stage: str, model_stage: str) -> dict[str, Any]:
    """Learn from several samples of each task, as the policy was shown them: with the worked example, if it was."""
    prompt, file = ctx.prompt(), ctx.store.stage_dir(stage) / "data.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    explored = sorted(ctx.episodes(explore_stage), key=lambda e: e.key)
    jsonl.write_all(file, (as_shown(e, prompt) for e in explored))
    settings = train_settings(ctx.config.grpo, "grpo")
    job = {"method": "grpo", "model": ctx.model_dir(model_stage), "data": str(file.resolve()), **settings}
    return {**await _train(ctx, stage, job), "samples": len(explored), "mixed": mixed(explored)}


def as_shown(episode: Episode, prompt: Prompt) -> Episode:
    """An episode with the worked example among its messages, if the policy was shown it."""
    if episode.example is None:
        return episode
    added = {"messages": prompt.with_example(episode.messages), "prompt_messages": episode.prompt_messages + len(prompt.example)}
    return episode.model_copy(update=added)


#: Settings of a section that stand in a part of the job, and their names there.
LOSS_OPTIONS = {
    "beta": "beta",
    "loss_type": "type",
    "label_smoothing": "label_smoothing",
    "length_normalization": "length_normalization",
    "rpo_alpha": "rpo_alpha",
}
GRPO_OPTIONS = {n: n for n in ("loss_type", "beta", "epsilon", "epsilon_high", "importance_sampling_level", "scale_rewards")}


def train_settings(section: JobSection, part: Literal["loss", "grpo"] = "loss") -> dict[str, Any]:
    """The job's settings; those that are null are left to the trainer's defaults, ETO's. `part` holds those of the loss."""
    settings, names = section.model_dump(exclude_none=True, exclude={"data"}), LOSS_OPTIONS if part == "loss" else GRPO_OPTIONS
    loss = {names[name]: settings.pop(name) for name in list(settings) if name in names}
    return {**settings, **({part: loss} if loss else {})}


def _training_data(ctx: Context, stage: str, own: Sequence[Episode] = (), mixture: Sequence[SourceSection] | None = None) -> Path:
    """The conversations of successful experts and of chosen episodes of the agent, without trailing observations; or their mixture."""
    experts = sorted(ctx.successful_experts().values(), key=lambda e: e.key)
    made = {
        name: [ConversationLine(task_id=e.task_id, messages=pairs.end_on_assistant(e.messages)) for e in played]
        for name, played in (("experts", experts), ("own", own))
    }
    return _write_data(ctx, stage, made, mixture, ConversationLine)


def _write_data(ctx: Context, stage: str, made: dict[str, list[Line]], mixture: Sequence[SourceSection] | None, kind: type[Line]) -> Path:
    """The stage's data: all that was made, or as much of each source of the mixture as its weight says."""
    file = ctx.store.stage_dir(stage) / "data.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = (
        [line for made_here in made.values() for line in made_here]
        if mixture is None
        else mixed_lines(mixture, made, ctx.config.seed, kind)
    )
    jsonl.write_all(file, lines)
    return file.resolve()


async def _train(ctx: Context, stage: str, job: dict[str, Any]) -> dict[str, Any]:
    folder = ctx.store.stage_dir(stage)
    output = (folder / CHECKPOINT).resolve()
    job, trainer = {**job, "output": str(output), "seed": ctx.config.seed}, ctx.config.trainer
    if trainer.report_to and job["method"] != "init":
        job["report_to"] = trainer.report_to
    if trainer.ray is not None:
        await ray.run_job(job, folder, ctx.progress.job, trainer.ray, trainer.accelerate)
    else:
        run = (
            partial(docker.run_job, job, folder, ctx.progress.job, trainer.docker)
            if trainer.docker is not None
            else partial(local.run_job, job, folder, ctx.progress.job, trainer.accelerate)
        )
        await again.until_done(run, ctx.progress.job, trainer.retries)
    checkpoint = versions.read_checkpoint(output)
    if checkpoint is None:
        raise StageError(f"the {job['method']} job said it was done, but {output} has no manifest.")
    stopped = {"stopped": checkpoint.metrics["stopped"]} if "stopped" in checkpoint.metrics else {}
    return {"version": checkpoint.version, "metrics": checkpoint.metrics, **stopped}
