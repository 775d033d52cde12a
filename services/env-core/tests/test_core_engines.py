"""More sessions than engines, several engines in a worker, recycling, pages."""

import itertools
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from env_core.process_tree import command, tree

QUIET = ("--log-level", "critical")


def workers(service):
    return [pid for pid in tree(service.process.pid) if "env_core.worker" in command(pid)]


class Play:
    """A client in few words."""

    def __init__(self, service):
        self.client = httpx.Client(base_url=service.url, timeout=60)

    def begin(self, task_id="count:10", **fields):
        reply = self.client.post("/reset", json={"task_id": task_id, **fields})
        assert reply.status_code == 200, reply.text
        return reply.json()["metadata"]["session_id"]

    def say(self, session, action, **fields):
        reply = self.client.post("/step", json={"session_id": session, "action": action, **fields})
        return reply.json()["observation"]["text"] if reply.status_code == 200 else reply.json()["error"]["code"]


@pytest.mark.parametrize("slots", ["1", "3"])
def test_twenty_sessions_on_three_engines_each_see_their_own_world(serve, slots):
    with serve("--max-engines", "3", *QUIET, COUNTER_SLOTS=slots) as service:
        play = Play(service)
        sessions = [play.begin(seed=number % 4) for number in range(20)]
        for turn in range(1, 4):
            for number, session in enumerate(sessions):
                assert play.say(session, "add 1") == f"The count is {number % 4 + turn}."
        assert len(workers(service)) == (1 if slots == "3" else 3)


def test_sessions_that_race_for_two_engines_all_come_to_their_ends(serve):
    with serve("--max-engines", "2", *QUIET) as service, ThreadPoolExecutor(16) as threads:
        play = Play(service)

        def episode(number):
            session = play.begin("count:8")
            return [play.say(session, "add 1") for _ in range(8)]

        assert list(threads.map(episode, range(48))) == [[f"The count is {n}." for n in range(1, 9)]] * 48


def test_a_session_that_waits_for_an_engine_keeps_its_own_deadline(serve):
    with serve("--max-engines", "1", *QUIET, "--step-timeout-s", "1") as service, ThreadPoolExecutor() as threads:
        play = Play(service)
        one, other = play.begin(), play.begin()
        busy = [threads.submit(play.say, one, "sleep 0.8", timeout_s=5), threads.submit(play.say, other, "sleep 0.8", timeout_s=1)]
        assert [reply.result() for reply in busy] == ["The count is 0."] * 2


@pytest.mark.parametrize("action", ["die", "raise", "sleep 100"])
def test_an_action_that_ends_a_shared_worker_costs_its_neighbours_only_a_replay(serve, action):
    with serve("--max-engines", "3", *QUIET, COUNTER_SLOTS="3") as service, ThreadPoolExecutor() as threads:
        play = Play(service)
        culprit, *neighbours = [play.begin("count:30") for _ in range(3)]
        turns = threads.submit(play.say, culprit, action, timeout_s=0.3)
        for turn, session in itertools.product(range(1, 9), neighbours):
            assert play.say(session, "add 1") == f"The count is {turn}."
        assert turns.result() in ("engine_unavailable", "step_timeout")
        assert play.say(culprit, "add 1") == "The count is 1."


def test_a_killed_shared_worker_is_replaced_and_all_its_sessions_go_on(serve):
    with serve("--max-engines", "4", *QUIET, COUNTER_SLOTS="4") as service:
        play = Play(service)
        sessions = [play.begin(seed=number) for number in range(4)]
        for session in sessions:
            play.say(session, "add 1")
        for pid in workers(service):
            os.kill(pid, signal.SIGKILL)
        assert [play.say(session, "add 1") for session in sessions] == [f"The count is {number + 2}." for number in range(4)]


@pytest.mark.parametrize("slots", ["1", "2"])
def test_a_worker_that_grew_too_large_is_recycled_and_its_sessions_move(serve, slots):
    with serve("--max-engines", "2", *QUIET, COUNTER_SLOTS=slots) as service:
        play = Play(service)
        fat, lean = play.begin(), play.begin()
        assert [play.say(session, "add 2") for session in (fat, lean)] == ["The count is 2."] * 2
        before = set(workers(service))
        play.say(fat, "grow 250")
        assert play.say(lean, "add 1") == "The count is 3."
        deadline = time.monotonic() + 30  # the answer does not wait for the worker's end
        while not before - set(workers(service)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(before - set(workers(service))) == 1, "one worker has ended"


def test_a_session_keeps_its_engine_while_no_other_needs_it(serve):
    with serve("--max-engines", "2", *QUIET) as service:
        play = Play(service)
        sessions = [play.begin(), play.begin()]
        first = [play.say(session, "pid") for session in sessions]
        assert [play.say(session, "pid") for session in sessions] == first


def test_a_page_is_shown_and_nothing_in_it_may_run(client, begin, step):
    session = begin()
    step(session, "add 3")
    page = client.get(f"/sessions/{session}/page")
    assert "The count is 3." in page.text
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert "script-src" not in policy
    assert client.get("/sessions/nope/page").status_code == 404


def test_without_pages_the_answer_is_501(serve):
    with serve(*QUIET, COUNTER_NO_PAGE="1") as service:
        play = Play(service)
        refused = play.client.get(f"/sessions/{play.begin()}/page")
        assert (refused.status_code, refused.json()["error"]["code"]) == (501, "no_page")
