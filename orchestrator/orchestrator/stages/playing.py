"""Stages that play: experts, evaluations, exploration, checks."""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

from orchestrator import best, collapse, rollout
from orchestrator.config import TaskSet
from orchestrator.episode import Assignment, Player
from orchestrator.experts import GoldPolicy
from orchestrator.policy_client import Sampling
from orchestrator.records import Episode
from orchestrator.run_store import run_id
from orchestrator.shards import Orders, Shards
from orchestrator.stages.choice import StageError, choose_tasks, spread
from orchestrator.stages.context import EPISODES, Context

#: Gold paths are found one by one; more episodes at a time would only wait.
EXPERTS_AT_A_TIME = 4


async def experts(ctx: Context) -> dict[str, Any]:
    """Replay the environment's gold path of every training task."""
    tasks, _ = await ctx.train_tasks()
    todo = [Assignment(t, ctx.config.train_tasks.split, seed=ctx.config.seed) for t in tasks]
    prompt = ctx.prompt()
    connect = partial(GoldPolicy, prompt=prompt)
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
        split, (_, tasks) = ctx.config.train_tasks.split, await ctx.train_tasks()
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
    tasks, _ = await ctx.train_tasks()
    if ctx.config.method != "self-play":
        solved = ctx.successful_experts()
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


async def _rollout(ctx: Context, stage: str, policy: str, model_stage: str, todo: dict[float, list[Assignment]]) -> dict[str, Any]:
    """Play a stage's episodes, given by their temperature."""
    version = await ctx.policy.serve(ctx.model_dir(model_stage))
    settings = ctx.config.rollout
    cast = partial(
        Player,
        policy=policy,
        version=version,
        prompt=ctx.prompt(),
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
