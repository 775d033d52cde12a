#!services/env-sciworld/.venv/bin/python
"""Requests that no client would send.

    benchmarks/soak/core_fuzz.py [--short]

schemathesis makes requests for each operation of the service's own OpenAPI page, 20,000 in all; half of those that take a session get one
that is live. Then 2,000 WebSocket frames that are mostly malformed. No reply is a 5xx but the protocol's own (501 where an environment
has no such thing, 503 and 504 with their codes), each error has the protocol's shape, a neighbour's session goes on undisturbed, no
session or engine is left over, and the service's resident memory is flat: it grows by less than 5 % after the first fifth.
The counter plays: the layer under test is the core. --short: 1,000 requests, 200 frames.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from env_core.running import RunningService, running_service
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from playing import COUNTER, QUIET, finish
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

GROWTH = 0.05
OWN_CODES = {501: {"no_expert", "no_page"}, 503: {"engine_unavailable", "draining"}, 504: {"step_timeout"}}
UNTRIED = {"/metrics"}  # a page of text, the same whatever is sent
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
FRAMES = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200),
    ANY_JSON.map(json.dumps),
    st.fixed_dictionaries({"type": st.sampled_from(["reset", "step", "state", "mcp", "nonsense"]), "data": ANY_JSON}).map(json.dumps),
)


def quick(examples: int) -> settings:
    """Return hypothesis's settings for a number of cases and no second thoughts."""
    return settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])


def rss_mb(service: RunningService) -> float:
    """Return the resident memory of the service's own process."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


class Fuzz:
    """Sends requests, and keeps what was wrong about the answers."""

    def __init__(self, service: RunningService) -> None:
        self.service = service
        self.client = httpx.Client(base_url=service.url, timeout=60)
        self.chance = random.Random(0)
        self.neighbour = self.begin()
        self.neighbour_steps = 0
        self.live = self.begin()
        self.sent = 0
        self.statuses: dict[int, int] = {}
        self.wrong: list[str] = []

    def begin(self) -> str:
        """Open a session."""
        return str(self.client.post("/reset", json={"task_id": "count:1000000"}).json()["metadata"]["session_id"])

    def judge(self, asked: str, reply: Any) -> None:
        """Note a server error or an error without the protocol's shape."""
        self.sent += 1
        self.statuses[reply.status_code] = self.statuses.get(reply.status_code, 0) + 1
        if reply.status_code < 400:
            return
        try:
            error = reply.json()["error"]
            good = set(error) == {"code", "message"} and "Traceback" not in error["message"]
            good = good and (reply.status_code < 500 or error["code"] in OWN_CODES.get(reply.status_code, ()))
        except (ValueError, KeyError, TypeError):
            good = False
        if not good:
            self.wrong.append(f"{asked}: {reply.status_code} {reply.text[:300]}")

    def operation(self, operation: Any, examples: int) -> None:
        """Send cases of one operation of the OpenAPI page."""

        @seed(0)
        @quick(examples)
        @given(case=operation.as_strategy())
        def try_it(case: Any) -> None:
            if self.chance.random() < 0.5:
                self._name_a_live_session(case)
            self.judge(f"{case.method} {case.formatted_path} {str(case.body)[:200]}", case.call(timeout=60))

        try_it()

    def _name_a_live_session(self, case: Any) -> None:
        if self.client.get("/state", params={"session_id": self.live}).status_code != 200:
            self.live = self.begin()
        for place in (case.path_parameters, case.query, case.body):
            if isinstance(place, dict) and "session_id" in place:
                place["session_id"] = self.live

    def frames(self, examples: int) -> int:
        """Send frames; return how many were answered. A connection that the server closes is opened again."""
        url = self.service.url.replace("http", "ws") + "/ws"
        answered = 0
        socket = connect(url, legacy=True)

        @seed(0)
        @quick(examples)
        @given(frame=FRAMES)
        def try_it(frame: bytes | str) -> None:
            nonlocal socket, answered
            try:
                socket.send(frame)
                answer = json.loads(socket.recv(timeout=30))
            except (ConnectionClosed, UnicodeEncodeError):
                socket = connect(url, legacy=True)
                return
            answered += 1
            if answer["type"] not in ("observation", "state", "mcp", "error"):
                self.wrong.append(f"frame {frame[:200]!r}: {answer}")

        try_it()
        socket.close()
        return answered

    def neighbour_goes_on(self) -> None:
        """Step the neighbour, and note it if anything has changed its count."""
        self.neighbour_steps += 1
        text = self.client.post("/step", json={"session_id": self.neighbour, "action": "add 1"}).json().get("observation", {}).get("text")
        if text != f"The count is {self.neighbour_steps}.":
            self.wrong.append(f"the neighbour was disturbed: {text}")


def main(requests: int, frames: int) -> None:
    """Send everything and report."""
    options = ("--max-engines", "4", "--step-timeout-s", "5", "--max-sessions", "1000000", *QUIET)
    variables = {**COUNTER, "ETO_ENV_KEPT_SESSIONS": "100"}
    with running_service("counter_env", options, variables, ready_timeout_s=300) as service:
        fuzz = Fuzz(service)
        schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
        operations = [found for result in schema.get_all_operations() if (found := result.ok()).path not in UNTRIED]
        rounds, before_mb = 5, 0.0
        for number in range(rounds):
            for operation in operations:
                fuzz.operation(operation, -(-requests // (rounds * len(operations))))
                fuzz.neighbour_goes_on()
            for state in fuzz.client.get("/sessions").json()["sessions"]:
                if state["session_id"] != fuzz.neighbour:
                    fuzz.client.delete(f"/sessions/{state['session_id']}")
            before_mb = before_mb or rss_mb(service)
            print(f"round {number + 1}: {fuzz.sent} requests, {rss_mb(service):.0f} MB, {len(fuzz.wrong)} wrong", flush=True)
        answered = fuzz.frames(frames)
        fuzz.neighbour_goes_on()
        after_mb = rss_mb(service)
        for _ in range(50):
            left = [state["session_id"] for state in fuzz.client.get("/sessions").json()["sessions"]]
            if left == [fuzz.neighbour]:
                break
        metrics = fuzz.client.get("/metrics").text
    for wrong in fuzz.wrong[:10]:
        print(wrong)
    finish(
        "core_fuzz",
        {
            f"at least {requests} requests were sent": fuzz.sent >= requests,
            "no server error, every error in the protocol's shape, the neighbour undisturbed": not fuzz.wrong,
            "no session is left but the neighbour's": left == [fuzz.neighbour],
            "no engine is left busy": 'eto_env_engines{state="busy"} 0.0' in metrics,
            f"memory grew by less than {GROWTH:.0%} after the first fifth": after_mb / before_mb - 1 < GROWTH,
        },
        {
            "n": fuzz.sent,
            "frames": frames,
            "frames_answered": answered,
            "operations": len(operations),
            "statuses": dict(sorted(fuzz.statuses.items())),
            "wrong": len(fuzz.wrong),
            "rss_mb": [round(before_mb, 1), round(after_mb, 1)],
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Requests and frames that no client would send.")
    parser.add_argument("--short", action="store_true", help="1,000 requests and 200 frames")
    short = parser.parse_args().short
    main(1000 if short else 20_000, 200 if short else 2000)
