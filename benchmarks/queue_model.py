"""A rollout's queue in a simulation: policy servers, the engines of their nodes, and the orchestrator. `queue_simulation.py` uses it.

`sessions` episodes at a time on each policy server; a turn is an answer of the server, whose pace falls with the sequences that it decodes
at once (a turn has the pace of its begin), then a step in an engine of the node, on one of its cores, first come first served. Where there
are fewer engines than sessions, a session may find its engine taken, by the rule of services/env-core/env_core/lease.py, and is played
again in another up to where it was. An ended episode passes through the orchestrator, one at a time. Not simulated: faults, network
delays, prompts that miss the prefix cache. ASSUMED marks what no measurement of ours stands behind; the rest names its source.
"""

import heapq
import random
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

GPUS_A_NODE = 8
TURN_IN_REPLAYS, SHORTEST_REPLAY_S = 4.0, 0.005  # as services/env-core/env_core/lease.py


@dataclass(frozen=True)
class Inputs:
    """Seconds. The defaults are a 7-8 B model, one server a GPU, on nodes of eight H100-class GPUs."""

    sessions: int = 64  # of a server; ASSUMED to fit its key-value cache
    token_s: float = 0.008  # ASSUMED: one sequence's token, the weights read once (16 GB at 2 TB/s)
    token_s_per_sequence: float = 0.00006  # ASSUMED: what each further sequence of the batch adds
    first_token_s: float = 0.03  # ASSUMED: prefill of a turn's new tokens, prefix cached
    tokens: float = 40.0  # ASSUMED: of a turn, exponentially distributed about this mean, at least 8
    engines: int = 512  # of a node: one a session, 250 MB each (docs/performance.md)
    cores: int = 64  # of a node, that step; ASSUMED
    step_s: float = 0.00953  # measured: CPU of a ScienceWorld step, docs/performance.md
    reset_s: float = 0.1  # ASSUMED; the check measures this machine's
    driver_s: float = 0.001  # ASSUMED; the check measures it, and then that is used


@dataclass
class Told:
    """What a simulated rollout took; shares are of the time until nine tenths of the episodes had ended."""

    episodes_per_s: float
    turns_per_s: float
    makespan_s: float
    tail_s: float  # from nine tenths of the episodes to the last
    servers_busy: float
    cores_busy: float
    replays_per_turn: float
    driver_busy: float


@dataclass(eq=False)
class Session:
    """An episode under way: `left` turns of it, and since when it holds which engine."""

    server: int
    left: int
    taken: int = 0
    holds: bool = False
    since: float = 0.0
    rests: int = 0  # counts them: what was said of an earlier rest is void


