"""No input gives a 500 or disturbs a neighbour."""

import json
import socket

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

REFUSED = [
    ("/reset", {"task_id": "count:x"}, 404, "unknown_task"),
    ("/reset", {"task_id": "nope"}, 404, "unknown_task"),
    ("/reset", {"task_id": "a\u0000b"}, 404, "unknown_task"),
    ("/reset", {"split": "nope", "index": 0}, 404, "unknown_split"),
    ("/reset", {"split": "train", "index": 10}, 404, "unknown_task"),
    ("/reset", {"split": "train", "index": -1}, 404, "unknown_task"),
    ("/reset", {"split": "train", "index": 10**30}, 404, "unknown_task"),
    ("/reset", {"split": "train"}, 422, "invalid_request"),
    ("/reset", {"task_id": "count:1", "split": "train", "index": 0}, 422, "invalid_request"),
    ("/reset", {}, 422, "invalid_request"),
    ("/reset", [], 422, "invalid_request"),
    ("/reset", None, 422, "invalid_request"),
    ("/reset", {"task_id": 1}, 422, "invalid_request"),
    ("/reset", {"task_id": "count:1", "seed": -1}, 422, "invalid_request"),
    ("/reset", {"task_id": "count:1", "seed": 2**63}, 422, "invalid_request"),
    ("/reset", {"task_id": "count:1", "seed": 1.5}, 422, "invalid_request"),
    ("/reset", {"task_id": "count:1", "max_steps": 0}, 422, "invalid_request"),
    ("/reset", {"task_id": "count:1", "max_steps": 1001}, 422, "invalid_request"),
    ("/reset", {"task_id": "count:1", "unknown": 1}, 422, "invalid_request"),
    ("/reset", {"task_id": "count:1", "include": ["everything"]}, 422, "invalid_request"),
    ("/reset", {"task_id": "count:1", "session_id": "nope"}, 404, "unknown_session"),
    ("/reset", {"task_id": "x" * 100_000}, 422, "invalid_request"),
    ("/step", {"session_id": "nope", "action": "add 1"}, 404, "unknown_session"),
    ("/step", {"action": "add 1"}, 422, "invalid_request"),
    ("/step", {"session_id": "SESSION"}, 422, "invalid_request"),
    ("/step", {"session_id": "SESSION", "action": ""}, 422, "invalid_request"),
    ("/step", {"session_id": "SESSION", "action": " \n"}, 422, "invalid_request"),
    ("/step", {"session_id": "SESSION", "action": {"action": ""}}, 422, "invalid_request"),
    ("/step", {"session_id": "SESSION", "action": {"action": "a", "more": 1}}, 422, "invalid_request"),
    ("/step", {"session_id": "SESSION", "action": ["add 1"]}, 422, "invalid_request"),
    ("/step", {"session_id": "SESSION", "action": None}, 422, "invalid_request"),
    ("/step", {"session_id": "SESSION", "action": "a" * 8193}, 422, "invalid_request"),
    ("/step", {"session_id": "SESSION", "action": "a" * 100_000}, 422, "invalid_request"),
    ("/step", {"session_id": "SESSION", "action": "a" * 2_000_000}, 413, "body_too_large"),
    ("/step", {"session_id": "SESSION", "action": "a", "timeout_s": 0}, 422, "invalid_request"),
    ("/step", {"session_id": "SESSION", "action": "a", "timeout_s": 1e9}, 422, "invalid_request"),
    ("/step", {"session_id": "SESSION", "action": "a", "unknown": 1}, 422, "invalid_request"),
    ("/counter/num_tasks", {"split": "nope"}, 404, "unknown_split"),
    ("/counter/tasks", {"split": "a\u0000\u00e9"}, 404, "unknown_split"),
    ("/counter/task", {"split": "train", "index": 99}, 404, "unknown_task"),
    ("/counter/task", {"split": "train", "index": True}, 422, "invalid_request"),
    ("/counter/task_range", {"split": "train", "start": -1}, 422, "invalid_request"),
    ("/elsewhere/tasks", {"split": "train"}, 404, "unknown_environment"),
    ("/nowhere", {}, 404, "not_found"),
    ("/health", {}, 405, "method_not_allowed"),
]

