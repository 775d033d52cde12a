"""Forks and batches, OpenEnv's WebSocket, what watches the service."""

import json
import re
import signal
import subprocess
import sys
import time

import httpx
import pytest
from conftest import TESTS
from env_core.running import start_service
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

QUIET = ("--log-level", "critical")


@pytest.fixture
def ws(counter):
    with connect(counter.url.replace("http", "ws") + "/ws", max_size=None) as socket:
        yield socket


def ask(socket, message):
    socket.send(message if isinstance(message, str | bytes) else json.dumps(message))
    return json.loads(socket.recv(timeout=20))


def code(answer):
    assert answer["type"] == "error"
    return answer["data"]["code"]


def test_a_fork_goes_its_own_way_from_the_same_state(client, begin, step):
    session = begin(episode_id="old")
    before = step(session, "add 2").json()
    reply = client.post(f"/sessions/{session}/fork", json={"episode_id": "new"})
    fork = reply.json()
    assert fork["metadata"]["session_id"] == reply.headers["x-session-id"] != session
    assert fork["metadata"]["episode_id"] == "new"
    assert (fork["observation"], fork["metadata"]["step"], fork["reward"]) == (before["observation"], 1, 0.0)
    assert step(fork["metadata"]["session_id"], "add 3").json()["observation"]["text"] == "The count is 5."
    assert step(session, "add 1").json()["observation"]["text"] == "The count is 3."


def test_an_episode_that_is_over_cannot_be_forked(client, begin, step):
    session = begin("count:1")
    step(session, "add 1")
    assert client.post(f"/sessions/{session}/fork").json()["error"]["code"] == "episode_done"
    assert client.post("/sessions/nope/fork").json()["error"]["code"] == "unknown_session"


def test_a_batch_answers_each_of_its_items_in_order(client):
    resets = [{"task_id": "count:3"}, {"task_id": "nonsense"}, {"split": "train", "index": 1}]
    begun = client.post("/batch/reset", json={"resets": resets}).json()["results"]
    assert [result["status"] for result in begun] == [200, 404, 200]
    assert begun[1]["error"]["code"] == "unknown_task"
    first, second = (begun[i]["reply"]["metadata"]["session_id"] for i in (0, 2))
    steps = [{"session_id": second, "action": "add 2"}, {"session_id": first, "action": "add 1"}, {"session_id": "nope", "action": "a"}]
    taken = client.post("/batch/step", json={"steps": steps}).json()["results"]
    assert [result["status"] for result in taken] == [200, 200, 404]
    assert [result["reply"]["observation"]["text"] for result in taken[:2]] == ["The count is 2.", "The count is 1."]
    assert (taken[0]["reply"]["done"], taken[1]["reply"]["done"]) == (True, False)


@pytest.mark.parametrize(
    "body", [{}, {"steps": []}, {"steps": [{"session_id": "a"}]}, {"steps": [{"session_id": "a", "action": "b"}] * 257}]
)
def test_a_batch_that_is_none_is_refused_as_a_whole(client, body):
    assert client.post("/batch/step", json=body).status_code == 422


def test_a_repeated_reset_opens_no_second_session(client):
    first, second = (client.post("/reset", json={"task_id": "count:3", "request_id": "once"}) for _ in range(2))
    assert first.content == second.content
    assert len(client.get("/sessions").json()["sessions"]) == 1


def test_a_request_from_long_ago_is_not_taken_again(client, begin, step):
    session = begin()
    for number in range(6):
        step(session, "add 1", request_id=str(number))
    forgotten = step(session, "add 1", request_id="0")
    assert (forgotten.status_code, forgotten.json()["error"]["code"]) == (409, "reply_forgotten")
    assert step(session, "add 1", request_id="5").json()["metadata"]["step"] == 6


def test_an_episode_is_played_over_the_websocket(ws):
    begun = ask(ws, {"type": "reset", "data": {"task_id": "count:2", "episode_id": "mine", "seed": None}})
    assert begun["type"] == "observation"
    assert sorted(begun["data"]) == ["done", "metadata", "observation", "reward"]
    assert not ask(ws, {"type": "step", "data": {"action": "add 1", "metadata": {"tag": 1}}})["data"]["done"]
    state = ask(ws, {"type": "state"})
    assert (state["type"], state["data"]["episode_id"], state["data"]["step_count"]) == ("state", "mine", 1)
    last = ask(ws, {"type": "step", "data": {"action": "add 1"}})["data"]
    assert (last["done"], last["metadata"]["score"]) == (True, 1.0)
    assert ask(ws, {"type": "reset", "data": {"task_id": "count:5"}})["data"]["metadata"]["session_id"] == last["metadata"]["session_id"]


