"""Commands that help a person to look and to begin: `eto ui`, `eto doctor`, `eto init`."""

from pathlib import Path
from typing import Annotated

import typer


def ui(
    runs: Annotated[Path, typer.Option(help="Folder of the run directories.")] = Path("runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen on. Others than loopback need ETO_UI_TOKEN.")] = "127.0.0.1",
) -> None:
    """Show the runs in a browser: progress as it happens, reports, trajectories, pairs."""
    from orchestrator.ui.serve import serve

    serve(runs, host, port, typer.echo)
