"""What each stage of a run does. A stage reads finished stages' files, writes its own folder and returns a summary."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from orchestrator import best, collapse, jsonl, pairs, rollout, selection, versions
from orchestrator.config import RunConfig, TaskSet
from orchestrator.config_training import JobSection, SourceSection
from orchestrator.env_client import EnvClient, Task
from orchestrator.episode import Assignment, Player
from orchestrator.experts import GoldPolicy
from orchestrator.launchers import again, docker, local, ray
from orchestrator.mixture import ConversationLine, Line, PairLine, mixed_lines
from orchestrator.placement import EnvPlacement, PolicyPlacement
from orchestrator.policy_client import Sampling
from orchestrator.progress import StageProgress
from orchestrator.prompts import Prompt, load_prompt
from orchestrator.records import Episode
from orchestrator.run_store import RunStore, run_id
from orchestrator.shards import Orders, Shards

#: Gold paths are found one by one; more episodes at a time would only wait.
EXPERTS_AT_A_TIME = 4
Item = TypeVar("Item")
EPISODES, PAIRS, CHECKPOINT = "episodes.jsonl", "pairs.jsonl", "checkpoint"


class StageError(RuntimeError):
    """A stage cannot give what the next ones need; the message says why."""


@dataclass(frozen=True)
class Context:
    """What a stage works with."""

    config: RunConfig
    store: RunStore
    env: EnvPlacement
    policy: PolicyPlacement
    progress: StageProgress
    base_model: str | None = None  # None: the run makes its own

    def episodes(self, stage: str) -> list[Episode]:
        """A finished stage's episodes."""
        return list(jsonl.read(self.store.stage_dir(stage) / EPISODES, Episode))

    def model_dir(self, stage: str) -> str:
        """A finished training stage's checkpoint, or the model that the run starts from."""
        if stage == "base":
            assert self.base_model is not None  # noqa: S101 - a model of the run's own has a stage
            return self.base_model
        return str((self.store.stage_dir(stage) / CHECKPOINT).resolve())


async def choose_tasks(env: EnvClient, chosen: TaskSet) -> list[Task]:
    """The tasks of a set, in the split's order. Raises StageError for types the split does not have."""
    by_type: dict[str, list[Task]] = defaultdict(list)
    for task in await env.tasks(chosen.split):
        by_type[task.task_type].append(task)
    unknown = sorted(set(chosen.types or []) - set(by_type))
    if unknown:
        raise StageError(f"split {chosen.split} has no task type {', '.join(unknown)}; it has {', '.join(sorted(by_type))}.")
    return [t for name in chosen.types or sorted(by_type) for t in spread(by_type[name], chosen.per_type)]


def spread(items: Sequence[Item], limit: int | None) -> list[Item]:
    """At most `limit` of them, evenly spaced."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]


async def experts(ctx: Context) -> dict[str, Any]:
    """Replay the environment's gold path of every training task."""
    tasks, _ = await _train_tasks(ctx)
    todo = [Assignment(t, ctx.config.train_tasks.split, seed=ctx.config.seed) for t in tasks]
    prompt = _prompt(ctx)
    connect = partial(GoldPolicy, thoughts=prompt.thoughts)
    cast = partial(Player, policy="expert", version=None, sampling=_sampling(ctx), prompt=prompt)
    ctx.progress.total(len(todo), "episodes")
    played = await _play(ctx, "experts", todo, cast(connect(ctx.env.client)), EXPERTS_AT_A_TIME, Orders(cast, connect))
    good = [e for e in played if e.success]
    if not good:
        raise StageError(f"none of the {len(played)} gold paths succeeded: there is nothing to learn from.")
    return {"episodes": len(played), "successful": len(good), "turns": sum(len(e.steps) for e in good)}


async def evaluate(ctx: Context, policy: str, model_stage: str) -> dict[str, Any]:
    """Play the held-out tasks."""
    todo: dict[float, list[Assignment]] = defaultdict(list)
    for chosen in ctx.config.evaluate:
        temperature = ctx.config.rollout.temperature if chosen.temperature is None else chosen.temperature
        tasks = await choose_tasks(ctx.env.client, chosen)
        todo[temperature] += [Assignment(t, chosen.split, sample, ctx.config.seed) for t in tasks for sample in range(chosen.samples)]
    return await _rollout(ctx, f"evaluate-{policy}", policy, model_stage, todo)