RAW = [
    b"",
    b"{",
    b'{"session_id": "SESSION", "action": "a"',
    b"\xff\xfe\x00",
    b'{"session_id": "SESSION", "action": "\\ud800 lone"}',
    b'{"session_id": "SESSION", "action": "raw \xed\xa0\x80"}',
    b'{"session_id": "SESSION", "action": NaN}',
    b"[" * 200_000,
    b'{"a":' * 100_000,
    b"9" * 100_000,
]


def refusal(reply: httpx.Response) -> tuple[int, str]:
    error = reply.json()["error"]
    assert sorted(error) == ["code", "message"]
    assert "Traceback" not in error["message"]
    return reply.status_code, error["code"]


@pytest.mark.parametrize(("path", "body", "status", "code"), REFUSED)
def test_bad_input_is_refused_and_the_neighbour_plays_on(client, begin, step, path, body, status, code):
    session = begin()
    step(session, "add 1")
    sent = json.dumps(body).replace('"SESSION"', json.dumps(session))
    assert refusal(client.post(path, content=sent)) == (status, code)
    assert step(session, "add 1").json()["observation"]["text"] == "The count is 2."


@pytest.mark.parametrize("raw", RAW)
def test_bad_json_is_refused(client, begin, step, raw):
    session = begin()
    sent = raw.replace(b"SESSION", session.encode())
    assert refusal(client.post("/step", content=sent)) == (422, "invalid_request")
    assert step(session, "add 1").json()["observation"]["text"] == "The count is 1."


def test_a_huge_body_without_a_declared_length_is_refused(client):
    assert refusal(client.post("/step", content=(b"x" * 65536 for _ in range(64)))) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/step", {}, 413),
        ("/nope", {}, 404),
        ("/step", {"Origin": "http://elsewhere"}, 403),
    ],
)
def test_no_reply_ends_before_a_slow_caller_has_sent_its_body(client, path, headers, status):
    # The reply ends the connection. Did it come first, the second half would meet a closed one.
    half = b"a" * 1_000_000
    address = client.base_url
    named = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {2 * len(half)}\r\n{named}\r\n"
    with socket.create_connection((address.host, address.port), timeout=10) as caller:
        caller.sendall(head.encode() + half)
        caller.settimeout(0.3)
        with pytest.raises(TimeoutError):  # nothing has come yet: neither the reply nor the end
            caller.recv(1)
        caller.settimeout(10)
        caller.sendall(half)
        assert caller.recv(12) == f"HTTP/1.1 {status}".encode()


def test_a_caller_that_asks_before_it_sends_is_refused_at_once(client):
    address = client.base_url
    head = "POST /step HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2000000\r\n\r\n"
    with socket.create_connection((address.host, address.port), timeout=10) as caller:
        caller.sendall(head.encode())
        assert caller.recv(12) == b"HTTP/1.1 413"


@pytest.mark.parametrize("path", ["/state", "/state?session_id=nope", "/state?session_id=%ff%00", "/tasks/%ed%a0%80/expert"])
def test_bad_addresses_are_refused(client, path):
    assert refusal(client.get(path))[0] in (404, 422)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["task_id", "split", "index", "seed", "session_id", "max_steps", "include", "action", "timeout_s"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(["/reset", "/step", "/counter/task", "/counter/task_range", "/counter/tasks"]),
    body=st.dictionaries(FIELDS, JSON) | JSON,
)
def test_no_json_at_all_gives_a_server_error(client, path, body):
    assert client.post(path, content=json.dumps(body)).status_code < 500
