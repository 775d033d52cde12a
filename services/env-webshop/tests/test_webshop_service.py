"""The service on the sample, over HTTP."""

import itertools
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import TASKS, act, begin, detour, expert, play, workers
from env_core.conformance import run_checks
from env_core.running import start_service, wait_until_ready


def test_reset_shows_the_instruction_and_what_can_be_done(client):
    reply = begin(client, "sample:3")
    info = reply["metadata"]["info"]
    assert reply["observation"]["text"] == f"WebShop [SEP] Instruction: [SEP] {info['instruction']} [SEP] Search"
    assert info["available_actions"] == {"has_search_bar": True, "clickables": ["search"]}
    assert (reply["metadata"]["max_steps"], info["task_type"]) == (
        10,
        client.post("/webshop/task", json={"split": "sample", "index": 3}).json()["task"]["task_type"],
    )


def test_the_experts_purchase_ends_the_episode_with_score_1(client):
    reply = begin(client, "sample:3")
    session = reply["metadata"]["session_id"]
    for action in expert(client, "sample:3"):
        assert not reply["done"]
        reply = act(client, session, action)
    assert (reply["done"], reply["reward"], reply["metadata"]["success"], reply["metadata"]["truncated"]) == (True, 1.0, True, False)
    assert reply["metadata"]["info"]["reward_parts"] == {"r_type": 1.0, "r_att": 1.0, "r_option": 1.0, "r_price": True}


def test_a_purchase_of_something_else_scores_less(client):
    session = begin(client, "sample:3")["metadata"]["session_id"]
    act(client, session, "search[usb cable]")
    clickables = act(client, session, "search[usb cable]")["metadata"]["info"]["available_actions"]["clickables"]
    act(client, session, f"click[{next(text for text in clickables if text.startswith('smpl'))}]")
    reply = act(client, session, "click[buy now]")
    assert reply["metadata"]["terminated"]
    assert reply["metadata"]["score"] < 0.5
    assert not reply["metadata"]["success"]


def test_ten_steps_without_a_purchase_are_truncated_with_score_0(client):
    session = begin(client, "sample:3")["metadata"]["session_id"]
    replies = [act(client, session, "search[lamp]") for _ in range(10)]
    assert [reply["done"] for reply in replies] == [False] * 9 + [True]
    assert (replies[-1]["metadata"]["truncated"], replies[-1]["metadata"]["score"]) == (True, 0.0)


@pytest.mark.parametrize(
    "action",
    [
        "no such action",
        "a" * 8192,
        "click[\u0000]",
        "search[\r\n]",
        "\U0001f600",
        "\\",
        "\"'",
        "click[[]]",
        "search[" + "x" * 8000 + "]",
        "e\u0301[\u0301]",
    ],
)
def test_odd_actions_are_answered_and_the_episode_goes_on(client, action):
    session = begin(client, "sample:3")["metadata"]["session_id"]
    reply = act(client, session, action)
    assert (reply["done"], reply["reward"]) == (False, 0.0)
    assert "Page 1 " in act(client, session, "search[lamp]")["observation"]["text"]


def test_valid_actions_are_listed_on_request_and_all_are_valid(client):
    session = begin(client, "sample:3")["metadata"]["session_id"]
    valid = act(client, session, "search[lamp]", include=["valid_actions"])["metadata"]["valid_actions"]
    assert "click[back to search]" in valid
    for action in valid:
        assert act(client, begin_at_lamps(client), action)["metadata"]["info"]["valid"]


def begin_at_lamps(client):
    session = begin(client, "sample:3")["metadata"]["session_id"]
    act(client, session, "search[lamp]")
    return session


def test_the_page_of_a_session_is_html_of_the_same_state(client):
    session = begin_at_lamps(client)
    first = client.get(f"/sessions/{session}/page")
    assert first.headers["content-type"].startswith("text/html")
    assert "Page 1 (Total results:" in first.text
    before = client.get("/state", params={"session_id": session}).json()
    assert client.get(f"/sessions/{session}/page").text == first.text
    assert client.get("/state", params={"session_id": session}).json() == before
    assert client.get("/sessions/nope/page").status_code == 404


