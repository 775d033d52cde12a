"""Runs a service on a socket until it is told to stop, then drains it."""

import asyncio
import logging
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from env_core.protocol import MAX_BODY_BYTES
from env_core.sessions import SessionStore

log = logging.getLogger(__name__)


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; OSError where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(2048)  # at once: who calls before the service is up waits, and is not refused
    except OSError:
        bound.close()
        raise
    return bound


class DrainingServer(uvicorn.Server):
    """uvicorn, but the first signal lets what is under way end while new work is answered with 503; the second stops at once."""

    def __init__(self, config: uvicorn.Config, store: SessionStore, drain_timeout_s: float) -> None:
        super().__init__(config)
        self._store = store
        self._drain_timeout_s = drain_timeout_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and remember the loop for signals."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; on the second signal, stop."""
        if self._store.draining or self._loop is None:
            self.should_exit = self.force_exit = True
            return
        self._store.draining = True
        self._loop.call_soon_threadsafe(self._begin_drain)

    def _begin_drain(self) -> None:
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        log.info("Draining: new episodes are refused, steps under way end.")
        await self._store.drain(self._drain_timeout_s)
        self.should_exit = True


def serve(app: FastAPI, listener: socket.socket, drain_timeout_s: float, log_level: str) -> None:
    """Serve until a signal."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_max_size=MAX_BODY_BYTES,
        log_config=None,
        lifespan="on",
        log_level=log_level,
        access_log=log_level in ("debug", "trace"),
        timeout_graceful_shutdown=3,
        server_header=False,
    )
    DrainingServer(config, app.state.store, drain_timeout_s).run(sockets=[listener])
