"""An OpenAI-compatible server of scripted answers, as a process of its own: it stands for a model's interface, never for a model.

    python tests/chat_server.py --port 9000 --script webshop [--faults 0.1] [--slots 64 --service-s 0.2] [--log FILE]

It is fast (asyncio, no framework), so that it does not hide what the orchestrator costs, and it can misbehave below HTTP: with
`--faults` that share of the requests is answered with status 500, with 429 and Retry-After, after `--slow-s`, with half of the JSON,
or with a reset connection. With `--slots` so many requests are answered at a time, each for `--service-s`: a server whose own
maximum is known. With `--log` each request leaves a line when it comes and one when it ends, which outlive a SIGKILL.
It takes weights as vLLM does (/collective_rpc): their directory's name is the version that stands in every answer.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FAULTS = ("500", "429", "slow", "truncated", "reset")
Messages = list[dict[str, str]]


def webshop(messages: Messages) -> str:
    """Search for what the task names, look at the first product, buy it."""
    turn = sum(m["role"] == "assistant" for m in messages) - 1
    page = messages[-1]["content"]
    if turn == 0:
        words = re.findall(r"[a-z]+", page.lower())
        return f"Thought: I search.\nAction: search[{' '.join(words[-24:-14])}]"
    found = re.search(r"\[SEP\] (\w{8,12}) \[SEP\]", page)
    return f"Thought: {turn}\nAction: click[{found.group(1).lower() if turn == 1 and found else 'buy now'}]"


def wander(messages: Messages) -> str:
    """Walk about in ScienceWorld."""
    turn = sum(m["role"] == "assistant" for m in messages) - 1
    return f"Thought: {turn}\nAction: {('look around', 'open door to hallway', 'go to hallway', 'inventory')[turn % 4]}"


SCRIPTS: dict[str, Callable[[Messages], str]] = {"webshop": webshop, "wander": wander}


class Server:
    """The server's state: its faults, its slots, its weights."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.script = SCRIPTS[options.script]
        self.rng = random.Random(options.seed)
        self.options = options
        self.slots = asyncio.Semaphore(options.slots) if options.slots else None
        self.log = options.log.open("a", buffering=1) if options.log else None
        self.weights = options.weights
        self.number = 0
        self.running = 0

    def note(self, number: int, what: str) -> None:
        """A line of the log."""
        if self.log is not None:
            self.log.write(f"{number} {what}\n")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"content-length: *(\d+)", head, re.I)
                body = json.loads(await reader.readexactly(int(length.group(1)))) if length and int(length.group(1)) else {}
                await self.answer(head.split(" ", 2)[1], body, writer)
        writer.close()

    async def answer(self, path: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        """Answer one request, or misbehave."""
        if path == "/v1/chat/completions":
            await self.chat(body, writer)
        elif path == "/v1/completions":  # the probe: what these weights answer is a number made of their name
            value = -1.0 - sum(map(ord, self.weights)) % 97 / 10
            probe = [None, *({str(t): {"logprob": value}} for t in body["prompt"][1:])]
            send(writer, 200, {"choices": [{"text": "", "prompt_logprobs": probe}]})
        elif path == "/collective_rpc":
            if self.running:
                send(writer, 500, {"error": {"message": "requests run"}})
                return
            self.weights = Path(body["kwargs"]["weights_path"]).name
            send(writer, 200, {"results": [None]})
        else:
            send(writer, 200, {"success": True})

    async def chat(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        """One turn."""
        number, self.number = self.number, self.number + 1
        self.note(number, "begin")
        fault = self.rng.choice(self.options.kinds) if self.rng.random() < self.options.faults else None
        weights = self.weights
        self.running += 1
        try:
            if self.slots is not None:
                async with self.slots:
                    await asyncio.sleep(self.options.service_s)
            self.note(number, fault or "answered")
            if fault == "slow":
                await asyncio.sleep(self.options.slow_s)
        finally:
            self.running -= 1
        if fault == "500":
            send(writer, 500, {"error": {"message": "injected"}})
        elif fault == "429":
            send(writer, 429, {"error": {"message": "injected"}}, "retry-after: 0.2\r\n")
        elif fault == "reset":
            taken = writer.get_extra_info("socket")
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close sends RST
            writer.transport.abort()
            raise ConnectionResetError
        else:
            spanned = "" if weights == self.weights else f" and {self.weights}"
            message = {"role": "assistant", "content": f"({weights}{spanned}) {self.script(body['messages'])}"}
            usage = {"prompt_tokens": sum(len(m["content"]) for m in body["messages"]) // 4, "completion_tokens": 12}
            reply = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
            send(writer, 200, reply, truncated=fault == "truncated")
        await writer.drain()


def send(writer: asyncio.StreamWriter, status: int, reply: dict[str, Any], header: str = "", truncated: bool = False) -> None:
    """Write a reply; truncated, half of its JSON under a length that agrees."""
    data = json.dumps(reply).encode()
    data = data[: len(data) // 2] if truncated else data
    writer.write(f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n{header}\r\n".encode() + data)


def start(port: int, **options: Any) -> "subprocess.Popen[str]":
    """Start a server as a process and wait until it listens. Options as on the command line, `service_s=0.2` for `--service-s 0.2`."""
    arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    process = subprocess.Popen([sys.executable, __file__, "--port", str(port), *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


async def main() -> None:
    """Serve until killed; says "ready" when it listens."""
    parser = argparse.ArgumentParser(description="An OpenAI-compatible server of scripted answers.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--script", choices=SCRIPTS, default="wander")
    parser.add_argument("--faults", type=float, default=0.0, help="share of requests, 0..1")
    parser.add_argument("--kinds", nargs="+", choices=FAULTS, default=FAULTS, help="of faults")
    parser.add_argument("--slow-s", type=float, default=30.0, help="how slow a slow answer is")
    parser.add_argument("--slots", type=int, default=0, help="requests answered at a time; 0: all")
    parser.add_argument("--service-s", type=float, default=0.0, help="seconds in a slot")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", default="base", help="version of the weights at the start")
    parser.add_argument("--log", type=Path)
    server = Server(parser.parse_args())
    listening = await asyncio.start_server(server.serve, "127.0.0.1", server.options.port, backlog=4096)
    print("ready", flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