def test_a_reset_with_nothing_or_a_seed_alone_takes_a_task_by_it(ws):
    assert ask(ws, {"type": "reset"})["data"]["metadata"]["task_id"] == "count:1"
    assert ask(ws, {"type": "reset", "data": {"seed": 12}})["data"]["metadata"]["task_id"] == "count:3"


BAD_FRAMES = [
    ("", "INVALID_JSON"),
    ("{", "INVALID_JSON"),
    (b"\xff\x00", "INVALID_JSON"),
    ("[" * 100_000, "INVALID_JSON"),
    ('{"type": "\\ud800"}', "INVALID_JSON"),
    ("[]", "VALIDATION_ERROR"),
    ("null", "VALIDATION_ERROR"),
    ({"type": "step", "data": []}, "VALIDATION_ERROR"),
    ({"type": "reset", "more": 1}, "VALIDATION_ERROR"),
    ({"type": "reset", "data": {"task_id": 1}}, "VALIDATION_ERROR"),
    ({"type": "reset", "data": {"unknown": 1}}, "VALIDATION_ERROR"),
    ({"type": "reset", "data": {"session_id": "a"}}, "VALIDATION_ERROR"),
    ({"type": "step", "data": {}}, "VALIDATION_ERROR"),
    ({"type": "step", "data": {"action": " "}}, "VALIDATION_ERROR"),
    ({"type": "step", "data": {"action": "a", "more": 1}}, "VALIDATION_ERROR"),
    ({"type": "step", "data": {"action": "a"}}, "SESSION_ERROR"),
    ({"type": "state"}, "SESSION_ERROR"),
    ({"type": "nonsense"}, "UNKNOWN_TYPE"),
    ({"type": ["reset"]}, "UNKNOWN_TYPE"),
    ({}, "UNKNOWN_TYPE"),
    ({"type": "reset", "data": {"task_id": "nonsense"}}, "EXECUTION_ERROR"),
]


@pytest.mark.parametrize(("frame", "expected"), BAD_FRAMES)
def test_a_bad_frame_is_answered_and_the_connection_goes_on(ws, frame, expected):
    assert code(ask(ws, frame)) == expected
    assert ask(ws, {"type": "reset", "data": {"task_id": "count:2"}})["type"] == "observation"


def test_a_step_after_the_end_is_an_error_and_the_next_reset_is_not(ws):
    ask(ws, {"type": "reset", "data": {"task_id": "count:1"}})
    ask(ws, {"type": "step", "data": {"action": "add 1"}})
    assert code(ask(ws, {"type": "step", "data": {"action": "add 1"}})) == "EXECUTION_ERROR"
    assert ask(ws, {"type": "reset"})["type"] == "observation"


def test_a_session_ends_with_its_connection(client, counter):
    with connect(counter.url.replace("http", "ws") + "/ws") as socket:
        ask(socket, {"type": "reset"})
        assert len(client.get("/sessions").json()["sessions"]) == 1
    deadline = time.monotonic() + 5
    while client.get("/sessions").json()["sessions"] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert client.get("/sessions").json()["sessions"] == []


def test_a_connection_may_go_on_with_a_session_that_exists(client, counter, begin, step):
    session = begin()
    step(session, "add 1")
    url = counter.url.replace("http", "ws") + "/ws?session_id="
    with connect(url + session) as socket:
        assert ask(socket, {"type": "step", "data": {"action": "add 1"}})["data"]["observation"]["text"] == "The count is 2."
    assert step(session, "add 1").json()["observation"]["text"] == "The count is 3."
    with connect(url + "nope") as socket:
        assert code(json.loads(socket.recv(timeout=10))) == "SESSION_ERROR"
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=10)


def test_a_session_that_expires_says_so_on_its_connection_and_closes_it(serve):
    with serve("--idle-timeout-s", "0.4", *QUIET) as service, connect(service.url.replace("http", "ws") + "/ws") as socket:
        ask(socket, {"type": "reset"})
        expired = json.loads(socket.recv(timeout=10))
        assert code(expired) == "SESSION_ERROR"
        assert "0.4 s" in expired["data"]["message"]
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=10)


def test_a_connection_over_the_cap_is_told_and_closed(serve):
    with serve("--max-sessions", "1", *QUIET) as service:
        url = service.url.replace("http", "ws") + "/ws"
        with connect(url) as first, connect(url) as early:
            ask(first, {"type": "reset"})
            with connect(url) as late:
                early.send('{"type": "reset"}')
                for socket in (early, late):
                    full = json.loads(socket.recv(timeout=10))
                    assert code(full) == "CAPACITY_REACHED"
                    assert (full["data"]["active_sessions"], full["data"]["max_sessions"]) == (1, 1)
                    with pytest.raises(ConnectionClosed):
                        socket.recv(timeout=10)