def test_the_page_of_a_session_that_is_over_says_what_was_bought_and_scored(client):
    session = begin(client, "sample:3")["metadata"]["session_id"]
    for action in expert(client, "sample:3"):
        reply = act(client, session, action)
    assert reply["done"]
    page = client.get(f"/sessions/{session}/page").text
    for text in ("Thank you for shopping with us!", ">1.0<", "<dt>attributes matched</dt><dd>100%</dd>"):
        assert text in page


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"task_id": "sample:99999"}, 404, "unknown_task"),
        ({"task_id": "sample:-1"}, 404, "unknown_task"),
        ({"task_id": "synthetic:0"}, 404, "unknown_task"),
        ({"task_id": "x"}, 404, "unknown_task"),
        ({"split": "eto-train", "index": 0}, 404, "unknown_split"),
        ({"split": "sample-nope", "index": 0}, 404, "unknown_split"),
        ({"task_id": ""}, 422, "invalid_request"),
    ],
)
def test_what_is_no_task_is_refused_and_the_shopper_goes_on(client, body, status, code):
    session = begin_at_lamps(client)
    refused = client.post("/reset", json={**body, "session_id": session})
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
    assert act(client, session, "click[next >]")["metadata"]["step"] == 2


def test_tasks_are_listed_with_their_categories(client):
    tasks = client.post("/webshop/task_range", json={"split": "sample-train", "start": 0, "stop": 2}).json()["tasks"]
    assert tasks[0] == {"task_id": "sample:1500", "index": 0, "task_type": tasks[0]["task_type"], "max_steps": 10}
    names = {split["name"]: split["type"] for split in client.get("/webshop/splits").json()}
    assert (names["sample-train"], names["sample-dev"], names["sample-test"]) == ("train", "validation", "test")


def test_the_service_says_that_its_products_are_a_sample(client):
    metadata = client.get("/metadata").json()
    assert metadata["version"].startswith("sample-")
    assert "sample" in metadata["description"]


def test_sixteen_sessions_at_the_same_time_and_in_turns_are_what_they_are_one_after_another(client, webshop):
    actions = {task_id: detour(expert(client, task_id)) for task_id in TASKS}
    alone = {task_id: play(client, task_id, actions[task_id]) for task_id in TASKS}
    with ThreadPoolExecutor(16) as threads:
        together = dict(zip(TASKS, threads.map(lambda task_id: play(client, task_id, actions[task_id]), TASKS), strict=True))
    assert together == alone
    sessions = {task_id: begin(client, task_id, max_steps=1000)["metadata"]["session_id"] for task_id in TASKS}
    texts = {task_id: [stream[0][0]] for task_id, stream in alone.items()}
    for turn in itertools.zip_longest(*actions.values()):
        for task_id, action in zip(TASKS, turn, strict=True):
            if action is not None:
                texts[task_id].append(act(client, sessions[task_id], action)["observation"]["text"])
    assert texts == {task_id: [said[0] for said in stream] for task_id, stream in alone.items()}
    assert len(workers(webshop)) == 1


@pytest.mark.parametrize("variables", [{"ETO_WEBSHOP_OBSERVATION": "text_rich"}, {"ETO_WEBSHOP_SEARCH": "bm25s"}])
def test_other_settings_play_too(serve, variables):
    with serve("--log-level", "critical", **variables) as service, httpx.Client(base_url=service.url, timeout=60) as client:
        actions = expert(client, "sample:3")
        stream = play(client, "sample:3", actions)
        assert stream[-1][3]["score"] == 1.0
        assert ("[button] Buy Now [button_]" in stream[-2][0]) == ("ETO_WEBSHOP_OBSERVATION" in variables)


