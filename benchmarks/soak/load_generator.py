"""The least that can drive a service: requests that are bytes beforehand, bare connections, nothing read of a reply but a session's id.

`rollout_scale.py` measures with it what a part can do alone. It sends what the orchestrator sent for the same episodes.
"""

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from orchestrator.records import Episode

#: Stands for the id that the reply to the first request gives; as long as one, so that a body's length holds.
SESSION = "S" * 32
LENGTH = re.compile(rb"content-length: *(\d+)", re.I)
NAMED = re.compile(rb'"session_id": ?"([^"]+)"')

#: An episode's requests to one service, ready to be sent.
Script = list[bytes]


def environment(episode: Episode, host: str) -> Script:
    """What an episode asked of the environment service."""
    reset = {"task_id": episode.task_id, "seed": episode.seed}
    script = [_wire("POST", "/reset", reset, host)]
    for number, step in enumerate(episode.steps):
        if step.action is not None:
            body = {"session_id": SESSION, "action": {"action": step.action}, "request_id": str(number)}
            script.append(_wire("POST", "/step", body, host))
    return [*script, _wire("DELETE", f"/sessions/{SESSION}", None, host)]


def policy(episode: Episode, host: str) -> Script:
    """What an episode asked of the policy server."""
    sent = [m.model_dump() for m in episode.messages]
    own = {"model": "policy", "temperature": 0.0, "top_p": 1.0, "max_tokens": 512, "seed": 0}
    turns = [n for n, m in enumerate(sent) if m["role"] == "assistant" and n >= episode.prompt_messages]
    return [_wire("POST", "/v1/chat/completions", {**own, "messages": sent[:n]}, host) for n in turns]


def _wire(method: str, path: str, body: Any, host: str) -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def drive(url: str, script: Callable[[Episode, str], Script], episodes: Iterable[Episode], at_once: int) -> float:
    """Send the episodes' requests, so many episodes at a time, each on a connection; seconds. Raises RuntimeError for an error's status."""
    parts = urlsplit(url)
    scripts = iter([script(episode, parts.netloc) for episode in episodes])
    connections = [await asyncio.open_connection(parts.hostname, parts.port) for _ in range(at_once)]

    async def worker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for requests in scripts:
            session = SESSION.encode()
            for number, request in enumerate(requests):
                writer.write(request.replace(SESSION.encode(), session))
                head = await reader.readuntil(b"\r\n\r\n")
                length = LENGTH.search(head)
                body = await reader.readexactly(int(length.group(1))) if length else b""
                if head.split(b" ", 2)[1][:1] != b"2":
                    raise RuntimeError(f"{head!r} {body!r}")
                if number == 0 and (named := NAMED.search(body)):
                    session = named.group(1)

    started = time.perf_counter()
    await asyncio.gather(*(worker(*c) for c in connections))
    took = time.perf_counter() - started
    for _, writer in connections:
        writer.close()
    return took
