"""`eto services`: what runs on this machine in the background."""

from typing import Annotated

import typer

from orchestrator.cli_common import complete

app = typer.Typer(help="Services on this machine, as background processes.", no_args_is_help=True)


@app.command("up")
def services_up(
    names: Annotated[list[str] | None, typer.Argument(help="Default: all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A list of {name, url, pid}.")] = False,
) -> None:
    """Start services and wait until they are ready."""
    from orchestrator import commands

    complete(commands.services_up(names, as_json))


@app.command("down")
def services_down(
    names: Annotated[list[str] | None, typer.Argument(help="Default: all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A list of the names that were stopped.")] = False,
) -> None:
    """Stop services that were started here."""
    from orchestrator import commands

    commands.services_down(names, as_json)


@app.command("status")
def services_status(
    names: Annotated[list[str] | None, typer.Argument(help="Default: all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A list of {name, url, pid, ready}.")] = False,
) -> None:
    """Show which services run and whether they are ready."""
    from orchestrator import commands

    complete(commands.services_status(names, as_json))
