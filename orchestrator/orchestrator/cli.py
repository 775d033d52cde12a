"""The command `eto`. Imports that take time happen inside the commands, so that --help is instant."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator import cli_data, cli_runs, cli_services, cli_ui
from orchestrator.cli_common import EnvUrl, PromptFile, complete

app = typer.Typer(
    name="eto",
    help="Trial-and-error training for LLM agents: experts, rollouts, pairs, training, and the whole ETO loop.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cli_services.app, name="services")
app.add_typer(cli_data.app, name="data")

RunsDir = Annotated[Path, typer.Option(help="Folder of the run directories.")]
Config = Annotated[Path | None, typer.Argument(help="A run's YAML file, such as configs/quickstart.yaml.")]
Json = Annotated[bool, typer.Option("--json", help="Print {out, episodes, mean_score, success}; progress goes to standard error.")]
Set = Annotated[list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override a setting: -s rollout.concurrency=16.")]


def _overrides(pairs: list[str] | None) -> dict[str, Any]:
    import yaml

    from orchestrator.config import ConfigError

    values = {}
    for pair in pairs or []:
        key, separator, value = pair.partition("=")
        if not separator:
            raise ConfigError(f"--set {pair}: must be KEY=VALUE, such as rollout.concurrency=16.")
        values[key] = yaml.safe_load(value)
    return values


@app.command()
def run(
    config: Config = None,
    runs: RunsDir = Path("runs"),
    settings: Set = None,
    reproduce: Annotated[
        str | None, typer.Option(metavar="RUN", help="In place of CONFIG: carry that run out anew as RUN-again, and compare.")
    ] = None,
    from_stage: Annotated[
        str | None,
        typer.Option("--from", metavar="RUN:STAGE", help="Go on from a finished stage of another run (docs/ui.md)."),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop when that stage is finished.")] = None,
    keep_services: Annotated[bool, typer.Option(help="Leave the services running at the end.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the stages, what each will take, and stop.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print report.json; of --dry-run the stages, of --reproduce what is the same.")
    ] = False,
) -> None:
    """Carry out a whole ETO run: SFT, evaluate, explore, pair, DPO, evaluate. Started again, it goes on where it was."""
    from rich.console import Console

    from orchestrator import commands, pipeline, take_over
    from orchestrator.config import ConfigError
    from orchestrator.config_file import load_config
    from orchestrator.progress import Display
    from orchestrator.report import write_report
    from orchestrator.run_index import run_folder
    from orchestrator.run_store import open_run

    again = None
    overrides = _overrides(settings)
    if (config is None) == (reproduce is None):
        raise ConfigError("give a CONFIG, such as configs/quickstart.yaml, or --reproduce RUN.")
    if reproduce is not None:
        again = run_folder(runs, reproduce)
        config, overrides = again / "config.yaml", {"name": f"{again.resolve().name}-again", **overrides}
    assert config is not None  # noqa: S101 - one of the two was given
    loaded = load_config(config, overrides)
    steps = pipeline.plan_until(loaded, until)
    taken = take_over.find(runs, from_stage, loaded) if from_stage is not None else None
    if dry_run:
        complete(commands.dry_run(loaded, runs, steps, taken, as_json))
        return
    display = Display(Console(stderr=True) if as_json else None)
    store = open_run(runs, loaded)
    with store.locked():
        if taken is not None:
            take_over.carry_out(taken, store)
            display.note(taken.told())
            for note in taken.notes():
                display.note(f"note: {note}")
        take_over.check_whole(store)
        complete(pipeline.run(loaded, store, display, steps, keep_services))
        if as_json and again is None:
            typer.echo(write_report(store.path).to_json(), nl=False)
        else:
            _report(store.path, display.console)
    if again is not None:
        _compare_again(again, store.path, as_json)


def _compare_again(first: Path, second: Path, as_json: bool) -> None:
    from orchestrator.run_store import RunStore, read_manifest

    versions = [read_manifest(RunStore(folder)).get("code_version") for folder in (first, second)]
    if versions[0] != versions[1]:
        typer.echo(f"note: {first} was begun by code version {versions[0]}, {second} by {versions[1]}", err=True)
    if not cli_runs.print_same(first, second, as_json):
        typer.echo("not reproduced to the last record (docs/ui.md, The same run again)", err=True)
        raise typer.Exit(1)


def _report(path: Path, console: Any) -> None:
    from orchestrator.report import render_table, write_report

    console.print(render_table(write_report(path)))
    console.print(f"{path / 'report.html'}  (and report.json, report.md)", highlight=False, soft_wrap=True)


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(help="A run directory, such as runs/quickstart.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json instead of the table.")] = False,
) -> None:
    """Print a run's table and write its report.json, report.html and report.md."""
    from orchestrator.progress import terminal
    from orchestrator.report import write_report
    from orchestrator.run_store import RunStoreError

    if not (run_dir / "manifest.json").exists():
        raise RunStoreError(f"{run_dir} is no run directory (it has no manifest.json). Runs are in the folder `runs`.")
    if as_json:
        typer.echo(write_report(run_dir).to_json(), nl=False)
    else:
        _report(run_dir, terminal())


