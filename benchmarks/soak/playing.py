"""What the soak tests of the core share: a client that never gives up, and the report."""

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
OUT = ROOT / "benchmarks" / "out"
QUIET = ("--log-level", "critical")
LONGEST_S = 1140.0


class LostError(Exception):
    """The service no longer has the session, or refuses what it must not refuse."""


async def call(client: httpx.AsyncClient, method: str, path: str, body: Any = None, patience_s: float = 600) -> Any:
    """Ask until there is an answer: again after a broken connection, and after 429 and 503. LostError for any other error."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            reply = await client.request(method, path, json=body)
        except httpx.TransportError as error:
            problem: str = f"{type(error).__name__}: {error}"
        else:
            if reply.is_success:
                return reply.json() if reply.content else None
            problem = f"{reply.status_code} {reply.text}"
            if reply.status_code not in (429, 503):
                raise LostError(f"{method} {path}: {problem}")
        if time.monotonic() > deadline:
            raise LostError(f"{method} {path}: no answer in {patience_s:g} s, the last was {problem}")
        await asyncio.sleep(0.2)


def shown(reply: Mapping[str, Any]) -> str:
    """Return a reply as text, without what names its session."""
    metadata = {name: value for name, value in reply["metadata"].items() if name not in ("session_id", "episode_id")}
    return json.dumps({**reply, "metadata": metadata}, sort_keys=True)


async def play(client: httpx.AsyncClient, name: str, task_id: str, actions: Sequence[str], pause_s: float = 0.0) -> list[str]:
    """Play an episode to its end, each request under an id of its own, `pause_s` seconds apart on average; return what was shown."""
    reset = {"task_id": task_id, "max_steps": len(actions), "episode_id": name, "request_id": f"{name}/0"}
    reply = await call(client, "POST", "/reset", reset)
    seen = [shown(reply)]
    chance = random.Random(name)
    for number, action in enumerate(actions, 1):
        await asyncio.sleep(pause_s * 2 * chance.random())
        body = {"session_id": reply["metadata"]["session_id"], "action": action, "request_id": f"{name}/{number}"}
        reply = await call(client, "POST", "/step", body)
        seen.append(shown(reply))
        if reply["done"]:
            return seen
    raise LostError(f"{name} did not end after {len(actions)} actions")


async def tell(what: Callable[[], str], every_s: float = 15.0) -> None:
    """Print how far it has come, again and again."""
    while True:
        await asyncio.sleep(every_s)
        print(what(), flush=True)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a soak to its end; one that takes longer than LONGEST_S has failed."""

    async def bounded() -> None:
        async with asyncio.timeout(LONGEST_S):
            await main

    try:
        asyncio.run(bounded())
    except TimeoutError:
        sys.exit(f"FAIL it was not done in {LONGEST_S:g} s")


def record(script: str, asked: argparse.Namespace, default_env: str | None) -> str:
    """Return the name under which a run is recorded: a short one does not take the place of a long one."""
    return "-".join(filter(None, [script, asked.env if asked.env != default_env else None, "short" if asked.short else None]))


def finish(name: str, claims: Mapping[str, bool], figures: Mapping[str, Any]) -> None:
    """Print, write benchmarks/out/soak-NAME.json, and exit with status 1 unless all claims hold."""
    for claim, holds in claims.items():
        print(f"{'ok' if holds else 'FAIL':4} {claim}")
    for figure, value in figures.items():
        print(f"     {figure}: {value}")
    OUT.mkdir(exist_ok=True)
    machine = {"cores": os.cpu_count(), "load_average": os.getloadavg()}
    result = {"claims": claims, "holds": all(claims.values()), **figures, "machine": machine, "at": time.strftime("%FT%TZ", time.gmtime())}
    (OUT / f"soak-{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(0 if all(claims.values()) else 1)