def test_json_rpc_answers_and_opens_and_closes_sessions(client, ws):
    def rpc(body):
        return client.post("/mcp", content=json.dumps(body)).json()

    assert rpc({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}) == {"jsonrpc": "2.0", "id": 1, "result": {"tools": []}}
    assert rpc({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "x"}})["error"]["code"] == -32601
    assert rpc({})["error"]["code"] == -32600
    assert client.post("/mcp", content=b"{").json()["error"]["code"] == -32700
    session = rpc({"jsonrpc": "2.0", "id": "a", "method": "openenv/session/create"})["result"]["session_id"]
    assert client.get("/state", params={"session_id": session}).status_code == 200
    close = {"jsonrpc": "2.0", "id": 3, "method": "openenv/session/close", "params": {"session_id": session}}
    assert rpc(close)["result"]["closed"]
    assert rpc(close)["error"]["code"] == -32602
    answer = ask(ws, {"type": "mcp", "data": {"jsonrpc": "2.0", "id": 9, "method": "tools/list"}})
    assert answer == {"type": "mcp", "data": {"jsonrpc": "2.0", "id": 9, "result": {"tools": []}}}


def test_pages_of_other_sites_are_refused_and_no_leave_is_given(client, counter, begin):
    session = begin()
    body = json.dumps({"session_id": session, "action": "add 1"})
    refused = client.post("/step", content=body, headers={"Origin": "http://elsewhere.example", "Content-Type": "text/plain"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "other_origin")
    assert "access-control-allow-origin" not in client.options("/step", headers={"Origin": counter.url}).headers
    assert client.post("/step", content=body, headers={"Origin": counter.url}).status_code == 200
    with pytest.raises(Exception, match="403"):
        connect(counter.url.replace("http", "ws") + "/ws", additional_headers={"Origin": "http://elsewhere.example"})


def test_a_websocket_needs_the_token_too(serve):
    service = start_service("counter_env", QUIET, {"PYTHONPATH": TESTS, "ETO_ENV_TOKEN": "s3cret"})
    try:
        url = service.url.replace("http", "ws") + "/ws"
        with pytest.raises(Exception, match="401"):
            connect(url)
        with connect(url, additional_headers={"Authorization": "Bearer s3cret"}) as socket:
            assert ask(socket, {"type": "reset"})["type"] == "observation"
    finally:
        service.stop()


def test_metrics_tell_sessions_engines_times_restores_kills_and_rejections(serve):
    with serve(*QUIET) as service, httpx.Client(base_url=service.url, timeout=20) as client:
        session = client.post("/reset", json={"task_id": "count:3"}).json()["metadata"]["session_id"]
        for action in ("add 1", "die", "add 1"):
            client.post("/step", json={"session_id": session, "action": action})
        page = client.get("/metrics")
        assert page.headers["content-type"].startswith("text/plain")
        value = dict(re.findall(r"^(\w+(?:\{[^}]*\})?) ([0-9.e+-]+)$", page.text, re.M))
        assert float(value['eto_env_sessions{state="idle"}']) == 1
        assert float(value['eto_env_engines{state="resting"}']) == 1
        assert float(value["eto_env_step_seconds_count"]) == 2
        assert float(value["eto_env_reset_seconds_count"]) == 1
        assert float(value["eto_env_restore_seconds_count"]) == 3
        assert float(value['eto_env_worker_ends_total{reason="lost"}']) == 3
        assert float(value['eto_env_rejections_total{code="engine_unavailable"}']) == 1
        assert float(value["process_resident_memory_bytes"]) > 1e7


def test_the_log_is_json_with_the_session_and_the_request(tmp_path):
    with open(tmp_path / "log", "w+") as log:
        command = [sys.executable, "-m", "counter_env", "serve", "--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env={"PYTHONPATH": TESTS, "PATH": ""})
        try:
            url = process.stdout.readline().split()[-1]
            session = httpx.post(f"{url}/reset", json={"task_id": "count:3"}, timeout=60).json()["metadata"]["session_id"]
            body = {"session_id": session, "action": "die"}
            reply = httpx.post(f"{url}/step", json=body, headers={"X-Request-Id": "mine"}, timeout=60)
            assert reply.headers["x-request-id"] == "mine"
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        finally:
            process.kill()
        log.seek(0)
        lines = [json.loads(line) for line in log]
    lost = [line for line in lines if "lost its engine" in line["message"]]
    assert len(lost) == 3
    assert {(line["session_id"], line["request_id"], line["level"]) for line in lost} == {(session, "mine", "warning")}