@app.command()
def experts(
    split: Annotated[str, typer.Option(help="Split of the environment.")],
    out: Annotated[Path, typer.Option(help="JSON-lines file of episodes; what it holds is not played again.")],
    env: Annotated[str, typer.Option(help="Environment.")] = "sciworld",
    env_url: EnvUrl = None,
    types: Annotated[list[str] | None, typer.Option("--type", help="Task type; repeat for more. Default: all.")] = None,
    per_type: Annotated[int | None, typer.Option(min=1, help="At most so many tasks of each type.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    prompt: PromptFile = None,
    as_json: Json = False,
) -> None:
    """Write expert trajectories: the environment's own gold paths, replayed, with first-person thoughts."""
    from orchestrator import commands
    from orchestrator.config import TaskSet

    complete(commands.experts(env, env_url, TaskSet(split=split, types=types, per_type=per_type), out, seed, as_json, prompt))


@app.command()
def rollout(
    split: Annotated[str, typer.Option(help="Split of the environment.")],
    out: Annotated[Path, typer.Option(help="JSON-lines file of episodes; what it holds is not played again.")],
    policy: Annotated[str, typer.Option(help="Name of the player in the records.")] = "policy",
    env: Annotated[str, typer.Option(help="Environment.")] = "sciworld",
    env_url: EnvUrl = None,
    policy_url: Annotated[
        list[str] | None,
        typer.Option(help="An OpenAI-compatible server; repeat for several. Keys: ETO_POLICY_TOKEN. Default: ETO_POLICY_URL, else :8000."),
    ] = None,
    model: Annotated[str, typer.Option(help="Model name in requests.")] = "policy",
    template: Annotated[
        Path | None, typer.Option(help="A chat template (Jinja file or model directory): prompts are made here, completions asked for.")
    ] = None,
    types: Annotated[list[str] | None, typer.Option("--type", help="Task type; repeat for more. Default: all.")] = None,
    per_type: Annotated[int | None, typer.Option(min=1, help="At most so many tasks of each type.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Episodes per task.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, max=2)] = 0.0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Nucleus sampling; 1: off.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="A string that ends a turn; repeat for more.")] = None,
    max_tokens: Annotated[int, typer.Option(min=8, help="New tokens per turn.")] = 512,
    concurrency: Annotated[int, typer.Option(min=1, help="Episodes at a time.")] = 8,
    example: Annotated[bool, typer.Option(help="Show the worked example (one-shot).")] = True,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Step limit. Default: the task's own.")] = None,
    on_overflow: Annotated[str, typer.Option(help="A full context: end, or drop-oldest (turns are no longer shown).")] = "end",
    record_tokens: Annotated[str | None, typer.Option(help="Keep logprobs of generated tokens, or ids too (vLLM).")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    prompt: PromptFile = None,
    as_json: Json = False,
) -> None:
    """Play episodes and write them down: evaluation or exploration. Started again, it plays what is missing."""
    from orchestrator import commands
    from orchestrator.config import TaskSet

    given = {"concurrency": concurrency, "temperature": temperature, "top_p": top_p, "stop": stop or [], "max_tokens": max_tokens}
    given |= {"example": example, "max_steps": max_steps, "on_overflow": on_overflow, "record_tokens": record_tokens}
    urls, settings = commands.rollout_settings(policy_url or [], given)
    tasks = TaskSet(split=split, types=types, per_type=per_type)
    complete(commands.rollout(env, env_url, urls, model, policy, tasks, samples, settings, out, seed, as_json, template, prompt))


@app.command()
def pairs(
    explored: Annotated[Path, typer.Option(help="Episodes of the agent on the same tasks.")],
    out: Annotated[Path, typer.Option(help="JSON-lines file of pairs to write.")],
    experts: Annotated[Path | None, typer.Option(help="Episodes of the expert; not needed by self-play.")] = None,
    method: Annotated[str, typer.Option(help="eto, step (from the first diverging step on) or self-play (best against worst).")] = "eto",
) -> None:
    """Pair an agent's episodes with the expert's: the lower reward is rejected, ties are dropped."""
    from orchestrator import commands

    typer.echo(json.dumps(commands.make_pairs(experts, explored, out, method)))


@app.command()
def train(
    job: Annotated[Path, typer.Argument(help="A job file (docs/formats.md, Training job).")],
    accelerate: Annotated[Path | None, typer.Option(help="An accelerate config file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print {output, version, metrics}; progress goes to standard error.")] = False,
) -> None:
    """Run a training job on this machine and show its progress."""
    from orchestrator import commands

    complete(commands.train(job, accelerate, as_json))


app.add_typer(cli_runs.app, name="runs")
app.command("ui")(cli_ui.ui)
app.command("doctor")(cli_ui.doctor)
app.command("init")(cli_ui.init)


@app.callback()
def _root() -> None:
    pass


def main() -> None:
    """Entry point: a fault that a person can mend is one message on standard error, exit code 2 (configuration) or 1."""
    try:
        app()
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.stderr.write("stopped. Run the same command again to go on.\n")
        sys.exit(130)
    except Exception as error:  # re-raised below unless it is one of ours
        from orchestrator.faults import first, is_ours, is_usage

        fault = first(error)
        if not is_ours(fault):
            raise
        sys.stderr.write(f"eto: {fault}\n")
        sys.exit(2 if is_usage(fault) else 1)
