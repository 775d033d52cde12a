"""`eto data`: trajectories and pairs in the formats of the field."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli_common import EnvUrl, PromptFile, complete

app = typer.Typer(help="Trajectories and pairs in the formats of the field: import with replay, export, check.", no_args_is_help=True)


@app.command("import")
def data_import(
    source: Annotated[Path, typer.Argument(help="ETO's SFT, DPO or episode JSON, AgentTraj, or TRL's messages; JSON or JSON lines.")],
    out: Annotated[Path, typer.Option(help="JSON-lines file to write; OUT.report.json says what was dropped and why.")],
    env: Annotated[str, typer.Option(help="Environment.")] = "sciworld",
    env_url: EnvUrl = None,
    split: Annotated[str | None, typer.Option(help="Split to note in the episodes.")] = None,
    observations: Annotated[str, typer.Option(help="What counts as equal: words (in any order), exact, or any.")] = "words",
    keep_failures: Annotated[bool, typer.Option(help="Keep trajectories that end without success.")] = False,
    every: Annotated[int, typer.Option(min=1, help="Replay every n-th trajectory only.")] = 1,
    prompt: PromptFile = None,
) -> None:
    """Verify trajectories by replay in the environment and write those that hold as episodes, thoughts kept; convert pairs."""
    from orchestrator.config import ConfigError
    from orchestrator.trajectories import commands, formats
    from orchestrator.trajectories.replay import Rules

    if observations not in ("words", "exact", "any"):
        raise ConfigError(f"--observations {observations} is unknown; known: words, exact, any.")
    if formats.holds_pairs(source):
        commands.import_pairs(source, out)
        return
    complete(commands.import_trajectories(source, env, env_url, out, split, Rules(observations, keep_failures), every, prompt))


@app.command("export")
def data_export(
    source: Annotated[Path, typer.Argument(help="Episodes or pairs of ours, JSON lines.")],
    out: Annotated[Path, typer.Option(help="File to write; for eto-episodes a folder.")],
    format_: Annotated[str, typer.Option("--format", help="eto-sft, agenttraj, eto-episodes, eto-dpo or trl.")] = "trl",
) -> None:
    """Write episodes or pairs in another format."""
    from orchestrator.trajectories import commands

    commands.export(source, format_, out)


@app.command("check")
def data_check(
    source: Annotated[Path, typer.Argument(help="Training data: lines with messages, or pairs.")],
    model: Annotated[str, typer.Option(help="Checkpoint directory or hub id whose tokenizer and template are used.")],
    max_length: Annotated[int, typer.Option(min=8, help="Tokens of an example at most.")] = 4096,
    show: Annotated[int, typer.Option(min=0, help="How many examples are shown with their masks.")] = 1,
) -> None:
    """Show what training would see: token lengths, what is cut or dropped, and which tokens carry loss."""
    from orchestrator.trajectories import commands

    raise typer.Exit(commands.check(source, model, max_length, show))
