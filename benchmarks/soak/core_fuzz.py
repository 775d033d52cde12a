#!services/env-sciworld/.venv/bin/python
"""Requests that no client would send.

    make soak ONLY=core_fuzz [ENV=counter|sciworld|webshop|alfworld], or benchmarks/soak/core_fuzz.py [--env ENV] [--short]

schemathesis makes requests for each operation of the service's own OpenAPI page, 20,000 in all; half of those that take a session get one
that is live. Then 2,000 WebSocket frames that are mostly malformed. No reply is a 5xx but the protocol's own (501 where an environment
has no such thing, 503 and 504 with their codes), each error has the protocol's shape, a neighbour's session goes on undisturbed, no
session or engine is left over, and the service's resident memory is flat: it grows by less than 5 % after the first fifth.
Unless told, the counter plays: the layer under test is the core. The others have AgentGym's routes too, and engines that may be upset.
--short: 1,000 requests, 200 frames.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from env_core.running import RunningService
from environments import ENVIRONMENTS, Served, paths
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from playing import LONGEST_S, QUIET, finish, record, shown
from schemathesis import GenerationMode
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

GROWTH = 0.05
STACK_TRACE = "Traceback (most recent call last)"
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

    def __init__(self, service: RunningService, task_id: str, actions: list[str]) -> None:
        self.service = service
        self.client = httpx.Client(base_url=service.url, timeout=60)
        self.chance = random.Random(0)
        self.task_id = task_id
        self.actions = actions
        self.neighbour = str(self.begin()["metadata"]["session_id"])
        self.undisturbed = [self.neighbours_next(number) for number in range(1 + len(actions))]
        self.neighbour_steps = -1  # its next one begins it again
        self.live = str(self.begin()["metadata"]["session_id"])
        self.sent = 0
        self.statuses: dict[int, int] = {}
        self.wrong: list[str] = []

    def begin(self, **fields: str) -> dict[str, Any]:
        """Begin an episode."""
        reply: dict[str, Any] = self.client.post("/reset", json={"task_id": self.task_id, "max_steps": 1000, **fields}).json()
        return reply

    def neighbours_next(self, number: int) -> str:
        """Step the neighbour on its path, or begin it again; return what was shown."""
        if number == 0:
            return shown(self.begin(session_id=self.neighbour))
        step = {"session_id": self.neighbour, "action": self.actions[number - 1]}
        return shown(self.client.post("/step", json=step).raise_for_status().json())

    def judge(self, asked: str, reply: Any) -> None:
        """Note a server error or an error without the protocol's shape."""
        self.sent += 1
        self.statuses[reply.status_code] = self.statuses.get(reply.status_code, 0) + 1
        if reply.status_code < 400:
            return
        try:
            error = reply.json()["error"]
            # the whole phrase: hypothesis draws the word alone from this very file, and a message may say again what was asked for
            good = set(error) == {"code", "message"} and STACK_TRACE not in error["message"]
            good = good and (reply.status_code < 500 or error["code"] in OWN_CODES.get(reply.status_code, ()))
        except (ValueError, KeyError, TypeError):
            good = False
        if not good:
            self.wrong.append(f"{asked}: {reply.status_code} {reply.text[:300]}")

    def operation(self, operation: Any, examples: int, number: int) -> None:
        """Send cases of one operation of the OpenAPI page, by turns such as it asks for and such as it does not."""
        mode = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)[number % 2]

        @seed(number)
        @quick(examples)
        @given(case=operation.as_strategy(generation_mode=mode))
        def try_it(case: Any) -> None:
            if self.chance.random() < 0.5:
                self._name_a_live_session(case)
            self.judge(f"{case.method} {case.formatted_path} {str(case.body)[:200]}", case.call(timeout=60))

        try_it()

    def _name_a_live_session(self, case: Any) -> None:
        if self.client.get("/state", params={"session_id": self.live}).status_code != 200:
            self.live = str(self.begin()["metadata"]["session_id"])
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
        """Step the neighbour, and note it if anything has changed its episode."""
        self.neighbour_steps += 1
        number = self.neighbour_steps % len(self.undisturbed)
        if (seen := self.neighbours_next(number)) != self.undisturbed[number]:
            self.wrong.append(f"the neighbour was disturbed: {seen[:1000]}")


async def path_of(service: RunningService, env: Served) -> tuple[str, list[str]]:
    """Return a task and actions that play it, but for the last one."""
    async with httpx.AsyncClient(base_url=service.url, timeout=300) as client:
        task_id, actions = next(iter((await paths(client, env.name, 1)).items()))
    return task_id, actions[:-1]


def main(name: str, env: Served, requests: int, frames: int) -> None:
    """Send everything and report."""
    started = time.monotonic()
    options = ("--max-engines", "4", "--step-timeout-s", "5", "--max-sessions", "1000000", *QUIET)
    with env.running(options, ETO_ENV_KEPT_SESSIONS="100") as service:
        fuzz = Fuzz(service, *asyncio.run(path_of(service, env)))
        schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
        operations = [found for result in schema.get_all_operations() if (found := result.ok()).path not in UNTRIED]
        rounds, number, before_mb = 10, 0, 0.0
        while fuzz.sent < requests:
            for operation in operations:
                with contextlib.suppress(Unsatisfiable):  # nothing can be wrong about a request that carries nothing
                    fuzz.operation(operation, -(-requests // (rounds * len(operations))), number)
                fuzz.neighbour_goes_on()
                if time.monotonic() - started > LONGEST_S:
                    sys.exit(f"FAIL it was not done in {LONGEST_S:g} s")
            for state in fuzz.client.get("/sessions").json()["sessions"]:
                if state["session_id"] != fuzz.neighbour:
                    fuzz.client.delete(f"/sessions/{state['session_id']}")
            if not before_mb and fuzz.sent >= requests / 5:
                before_mb = rss_mb(service)
            number += 1
            now = f"{rss_mb(service):.0f} MB, {len(fuzz.wrong)} wrong, {time.monotonic() - started:.0f} s"
            print(f"round {number}: {fuzz.sent} requests, {now}", flush=True)
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
        name,
        {
            f"at least {requests} requests were sent": fuzz.sent >= requests,
            "no server error, every error in the protocol's shape, the neighbour undisturbed": not fuzz.wrong,
            "no session is left but the neighbour's": left == [fuzz.neighbour],
            "no engine is left busy": 'eto_env_engines{state="busy"} 0.0' in metrics,
            f"memory grew by less than {GROWTH:.0%} after the first fifth": after_mb / before_mb - 1 < GROWTH,
        },
        {
            "n": fuzz.sent,
            "env": env.name,
            "frames": frames,
            "frames_answered": answered,
            "operations": len(operations),
            "statuses": dict(sorted(fuzz.statuses.items())),
            "wrong": len(fuzz.wrong),
            "rss_mb": [round(before_mb, 1), round(after_mb, 1)],
            "elapsed_s": round(time.monotonic() - started, 1),
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Requests and frames that no client would send.")
    parser.add_argument("--short", action="store_true", help="1,000 requests and 200 frames")
    parser.add_argument("--env", choices=ENVIRONMENTS, default="counter", help="what is played (default counter)")
    asked = parser.parse_args()
    main(record("core_fuzz", asked, "counter"), ENVIRONMENTS[asked.env], 1000 if asked.short else 20_000, 200 if asked.short else 2000)
