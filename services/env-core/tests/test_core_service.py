"""The service as a process: limits, expiry, token, start and stop."""

import http.client
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from env_core.process_tree import command, tree
from env_core.running import start_service

TESTS = str(Path(__file__).parent)
QUIET = ("--log-level", "critical")


def run_cli(*arguments, **variables):
    environment = {**os.environ, "PYTHONPATH": TESTS, **variables}
    return subprocess.run([sys.executable, "-m", "counter_env", *arguments], capture_output=True, text=True, timeout=20, env=environment)


def gone(pids, within_s=5.0):
    deadline = time.monotonic() + within_s
    while any(command(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(command(pid) for pid in pids)


def test_the_session_cap_is_answered_with_429_and_an_episodes_end_makes_room(serve):
    with serve("--max-sessions", "2", *QUIET) as service, httpx.Client(base_url=service.url, timeout=20) as client:
        sessions = [client.post("/reset", json={"task_id": "count:1"}).json()["metadata"]["session_id"] for _ in range(2)]
        refused = client.post("/reset", json={"task_id": "count:1"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_sessions")
        assert int(refused.headers["retry-after"]) >= 1
        client.post("/step", json={"session_id": sessions[0], "action": "add 1"})
        assert client.post("/reset", json={"task_id": "count:1"}).status_code == 200
        assert client.post("/reset", json={"task_id": "count:1", "session_id": sessions[0]}).status_code == 429
        client.delete(f"/sessions/{sessions[1]}")
        assert client.post("/reset", json={"task_id": "count:1", "session_id": sessions[0]}).status_code == 200


def test_a_session_that_nobody_uses_expires_and_says_so(serve):
    with serve("--idle-timeout-s", "0.4", *QUIET) as service, httpx.Client(base_url=service.url) as client:
        session = client.post("/reset", json={"task_id": "count:1"}).json()["metadata"]["session_id"]
        time.sleep(1)
        for reply in (
            client.get("/state", params={"session_id": session}),
            client.post("/step", json={"session_id": session, "action": "add 1"}),
        ):
            assert (reply.status_code, reply.json()["error"]["code"]) == (404, "expired_session")


def test_only_the_last_finished_sessions_are_kept(serve):
    with serve(*QUIET, ETO_ENV_KEPT_SESSIONS="2") as service, httpx.Client(base_url=service.url) as client:
        for _ in range(4):
            session = client.post("/reset", json={"task_id": "count:1"}).json()["metadata"]["session_id"]
            client.post("/step", json={"session_id": session, "action": "add 1"})
        assert len(client.get("/sessions").json()["sessions"]) in (2, 3)


def test_a_token_is_asked_of_everything_but_health(serve):
    service = start_service("counter_env", QUIET, {"PYTHONPATH": TESTS, "ETO_ENV_TOKEN": "s3cret"})
    try:
        right = {"Authorization": "Bearer s3cret"}
        assert httpx.get(f"{service.url}/health").status_code == 200
        for path in ("/ready", "/sessions", "/docs", "/openapi.json", "/nowhere"):
            for headers in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": b"Bearer \xff"}):
                refused = httpx.get(service.url + path, headers=headers)
                assert (refused.status_code, refused.json()["error"]["code"]) == (401, "unauthorized")
        assert httpx.get(f"{service.url}/sessions", headers=right).status_code == 200
    finally:
        service.stop()


def test_without_an_expert_the_answer_is_501(serve):
    with serve(*QUIET, COUNTER_NO_EXPERT="1") as service:
        reply = httpx.get(f"{service.url}/tasks/count:1/expert")
        assert (reply.status_code, reply.json()["error"]["code"]) == (501, "no_expert")


def test_engines_that_cannot_start_are_told_and_the_service_is_not_ready(serve):
    service = start_service("counter_env", QUIET, {"PYTHONPATH": TESTS, "COUNTER_BROKEN": "1"})
    try:
        reply = httpx.post(f"{service.url}/reset", json={"task_id": "count:1"}, timeout=20)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_unavailable")
        assert reply.headers["retry-after"]
        assert httpx.get(f"{service.url}/ready").status_code == 503
        assert httpx.get(f"{service.url}/health").status_code == 200
    finally:
        service.stop()


def test_sigterm_lets_a_step_end_refuses_new_episodes_and_leaves_no_process(serve):
    with serve(*QUIET) as service, httpx.Client(base_url=service.url, timeout=20) as client:
        session = client.post("/reset", json={"task_id": "count:1"}).json()["metadata"]["session_id"]
        pids = tree(service.process.pid)
        replies = []
        body = {"session_id": session, "action": "sleep 1.5"}
        stepping = threading.Thread(target=lambda: replies.append(httpx.post(f"{service.url}/step", json=body, timeout=20)))
        stepping.start()
        time.sleep(0.4)
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        refused = client.post("/reset", json={"task_id": "count:1"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert client.get("/ready").status_code == 503
        stepping.join()
        assert replies[0].status_code == 200
        assert service.process.wait(10) == 0
        assert gone(pids)


def test_a_hanging_engine_does_not_keep_the_service_from_stopping(serve):
    with serve(*QUIET, ETO_ENV_DRAIN_TIMEOUT_S="0.5") as service, httpx.Client(base_url=service.url, timeout=20) as client:
        session = client.post("/reset", json={"task_id": "count:1"}).json()["metadata"]["session_id"]
        pids = tree(service.process.pid)
        body = {"session_id": session, "action": "sleep 1000"}
        stepping = threading.Thread(target=lambda: httpx.post(f"{service.url}/step", json=body, timeout=20))
        stepping.start()
        time.sleep(0.3)
        service.process.terminate()
        service.process.wait(10)
        stepping.join()
        assert gone(pids)


def test_a_killed_service_leaves_no_worker(serve):
    with serve(*QUIET) as service:
        pids = tree(service.process.pid)
        assert len(pids) > 1
        service.process.kill()
        service.process.wait()
        assert gone(pids)


def test_a_port_in_use_is_one_sentence_and_status_2():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_cli("serve", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "choose another with --port" in done.stderr


def test_a_missing_dependency_of_the_environment_is_one_sentence_and_status_2():
    done = run_cli("serve", COUNTER_MISSING="1")
    assert (done.returncode, done.stderr) == (2, "counter_env: counter needs fingers, but there are none; grow some.\n")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org"])
def test_other_machines_are_served_only_with_a_token_or_the_say_so(host):
    done = run_cli("serve", "--host", host)
    assert done.returncode == 2
    assert "ETO_ENV_TOKEN" in done.stderr


def test_a_bad_setting_is_one_sentence_and_status_2():
    for done in (run_cli("serve", "--max-sessions", "0"), run_cli("serve", ETO_ENV_PORT="many")):
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1


def test_help_is_instant():
    run_cli("--help")
    started = time.monotonic()
    assert run_cli("serve", "--help").returncode == 0
    assert time.monotonic() - started < 0.5


@pytest.mark.slow
def test_an_idle_connection_is_kept_longer_than_clients_keep_it(serve):
    with serve(*QUIET) as service:
        connection = http.client.HTTPConnection(service.url.removeprefix("http://"))
        connection.request("GET", "/health")
        assert connection.getresponse().read()
        closed, _, _ = select.select([connection.sock], [], [], 7)  # httpx keeps one for 5 s, and so does uvicorn unless told
        assert not closed
        connection.close()
