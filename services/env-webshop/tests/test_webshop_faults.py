"""Workers that are killed or stopped, sessions by the thousand, memory, fuzz, and how the service ends."""

import json
import os
import signal

import httpx
import pytest
from conftest import TASKS, act, begin, detour, expert, play, seen, workers
from env_core.process_tree import command, pss_mb, tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

QUIET = ("--log-level", "critical")


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_all_sessions_of_a_worker_go_on_as_if_nothing_had_happened(serve, sent):
    with serve("--step-timeout-s", "3", *QUIET) as service, httpx.Client(base_url=service.url, timeout=120) as client:
        tasks = TASKS[:4]
        actions = {task_id: detour(expert(client, task_id)) for task_id in tasks}
        undisturbed = {task_id: play(client, task_id, actions[task_id]) for task_id in tasks}
        replies = {task_id: begin(client, task_id, max_steps=1000) for task_id in tasks}
        streams = {task_id: [seen(reply)] for task_id, reply in replies.items()}
        hit = []
        for number in range(max(len(found) for found in actions.values())):
            if number == 5:
                hit = workers(service)
                for pid in hit:
                    os.kill(pid, sent)
            for task_id in tasks:
                if number < len(actions[task_id]):
                    reply = act(client, replies[task_id]["metadata"]["session_id"], actions[task_id][number])
                    streams[task_id].append(seen(reply))
        assert streams == undisturbed
        assert hit
        assert not [pid for pid in hit if command(pid)]


@pytest.mark.slow
def test_three_hundred_open_sessions_share_a_worker_and_take_little_memory(serve):
    with serve("--max-sessions", "300", *QUIET) as service, httpx.Client(base_url=service.url, timeout=120) as client:
        sessions = [begin(client, f"sample:{number}")["metadata"]["session_id"] for number in range(20)]
        for session in sessions:
            act(client, session, "search[lamp]")
        before = pss_mb(tree(service.process.pid))
        sessions += [begin(client, f"sample:{number}")["metadata"]["session_id"] for number in range(20, 300)]
        for session in sessions:
            act(client, session, "search[shirt]")
        grown = pss_mb(tree(service.process.pid)) - before
        assert len(workers(service)) == 1
        assert client.post("/reset", json={"task_id": "sample:1"}).status_code == 429
        print(f"20 sessions: {before:.0f} MB; 280 more: {grown:.0f} MB")
        assert grown < 280 * 0.15


@pytest.mark.slow
def test_memory_does_not_grow_with_the_episodes_that_were_played(serve):
    with serve("--max-sessions", "4", *QUIET, ETO_ENV_KEPT_SESSIONS="10") as service, httpx.Client(base_url=service.url) as client:
        actions = {task_id: expert(client, task_id) for task_id in TASKS}

        def rounds(count):
            for _ in range(count):
                for task_id in TASKS:
                    play(client, task_id, actions[task_id])
            return pss_mb(tree(service.process.pid))

        before = rounds(12)
        after = rounds(12)
        print(f"after 192 episodes {before:.1f} MB, after 384 {after:.1f} MB")
        assert after - before < 16


@pytest.mark.slow
def test_sigterm_ends_the_service_and_its_workers(serve):
    with serve(*QUIET) as service, httpx.Client(base_url=service.url, timeout=60) as client:
        begin(client, "sample:1")
        pids = tree(service.process.pid)
        service.process.terminate()
        assert service.process.wait(20) == 0
        assert not [pid for pid in pids if command(pid)]


WORDS = st.sampled_from(
    ["search[", "click[", "]", "[", "buy now", "< prev", "next >", "back to search", "smpl000001", "lamp", "\u0000", "<r>", "<c>", " "]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(WORDS | st.text(max_size=5), min_size=1, max_size=5).map("".join), max_size=8))
def test_no_action_at_all_gives_a_server_error(client, actions):
    session = begin(client, "sample:7", max_steps=1000)["metadata"]["session_id"]
    for action in actions:
        reply = client.post("/step", content=json.dumps({"session_id": session, "action": action}))
        assert reply.status_code in (200, 409, 422), reply.text
    client.delete(f"/sessions/{session}")
