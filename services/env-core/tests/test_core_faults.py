"""Engines that die, hang or drift; clients that race and retry."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from env_core.process_tree import command, tree


def workers(service):
    return [pid for pid in tree(service.process.pid) if "env_core.worker" in command(pid)]


@pytest.mark.parametrize("fault", ["die once", "hang once"])
def test_an_episode_goes_on_after_its_engine_is_lost_in_mid_step(begin, step, tmp_path, fault):
    session = begin()
    step(session, "add 2")
    assert step(session, f"{fault} {tmp_path}/marker").json()["observation"]["text"] == "The count is 2."
    last = step(session, "add 1").json()
    assert last["observation"]["text"] == "The count is 3."
    assert last["metadata"]["step"] == 3


def test_an_episode_goes_on_after_its_worker_was_killed_between_steps(counter, begin, step):
    session = begin(seed=1)
    step(session, "add 2")
    for pid in workers(counter):
        os.kill(pid, signal.SIGKILL)
    assert step(session, "add 1").json()["observation"]["text"] == "The count is 4."


def test_a_replay_that_diverges_ends_the_session(client, begin, step):
    session = begin()
    step(session, "pid")
    lost = step(session, "die")
    assert (lost.status_code, lost.json()["error"]["code"]) == (502, "replay_diverged")
    after = step(session, "add 1")
    assert (after.status_code, after.json()["error"]["code"]) == (404, "expired_session")


@pytest.mark.parametrize("action", ["die", "raise", "half a surrogate pair"])
def test_an_action_that_kills_every_engine_is_refused_and_the_episode_goes_on(begin, step, action):
    session = begin()
    step(session, "add 2")
    refused = step(session, action)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
    assert refused.headers["retry-after"]
    last = step(session, "add 1").json()
    assert (last["observation"]["text"], last["metadata"]["step"]) == ("The count is 3.", 2)


def test_an_action_that_hangs_every_engine_times_out_and_the_episode_goes_on(begin, step):
    session = begin()
    step(session, "add 2")
    refused = step(session, "sleep 100", timeout_s=0.2)
    assert (refused.status_code, refused.json()["error"]["code"]) == (504, "step_timeout")
    assert step(session, "add 1").json()["observation"]["text"] == "The count is 3."


def test_a_repeated_request_id_gets_the_stored_reply(begin, step):
    session = begin("count:2")
    first = step(session, "add 1", request_id="a")
    second = step(session, "add 1", request_id="b")
    assert step(session, "add 1", request_id="a").content == first.content
    assert step(session, "add 1", request_id="b").content == second.content, "also after the end"


def test_a_retry_while_the_first_is_at_work_waits_for_its_reply(begin, step):
    session = begin()
    with ThreadPoolExecutor() as threads:
        replies = list(threads.map(lambda _: step(session, "sleep 0.5", request_id="a"), range(3)))
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.content for reply in replies}) == 1
    assert replies[0].json()["metadata"]["step"] == 1


def test_of_two_racing_steps_one_wins_and_one_is_refused(client, begin, step):
    session = begin()
    started = threading.Barrier(2)

    def race(_):
        started.wait()
        return step(session, "sleep 0.5")

    with ThreadPoolExecutor() as threads:
        replies = list(threads.map(race, range(2)))
    assert sorted(reply.status_code for reply in replies) == [200, 409]
    assert {reply.json()["error"]["code"] for reply in replies if reply.status_code == 409} == {"step_in_progress"}
    assert client.get("/state", params={"session_id": session}).json()["step_count"] == 1


def test_a_client_that_leaves_in_mid_step_leaves_a_whole_session(client, begin, step):
    import httpx

    session = begin()
    with pytest.raises(httpx.ReadTimeout):
        client.post("/step", json={"session_id": session, "action": "sleep 0.5", "request_id": "a"}, timeout=0.1)
    assert step(session, "sleep 0.5", request_id="a").json()["metadata"]["step"] == 1
    assert step(session, "add 1").json()["metadata"]["step"] == 2