async def dev(ctx: Context, stage: str, policy: str, model_stage: str, before: Sequence[str]) -> dict[str, Any]:
    """Play the tasks that choose the best policy; `stopped` stands in the summary if further iterations are not worth it."""
    section, temperature = ctx.config.dev, ctx.config.rollout.temperature
    assert section is not None  # noqa: S101 - else there is no such stage
    if section.split is None:
        split, (_, tasks) = ctx.config.train_tasks.split, await _train_tasks(ctx)
    else:
        split = section.split
        tasks = await choose_tasks(ctx.env.client, TaskSet(split=split, types=section.types, per_type=section.per_type))
    todo = [Assignment(task, split, seed=ctx.config.seed) for task in tasks]
    summary = await _rollout(ctx, stage, policy, model_stage, {temperature: todo})
    earlier = [r.summary for name in before if (r := ctx.store.record(name)) is not None]
    now = best.standing([(str(s["policy"]), float(s["mean_score"])) for s in (*earlier, summary)])
    stopped = best.verdict(now, ctx.config.early_stop.patience if ctx.config.early_stop is not None else None)
    return {**summary, "best": now.policy, "best_score": now.score, **({"stopped": stopped} if stopped else {})}


async def explore(ctx: Context, stage: str, policy: str, model_stage: str, first: int = 0) -> dict[str, Any]:
    """Play the training tasks that have a successful expert; without experts (self-play), all of them.

    `explore.tasks` takes a part of them, evenly spaced in the split's order (experts' episodes stand in the order in which they ended).

    Samples are counted from `first` on: their numbers are part of what the model's sampling is seeded with.
    """
    explore, chosen = ctx.config.explore, ctx.config.train_tasks
    tasks, _ = await _train_tasks(ctx)
    if ctx.config.method != "self-play":
        solved = {e.task_id for e in ctx.episodes("experts") if e.success}
        tasks = [t for t in tasks if t.task_id in solved]
    tasks = spread(tasks, explore.tasks)
    todo = [Assignment(task, chosen.split, sample, ctx.config.seed) for task in tasks for sample in range(first, first + explore.samples)]
    summary = await _rollout(ctx, stage, policy, model_stage, {explore.temperature: todo})
    return {**summary, **({"mixed": mixed(ctx.episodes(stage))} if ctx.config.method == "grpo" else {})}


def mixed(episodes: Sequence[Episode]) -> int:
    """How many tasks have samples that earned differently: the others teach a policy gradient nothing."""
    rewards: dict[str, set[float]] = defaultdict(set)
    for episode in episodes:
        rewards[episode.task_id].add(episode.reward)
    return sum(len(found) > 1 for found in rewards.values())


async def _train_tasks(ctx: Context) -> tuple[list[Task], list[Task]]:
    """The training tasks, and those of them that are held out for the choice of a policy."""
    tasks = await choose_tasks(ctx.env.client, ctx.config.train_tasks)
    return hold_out(tasks, ctx.config.dev.held_out or 0 if ctx.config.dev is not None else 0)


def hold_out(tasks: Sequence[Task], number: int) -> tuple[list[Task], list[Task]]:
    """Take `number` of each type away, evenly spread. Raises StageError where a type would have none left."""
    by_type: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        by_type[task.task_type].append(task)
    small = [f"{name} ({len(of_type)})" for name, of_type in by_type.items() if len(of_type) <= number]
    if small:
        raise StageError(
            f"dev.held_out {number} leaves nothing to train on of {', '.join(small)}; hold out fewer, or leave these types out."
        )
    out = {t.task_id for of_type in by_type.values() for t in spread(of_type, number)}
    return [t for t in tasks if t.task_id not in out], [t for t in tasks if t.task_id in out]


async def _rollout(ctx: Context, stage: str, policy: str, model_stage: str, todo: dict[float, list[Assignment]]) -> dict[str, Any]:
    """Play a stage's episodes, given by their temperature."""
    version = await ctx.policy.serve(ctx.model_dir(model_stage))
    settings = ctx.config.rollout
    cast = partial(
        Player,
        policy=policy,
        version=version,
        prompt=_prompt(ctx),
        show_example=settings.example,
        max_steps=settings.max_steps,
        deadline_s=settings.episode_deadline_s,
        drop_oldest=settings.on_overflow == "drop-oldest",
    )
    connect = ctx.policy.connect
    ctx.progress.total(sum(len(each) for each in todo.values()), "episodes")
    played: list[Episode] = []
    for temperature, assignments in todo.items():
        warm = partial(cast, sampling=_sampling(ctx, temperature))
        orders = Orders(warm, lambda env: connect(), ctx.policy.urls)
        played += await _play(ctx, stage, assignments, warm(ctx.policy.client), settings.concurrency, orders)
    return {
        "policy": policy,
        "model_version": version,
        "split": ", ".join(sorted({e.split or "" for e in played})),
        "episodes": len(played),
        "mean_score": sum(e.score for e in played) / len(played),
        "success": sum(e.success for e in played),
        **_again(played),
    }