class Engines:
    """The engines of a node, lent as env_core's EnginePool lends them, and the cores that they run on."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.free = inputs.engines
        self.cores = [0.0] * inputs.cores
        self.waiting: deque[Session] = deque()
        self.resting: list[tuple[float, int, Session, int]] = []  # when it may be taken
        self.used = 0.0
        self.replays = self._count = 0
        self.looks_at = float("inf")  # when it is looked again whether an engine may be taken

    def rest(self, session: Session, now: float) -> None:
        """It waits for the model; env_core.lease.Lease.due_at says for how long its engine is safe."""
        replay_s = max(self.inputs.reset_s + session.taken * self.inputs.step_s, SHORTEST_REPLAY_S)
        session.rests += 1
        self._count += 1
        due = min(now + replay_s, max(now, session.since + TURN_IN_REPLAYS * replay_s))
        heapq.heappush(self.resting, (due, self._count, session, session.rests))

    def resume(self, session: Session) -> bool:
        """Whether it still has its engine."""
        session.rests += session.holds
        return session.holds

    def leave(self, session: Session) -> None:
        """Its episode is over."""
        session.holds = False
        self.free += 1

    def lend(self, now: float) -> tuple[list[Session], float | None]:
        """Who of those who wait gets an engine now, and when to ask again."""
        served: list[Session] = []
        while self.waiting:
            while self.resting and self.resting[0][3] != self.resting[0][2].rests:
                heapq.heappop(self.resting)
            if not self.free:
                if not self.resting:
                    return served, None
                if self.resting[0][0] > now:
                    return served, self.resting[0][0]
                _, _, loser, _ = heapq.heappop(self.resting)
                loser.holds = False
                loser.rests += 1
                self.free += 1
            self.free -= 1
            session = self.waiting.popleft()
            session.holds, session.since = True, now
            served.append(session)
        return served, None

    def run(self, now: float, seconds: float) -> float:
        """When a core has done it."""
        done = max(now, heapq.heappop(self.cores)) + seconds
        heapq.heappush(self.cores, done)
        self.used += seconds
        return done


def simulate(turns: list[int], servers: int, inputs: Inputs, rng: random.Random, answer_s: Callable[[int], float] | None = None) -> Told:
    """Play episodes of so many `turns` each; `answer_s(sequences at once)` in the place of the assumed pace."""

    def assumed(busy: int) -> float:
        tokens = max(8.0, rng.expovariate(1 / inputs.tokens))
        return inputs.first_token_s + tokens * (inputs.token_s + busy * inputs.token_s_per_sequence)

    answer = answer_s or assumed
    nodes = [Engines(inputs) for _ in range(max(1, servers // GPUS_A_NODE))]
    decoding = [0] * servers
    queue = iter(turns)
    events: list[tuple[float, int, str, Any]] = []
    count = 0
    driver_free = driver_used = decode_used = 0.0
    ends: list[float] = []

    def push(when: float, what: str, about: Any) -> None:
        nonlocal count
        count += 1
        heapq.heappush(events, (when, count, what, about))

    def node(session: Session) -> Engines:
        return nodes[session.server * len(nodes) // servers]

    def lend(engines: Engines, now: float) -> None:
        served, again = engines.lend(now)
        for session in served:
            engines.replays += session.taken > 0
            # its past, and the step that it came for
            push(engines.run(now, inputs.reset_s + session.taken * inputs.step_s), "acted", session)
        if again is not None and again < engines.looks_at:
            engines.looks_at = again
            push(again, "due", engines)

    def begin(now: float, server: int) -> None:
        left = next(queue, None)
        if left is not None:
            session = Session(server, left)
            node(session).waiting.append(session)
            lend(node(session), now)

    for _ in range(inputs.sessions):
        for server in range(servers):
            begin(0.0, server)
    while events:
        now, _, what, about = heapq.heappop(events)
        if what == "due":
            if now >= about.looks_at:
                about.looks_at = float("inf")
                lend(about, now)
            continue
        session, engines = about, node(about)
        if what == "answered":
            decoding[session.server] -= 1
            session.taken += 1
            session.left -= 1
            if engines.resume(session):
                push(engines.run(now, inputs.step_s), "acted", session)
            else:
                engines.waiting.append(session)
                lend(engines, now)
        elif session.left > 0:  # the observation is there: ask the model
            engines.rest(session, now)
            decoding[session.server] += 1
            took = answer(decoding[session.server])
            decode_used += took / inputs.sessions
            push(now + took, "answered", session)
            lend(engines, now)
        else:
            engines.leave(session)
            driver_free = max(now, driver_free) + inputs.driver_s
            driver_used += inputs.driver_s
            ends.append(driver_free)
            begin(driver_free, session.server)
            lend(engines, now)
    ends.sort()
    most = ends[len(ends) * 9 // 10 - 1]
    made = 0.9 * len(ends) / most
    last = ends[-1]
    return Told(
        episodes_per_s=made,
        turns_per_s=made * statistics.mean(turns),
        makespan_s=last,
        tail_s=last - most,
        servers_busy=decode_used / servers / last,
        cores_busy=sum(e.used for e in nodes) / (len(nodes) * inputs.cores) / last,
        replays_per_turn=sum(e.replays for e in nodes) / sum(turns),
        driver_busy=driver_used / last,
    )
