"""JVMs and workers that are killed or stopped, memory, and how the service ends."""

import os
import signal
import threading
import time

import httpx
import pytest
from conftest import GOLD, act, begin, play, processes, seen
from env_core.process_tree import command, pss_mb, tree

TASK = "task-3-find-living-thing:0"
QUIET = ("--log-level", "critical")


@pytest.fixture(scope="module")
def faulty(serve):
    with serve("--max-sessions", "8", "--engines-warm", "0", "--step-timeout-s", "3", *QUIET) as service:
        yield service


@pytest.fixture
def client(faulty):
    with httpx.Client(base_url=faulty.url, timeout=120) as client:
        yield client


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "sent"), [("java", signal.SIGKILL), ("java", signal.SIGSTOP), ("worker", signal.SIGKILL), ("worker", signal.SIGSTOP)]
)
def test_an_episode_goes_on_as_if_nothing_had_happened(faulty, client, victim, sent):
    undisturbed = play(client, TASK, GOLD[TASK])
    reply = begin(client, TASK)
    session = reply["metadata"]["session_id"]
    stream = [seen(reply)]
    for number, action in enumerate(GOLD[TASK]):
        if number == 5:
            part = "scienceworld.jar" if victim == "java" else "env_core.worker"
            hit = processes(faulty, part)
            assert len(hit) == 1
            for pid in hit:
                os.kill(pid, sent)
        reply = act(client, session, action)
        stream.append(seen(reply))
    assert stream == undisturbed
    assert not [pid for pid in hit if command(pid)]
    client.delete(f"/sessions/{session}")


@pytest.mark.slow
def test_a_killed_jvm_leaves_the_neighbours_alone(faulty, client):
    sessions = [begin(client, TASK)["metadata"]["session_id"] for _ in range(3)]
    alone = [seen(act(client, sessions[0], action)) for action in GOLD[TASK][:6]]
    os.kill(processes(faulty, "scienceworld.jar")[0], signal.SIGKILL)
    for session in sessions[1:]:
        assert [seen(act(client, session, action)) for action in GOLD[TASK][:6]] == alone
    for session in sessions:
        client.delete(f"/sessions/{session}")


@pytest.mark.slow
def test_eight_live_sessions_take_less_than_2500_mb(serve):
    tasks = sorted(GOLD, key=lambda task_id: len(GOLD[task_id]))[-8:]  # long ones: none ends within 20 steps
    with serve("--max-sessions", "8", *QUIET) as service, httpx.Client(base_url=service.url, timeout=120) as client:
        for task_id in tasks:
            session = begin(client, task_id, include=["valid_actions"])["metadata"]["session_id"]
            for action in GOLD[task_id][:20]:
                act(client, session, action, include=["valid_actions"])
        assert sum(not state["done"] for state in client.get("/sessions").json()["sessions"]) == 8
        assert len(processes(service, "scienceworld.jar")) == 8
        used = pss_mb(tree(service.process.pid))
        print(f"8 live sessions: {used:.0f} MB")
        assert used < 2500


@pytest.mark.slow
def test_sigterm_ends_the_service_and_every_jvm(serve):
    with serve("--max-sessions", "3", *QUIET) as service, httpx.Client(base_url=service.url, timeout=60) as client:
        sessions = [begin(client, TASK)["metadata"]["session_id"] for _ in range(3)]
        pids = tree(service.process.pid)
        replies = []

        def step(session):
            body = {"session_id": session, "action": "look around"}
            try:
                replies.append(httpx.post(f"{service.url}/step", json=body, timeout=60).status_code)
            except httpx.ConnectError:  # it came after the service had ended
                replies.append(503)

        threads = [threading.Thread(target=step, args=[session]) for session in sessions]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        service.process.terminate()
        for thread in threads:
            thread.join()
        assert set(replies) <= {200, 503}
        assert service.process.wait(20) == 0
        assert not [pid for pid in pids if command(pid)]


@pytest.mark.slow
def test_a_killed_service_leaves_no_jvm(serve):
    with serve("--max-sessions", "2", *QUIET) as service, httpx.Client(base_url=service.url, timeout=60) as client:
        begin(client, TASK)
        pids = tree(service.process.pid)
        service.process.kill()
        service.process.wait()
        deadline = time.monotonic() + 5
        while any(command(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [pid for pid in pids if command(pid)]