def _again(played: Sequence[Episode]) -> dict[str, int]:
    """What had to be done again, where something had."""
    counts = {"retries": sum(e.retries for e in played), "restarts": sum(e.restarts for e in played)}
    return {name: count for name, count in counts.items() if count}


async def _play(ctx: Context, stage: str, todo: list[Assignment], player: Player, at_a_time: int, orders: Orders) -> list[Episode]:
    """Play as `player` in this process, or by `orders` on the Ray cluster of the configuration."""
    out, settings, name = ctx.store.stage_dir(stage) / EPISODES, ctx.config.rollout, run_id(ctx.store)
    play = partial(rollout.run, todo, ctx.env.client, player, out, run_id=name, finished=ctx.progress.episode)
    if settings.ray is None:
        return (await play(concurrency=at_a_time)).episodes
    at_a_time = max(at_a_time, settings.concurrency)  # experts too: each shard has a planner
    shards = Shards(ctx.config.env, settings, orders, name, at_a_time)
    async with ctx.policy.kept_up(), shards:
        return (await play(concurrency=at_a_time, elsewhere=shards.play)).episodes


def _sampling(ctx: Context, temperature: float = 0.0) -> Sampling:
    settings = ctx.config.rollout
    return Sampling(
        temperature=temperature,
        top_p=settings.top_p,
        max_tokens=settings.max_tokens,
        stop=settings.stop,
        record="ids" if ctx.config.method == "grpo" else settings.record_tokens,
    )


def _prompt(ctx: Context) -> Prompt:
    return load_prompt(ctx.config.env.name, ctx.config.env.prompt)


async def make_pairs(ctx: Context, stage: str, explore_stage: str) -> dict[str, Any]:
    """Pair the explored episodes, by the method's rule."""
    explored, cut = sorted(ctx.episodes(explore_stage), key=lambda e: e.key), ctx.config.pairs.cut
    if ctx.config.method == "self-play":
        made = pairs.make_self_play_pairs(explored, cut)
    else:
        rule = pairs.make_step_pair if ctx.config.method == "step" else pairs.make_pair
        made = pairs.make_pairs(explored, _successful_experts(ctx), partial(rule, cut=cut))
    jsonl.write_all(ctx.store.stage_dir(stage) / PAIRS, made.pairs)
    return made.summary()


def _successful_experts(ctx: Context) -> dict[str, Episode]:
    return {e.task_id: e for e in ctx.episodes("experts") if e.success}


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
    chosen = selection.select_successes(explored, _successful_experts(ctx))
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
    prompt, file = _prompt(ctx), ctx.store.stage_dir(stage) / "data.jsonl"
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


async def check(ctx: Context, stage: str, explore_stage: str, policy: str, model_stage: str, good: str) -> dict[str, Any]:
    """Play a few explored tasks again, as they were explored; `stopped` stands in the summary if invalid actions have risen too far."""
    explored = ctx.episodes(explore_stage)
    first = min((e.sample for e in explored), default=0)
    before = spread(sorted((e for e in explored if e.sample == first), key=lambda e: e.key), ctx.config.collapse.tasks)
    by_id = {t.task_id: t for t in await choose_tasks(ctx.env.client, ctx.config.train_tasks)}
    todo = [Assignment(by_id[e.task_id], ctx.config.train_tasks.split, e.sample, ctx.config.seed) for e in before]
    summary = await _rollout(ctx, stage, policy, model_stage, {ctx.config.explore.temperature: todo})
    was, now = collapse.invalid_share(before), collapse.invalid_share(ctx.episodes(stage))
    stopped = collapse.verdict(was, now, len(todo), ctx.config.collapse.invalid_rise)
    return {**summary, "invalid_before": was, "invalid": now, **({"stopped": stopped, "good": ctx.model_dir(good)} if stopped else {})}


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
    experts = sorted(_successful_experts(ctx).values(), key=lambda e: e.key)
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
