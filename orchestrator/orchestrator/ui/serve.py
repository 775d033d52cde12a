"""The pages' web server."""

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from orchestrator.config import ConfigError
from orchestrator.ui.access import SHORTEST_TOKEN, is_loopback
from orchestrator.ui.app import create_app

TOKEN = "ETO_UI_TOKEN"  # noqa: S105 - the variable's name


def serve(runs: Path, host: str, port: int, say: Callable[[str], None], allow_anonymous: bool = False) -> None:
    """Serve until stopped. Raises ConfigError where the address cannot be had or would show the pages to others."""
    token = os.environ.get(TOKEN) or None
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise ConfigError(f"{TOKEN} has {len(token)} characters; at least {SHORTEST_TOKEN} are needed, as `openssl rand -hex 16` makes.")
    if not is_loopback(host) and token is None and not allow_anonymous:
        raise ConfigError(
            f"--host {host} would show the runs to everyone who reaches this machine. Set {TOKEN} to a secret of at least "
            f"{SHORTEST_TOKEN} characters, which the page then asks for, or leave --host out and use `ssh -L {port}:127.0.0.1:{port}`. "
            "Where something else keeps strangers out, such as a container's private network: --allow-anonymous."
        )
    with _listen(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        say(f"runs of {runs}: http://{shown}:{listener.getsockname()[1]}/  (Ctrl-C stops)")
        config = uvicorn.Config(create_app(runs, token), log_level="warning", server_header=False, access_log=False)
        asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)  # a browser that comes at once waits for the first answer
    except OSError as error:
        raise ConfigError(f"{host} port {port} cannot be listened on: {error.strerror}. Give another --port, or 0 for any.") from error
    return listener