def test_a_catalogue_that_is_not_there_is_named_with_what_to_do(tmp_path):
    env = {**os.environ, "ETO_DATA": str(tmp_path), "ETO_WEBSHOP_CATALOGUE": "1000", "ETO_WEBSHOP_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "env_webshop", "serve", "--port", "0"], env=env, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    for part in ("items_shuffle_1000.json", str(tmp_path), "ETO_DATA", "ETO_WEBSHOP_CATALOGUE=sample"):
        assert part in done.stderr


def test_a_catalogue_that_cannot_be_read_is_said(tmp_path):
    files = tmp_path / "webshop"
    files.mkdir()
    (files / "items_shuffle_1000.json").write_text('[{"asin": ')
    (files / "items_ins_v2_1000.json").write_text("{}")
    env = {**os.environ, "ETO_DATA": str(tmp_path), "ETO_WEBSHOP_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "env_webshop", "serve", "--port", "0"], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "the catalogue 1000 was to be made" in done.stderr
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.slow
def test_services_that_start_at_once_on_an_empty_cache_make_one_catalogue(tmp_path):
    known = {"ETO_WEBSHOP_CACHE": str(tmp_path / "cache"), "ETO_WEBSHOP_CATALOGUE": "sample"}
    with ThreadPoolExecutor(2) as threads:
        services = list(threads.map(lambda _: start_service("env_webshop", ["--log-level", "critical"], known), range(2)))
    for service in services:
        wait_until_ready(service, 120)
        assert httpx.post(f"{service.url}/reset", json={"task_id": "sample:1"}, timeout=60).status_code == 200
        assert service.stop() == 0
    assert sorted(path.name.partition("-")[0] for path in (tmp_path / "cache").iterdir()) == ["sample", "sample"]  # files, catalogue


@pytest.mark.slow
def test_a_build_that_is_killed_leaves_nothing_that_counts(tmp_path):
    known = {**os.environ, "ETO_WEBSHOP_CACHE": str(tmp_path), "ETO_WEBSHOP_CATALOGUE": "sample"}
    command = [sys.executable, "-m", "env_webshop", "serve", "--port", "0", "--log-level", "critical"]
    process = subprocess.Popen(command, env=known, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob(".sample-*")):  # the catalogue is being written
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not [path for path in tmp_path.glob("sample-*") if "files" not in path.name]
    service = start_service("env_webshop", ["--log-level", "critical"], known)
    wait_until_ready(service, 120)
    assert httpx.post(f"{service.url}/reset", json={"task_id": "sample:1"}, timeout=60).status_code == 200
    assert service.stop() == 0


def test_agentgyms_client_plays_by_its_own_calls(client):
    assert client.get("/agentgym/").json() == "ok"
    number = client.post("/agentgym/create").json()
    assert number in client.get("/agentgym/list_envs").json()
    text, nothing = client.post("/agentgym/reset", json={"env_idx": number, "session_id": 3}).json()
    assert (text, nothing) == (begin(client, "sample:3")["observation"]["text"], None)
    assert client.get("/agentgym/instruction_text", params={"env_idx": number}).json() == "Instruction: " + text.split(" [SEP] ")[2]
    actions = expert(client, "sample:3")
    for action in actions:
        reply = client.post("/agentgym/step", json={"env_idx": number, "action": action}).json()
        assert sorted(reply) == ["done", "info", "reward", "state"]
        assert client.get("/agentgym/observation", params={"env_idx": number}).json() == reply["state"]
        if action == actions[0]:
            found = client.get("/agentgym/available_actions", params={"env_idx": number}).json()
            assert not found["has_search_bar"]
            assert "back to search" in found["clickables"]
            assert client.get("/agentgym/state", params={"env_idx": number}).json()["html"].startswith("<!DOCTYPE html>")
    assert (reply["reward"], reply["done"]) == (1.0, True)
    assert client.post("/agentgym/reset", json={"env_idx": number, "session_id": None}).status_code == 200
    assert client.post("/agentgym/reset", json={"env_idx": number, "session_id": 10**9}).status_code == 404
    assert client.post("/agentgym/close", json={"env_idx": number}).json() is True
    assert client.post("/agentgym/step", json={"env_idx": number, "action": "x"}).status_code == 404


def test_the_service_keeps_the_protocol(webshop):
    problems = {name: problem for name, problem in run_checks(webshop.url).items() if problem}
    assert problems == {}
