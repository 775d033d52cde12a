"""What commands share: options, and how a coroutine is run."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

EnvUrl = Annotated[
    str | None,
    typer.Option(help="Its service, or replicas by commas. Default: ETO_SCIWORLD_URL and so on, else its port on this machine."),
]
PromptFile = Annotated[Path | None, typer.Option(help="A prompt file of your own, or trajectories that have one.")]


def complete(work: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine; SIGTERM ends it as Ctrl-C does, so that what it started is stopped."""
    import signal

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - inside asyncio.run
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await work

    asyncio.run(main())
