"""A scripted OpenAI-compatible server: tests the orchestrator's logic, never stands for a model.

It answers a chat with the action that its script gives for the turn, and can be told to misbehave.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Script = Callable[[list[dict[str, str]], int], str | tuple[int, dict[str, Any]]]


@dataclass
class ScriptedPolicy:
    """`script(messages, request_number)` gives the text, or a status and a JSON body."""

    script: Script
    requests: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""
    most_at_once: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> "ScriptedPolicy":
        policy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with policy._lock:
                    number = len(policy.requests)
                    policy.requests.append(body)
                    policy.paths.append(self.path)
                    policy._now += 1
                    policy.most_at_once = max(policy.most_at_once, policy._now)
                try:
                    answer = policy.script(body.get("messages", []), number)
                finally:
                    with policy._lock:
                        policy._now -= 1
                status, reply = answer if isinstance(answer, tuple) else (200, completion(answer))
                data = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def completion(text: str) -> dict[str, Any]:
    """OpenAI's reply around a text."""
    return {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}


def turn(messages: list[dict[str, str]]) -> int:
    """How many turns the agent has taken: messages after instruction, acknowledgement and task."""
    return (len(messages) - 3) // 2
