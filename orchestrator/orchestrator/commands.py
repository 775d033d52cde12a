"""What the single commands of `eto` do; each is one stage's work on files and URLs given by hand."""

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError
from rich import box
from rich.console import Console
from rich.table import Table

from orchestrator import chat_template, jsonl, pairs, process, services, versions
from orchestrator import estimate as estimates
from orchestrator import rollout as rollouts
from orchestrator.config import ConfigError, RolloutSection, RunConfig, TaskSet
from orchestrator.config_services import ENV_PORTS, EnvSection, PolicySection, server_urls
from orchestrator.config_training import TrainerSection
from orchestrator.env_client import EnvClient
from orchestrator.episode import Assignment, Player
from orchestrator.experts import GoldPolicy
from orchestrator.launchers import again, local
from orchestrator.pipeline import Stage
from orchestrator.policy_client import PolicyClient, Sampling
from orchestrator.progress import Display, terminal
from orchestrator.prompts import load_prompt
from orchestrator.records import Episode
from orchestrator.report.html import duration
from orchestrator.stages.choice import choose_tasks
from orchestrator.stages.playing import EXPERTS_AT_A_TIME
from orchestrator.take_over import TakeOver

#: Seconds that a single command waits for a service that does not answer.
PATIENCE_S = 10.0


def env_addresses(name: str, url: str | None) -> list[str]:
    """Where an environment's service, or its replicas, are asked. Raises ConfigError for an unknown one."""
    if name not in ENV_PORTS:
        raise ConfigError(f"--env {name} is unknown; known: {', '.join(ENV_PORTS)}.")
    try:
        return server_urls(url.split(",")) if url else EnvSection.model_validate({"name": name}).addresses
    except ValueError as error:
        raise ConfigError(f"--env-url: {error}") from error


async def experts(
    env_name: str, env_url: str | None, tasks: TaskSet, out: Path, seed: int, as_json: bool = False, prompt: Path | None = None
) -> None:
    """`eto experts`."""
    loaded = load_prompt(env_name, prompt)
    async with EnvClient(env_addresses(env_name, env_url), env_name, patience_s=PATIENCE_S) as env:
        player = Player(GoldPolicy(env, loaded), "expert", None, Sampling(), loaded)
        await _play(env, player, tasks, 1, out, EXPERTS_AT_A_TIME, seed, as_json)


def rollout_settings(urls: list[str], given: dict[str, Any]) -> tuple[list[str], RolloutSection]:
    """The URLs and settings of `eto rollout`. Raises ConfigError."""
    try:
        return server_urls(urls) if urls else PolicySection().addresses, RolloutSection.model_validate(given)
    except ValidationError as error:
        faults = [f"--{str(f['loc'][0]).replace('_', '-')}: {f['msg']}" for f in error.errors()]
        raise ConfigError("; ".join(faults)) from error
    except ValueError as error:
        raise ConfigError(f"--policy-url: {error}") from error


async def rollout(
    env_name: str,
    env_url: str | None,
    urls: list[str],
    model: str,
    policy: str,
    tasks: TaskSet,
    samples: int,
    settings: RolloutSection,
    out: Path,
    seed: int,
    as_json: bool = False,
    template: Path | None = None,
    prompt: Path | None = None,
) -> None:
    """`eto rollout`."""
    made = chat_template.load(template) if template is not None else None
    sampling = Sampling(
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_tokens=settings.max_tokens,
        stop=settings.stop,
        record=settings.record_tokens,
    )
    async with (
        EnvClient(env_addresses(env_name, env_url), env_name, patience_s=PATIENCE_S) as env,
        PolicyClient(urls, model, patience_s=PATIENCE_S, turn_timeout_s=settings.turn_timeout_s, template=made) as client,
    ):
        player = Player(
            client,
            policy,
            None,
            sampling,
            load_prompt(env_name, prompt),
            settings.example,
            max_steps=settings.max_steps,
            drop_oldest=settings.on_overflow == "drop-oldest",
        )
        await _play(env, player, tasks, samples, out, settings.concurrency, seed, as_json)


async def _play(
    env: EnvClient, player: Player, tasks: TaskSet, samples: int, out: Path, concurrency: int, seed: int, as_json: bool
) -> None:
    todo = [Assignment(task, tasks.split, sample, seed) for task in await choose_tasks(env, tasks) for sample in range(samples)]
    display = Display(Console(stderr=True) if as_json else None)
    with display.stage(out.name, "rollout") as progress:
        progress.total(len(todo), "episodes")
        run_id = f"eto-{out.resolve()}"
        played = await rollouts.run(todo, env, player, out, concurrency=concurrency, run_id=run_id, finished=progress.episode)
        scores = [e.score for e in played.episodes]
        summary = {"episodes": len(scores), "mean_score": sum(scores) / len(scores), "success": sum(e.success for e in played.episodes)}
        progress.finish(summary)
    if as_json:
        typer.echo(json.dumps({"out": str(out), **summary}))


PAIR_RULES = {"eto": pairs.make_pair, "step": pairs.make_step_pair}


