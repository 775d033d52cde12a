"""Commands that help a person to look and to begin: `eto ui`, `eto doctor`, `eto init`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def ui(
    runs: Annotated[Path, typer.Option(help="Folder of the run directories.")] = Path("runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen on. Others than loopback need ETO_UI_TOKEN.")] = "127.0.0.1",
    allow_anonymous: Annotated[bool, typer.Option("--allow-anonymous", help="Listen elsewhere without a token even so.")] = False,
) -> None:
    """Show the runs in a browser: progress as it happens, reports, trajectories, pairs."""
    from orchestrator.ui.serve import serve

    serve(runs, host, port, typer.echo, allow_anonymous)


def doctor(
    config: Annotated[Path | None, typer.Argument(help="A run's YAML file: its environment, ports and URLs are looked at.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the run directories.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="A list of {name, grade, found, advice}.")] = False,
) -> None:
    """Look at what this machine has for a run. The exit code is 1 if something is in the way."""
    from orchestrator.config_file import load_config
    from orchestrator.doctor import examine

    findings = examine(load_config(config) if config is not None else None, runs)
    if as_json:
        typer.echo(json.dumps([asdict(f) for f in findings], indent=1))
    else:
        for f in findings:
            colour = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}[f.grade]
            typer.echo(f"{typer.style(f'{f.grade:<5}', fg=colour)} {f.name:<14} {f.found}")
            if f.advice:
                typer.echo(f"{'':<20} -> {f.advice}")
    if any(f.grade == "fail" for f in findings):
        raise typer.Exit(1)


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("eto.yaml"),
    env: Annotated[str, typer.Option(help="Environment.")] = "sciworld",
    as_json: Annotated[bool, typer.Option("--json", help="Print {path}.")] = False,
) -> None:
    """Write a configuration with every setting, explained. It asks nothing and overwrites nothing."""
    from orchestrator.config_template import write_template

    write_template(path, env)
    if as_json:
        typer.echo(json.dumps({"path": str(path)}))
        return
    typer.echo(f"wrote {path}; next: eto doctor {path}, then eto run {path} --dry-run")