def make_pairs(experts_file: Path | None, explored_file: Path, out: Path, method: str) -> dict[str, object]:
    """`eto pairs`; returns the counts."""
    explored = jsonl.read(explored_file, Episode)
    if method == "self-play":
        made = pairs.make_self_play_pairs(explored)
    elif method not in PAIR_RULES:
        raise ConfigError(f"--method {method} makes no pairs; known: {', '.join([*PAIR_RULES, 'self-play'])}.")
    elif experts_file is None:
        raise ConfigError(f"--method {method} pairs with experts: give --experts, or --method self-play to do without.")
    else:
        successful = {e.task_id: e for e in jsonl.read(experts_file, Episode) if e.success}
        made = pairs.make_pairs(explored, successful, PAIR_RULES[method])
    out.parent.mkdir(parents=True, exist_ok=True)
    jsonl.write_all(out, made.pairs)
    return made.summary()


#: Tokens that the server reads and writes, and those that the trainer learns from, with repetitions.
TOKENS = {"prompt": "Read", "completion": "Written", "trained": "Learnt"}


async def dry_run(config: RunConfig, runs: Path, steps: Sequence[Stage], taken: TakeOver | None, as_json: bool) -> None:
    """`eto run --dry-run`."""
    lines = await estimates.estimate(config, runs, steps, taken)
    if as_json:
        typer.echo(json.dumps([line.to_dict() for line in lines]))
        return
    table, rules = Table(box=box.SIMPLE_HEAD), dict[str, str]()
    for name in ("Stage", "Episodes", *TOKENS.values(), "Time", "Estimated from"):
        table.add_column(name, justify="left" if name in ("Stage", "Estimated from") else "right")
    for line in lines:
        kind, _, rule = line.basis.partition(": ")
        if rule:
            kind = rules.setdefault(line.basis, f"{kind} {len(rules) + 1}")
        todo = line.state == "to do"
        tokens = [f"{line.tokens[name] / 1000:,.0f} k" if name in line.tokens else "" for name in TOKENS]
        numbers = ["" if line.episodes is None else f"{line.episodes:,}", *tokens, duration(line.seconds) if todo else line.state]
        table.add_row(line.name, *numbers, kind)
    terminal().print(table)
    for rule, kind in rules.items():
        typer.echo(f"{kind}: {rule.partition(': ')[2]}")
    sums = estimates.total(lines)
    words = [f"{sums['tokens'][name] / 1000:,.0f} k tokens {what.lower()}" for name, what in TOKENS.items() if sums["tokens"][name]]
    unknown = f"; not known: {', '.join(sums['unknown'])}" if sums["unknown"] else ""
    facts = [f"{sums['episodes']:,} episodes", *words, duration(sums["seconds"])]
    typer.echo(f"to do: {', '.join(facts)}{unknown}")


async def train(job_file: Path, accelerate: Path | None, as_json: bool = False) -> None:
    """`eto train`."""
    try:
        job: dict[str, Any] = json.loads(job_file.read_text())
        output = Path(job["output"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{job_file} is no job file ({error}); see docs/formats.md, Training job.") from error
    display = Display(Console(stderr=True) if as_json else None)
    with display.stage(f"{job.get('method')} {output.name}", "train") as progress:
        folder = output.parent / f"{output.name}.job"
        run = partial(local.run_job, job, folder, progress.job, accelerate)
        await again.until_done(run, progress.job, TrainerSection.model_fields["retries"].default)
        progress.finish({"output": str(output)})
    if as_json and (checkpoint := versions.read_checkpoint(output)) is not None:
        typer.echo(json.dumps({"output": str(output), "version": checkpoint.version, "metrics": checkpoint.metrics}))


def _chosen(names: list[str] | None) -> list[process.Service]:
    known = services.catalogue()
    unknown = sorted(set(names or []) - set(known))
    if unknown:
        raise ConfigError(f"unknown service {', '.join(unknown)}; known: {', '.join(known)}.")
    return [make() for name, make in known.items() if not names or name in names]


async def services_up(names: list[str] | None, as_json: bool = False) -> None:
    """`eto services up`."""
    rows = []
    for service in _chosen(names):
        typer.echo(f"{service.name}: starting...", err=as_json)
        running = await services.ensure(service)
        typer.echo(f"{service.name}: ready at {service.url}, pid {running.pid}", err=as_json)
        rows.append({"name": service.name, "url": service.url, "pid": running.pid})
    if as_json:
        typer.echo(json.dumps(rows))


def services_down(names: list[str] | None, as_json: bool = False) -> None:
    """`eto services down`."""
    running = [r for r in process.find_all() if not names or r.name in names]
    for service in running:
        process.stop(service)
        typer.echo(f"{service.name}: stopped", err=as_json)
    if as_json:
        typer.echo(json.dumps([service.name for service in running]))
    elif not running:
        typer.echo("nothing runs here")


async def services_status(names: list[str] | None, as_json: bool) -> None:
    """`eto services status`. A service that was started by a run under other settings is asked at its own URL."""
    rows: list[dict[str, Any]] = []
    chosen = _chosen(names)
    ready = await asyncio.gather(*(s.ready() for s in chosen))
    for service, answers in zip(chosen, ready, strict=True):
        running = process.find(service.name)
        pid = running.pid if running is not None and running.alive() else None
        rows.append({"name": service.name, "url": service.url, "pid": pid, "ready": answers})
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        state = "ready" if row["ready"] else ("starting" if row["pid"] else "stopped")
        typer.echo(f"{row['name']:<14} {state:<9} {row['url']}  {'pid ' + str(row['pid']) if row['pid'] else ''}")
