"""Episodes over HTTP, as a client sees them."""

import pytest


def test_reset_answers_in_openenvs_shape_with_the_session_in_a_header(client):
    reply = client.post("/reset", json={"task_id": "count:3", "episode_id": "mine"})
    body = reply.json()
    assert sorted(body) == ["done", "metadata", "observation", "reward"]
    assert body["observation"] == {"text": "Count to 3."}
    assert body["metadata"] == {
        "session_id": reply.headers["x-session-id"],
        "episode_id": "mine",
        "task_id": "count:3",
        "seed": 0,
        "step": 0,
        "max_steps": 20,
        "score": 0.0,
        "success": False,
        "terminated": False,
        "truncated": False,
        "info": {"task_type": "count"},
    }


def test_rewards_are_deltas_that_sum_to_the_score(begin, step):
    session = begin("count:3")
    replies = [step(session, "add 1").json() for _ in range(3)]
    assert [reply["metadata"]["step"] for reply in replies] == [1, 2, 3]
    assert sum(reply["reward"] for reply in replies) == pytest.approx(replies[-1]["metadata"]["score"]) == 1.0
    assert [reply["done"] for reply in replies] == [False, False, True]
    assert replies[-1]["metadata"]["success"]


def test_an_action_may_be_an_object_or_a_bare_string(client, begin):
    session = begin()
    for action in ({"action": "add 1"}, "add 1"):
        reply = client.post("/step", json={"session_id": session, "action": action})
    assert reply.json()["observation"]["text"] == "The count is 2."


def test_a_body_needs_no_content_type(client):
    assert client.post("/reset", content=b'{"split": "train", "index": 4}').json()["metadata"]["task_id"] == "count:5"


def test_the_step_limit_truncates(begin, step):
    session = begin(max_steps=2)
    assert not step(session, "add 1").json()["done"]
    last = step(session, "add 1").json()
    assert last["done"]
    assert last["metadata"]["truncated"]
    assert not last["metadata"]["terminated"]


def test_a_solved_last_step_is_terminated_and_not_truncated(begin, step):
    last = step(begin("count:1", max_steps=1), "add 1").json()
    assert (last["metadata"]["terminated"], last["metadata"]["truncated"]) == (True, False)


def test_a_step_after_the_end_is_refused_and_the_state_stays_readable(client, begin, step):
    session = begin("count:1")
    step(session, "add 1")
    refused = step(session, "add 1")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "episode_done")
    state = client.get("/state", params={"session_id": session}).json()
    assert (state["step_count"], state["score"], state["done"]) == (1, 1.0, True)


def test_a_session_can_be_reset_and_keeps_its_id(client, begin, step):
    session = begin()
    step(session, "add 5", request_id="r")
    again = client.post("/reset", json={"session_id": session, "task_id": "count:7"}).json()
    assert again["metadata"]["session_id"] == session
    assert step(session, "add 1", request_id="r").json()["observation"]["text"] == "The count is 1."
    assert client.get("/state", params={"session_id": session}).json()["task_id"] == "count:7"


def test_a_refused_reset_leaves_the_session_as_it_was(client, begin, step):
    session = begin()
    step(session, "add 5")
    assert client.post("/reset", json={"session_id": session, "task_id": "nonsense"}).status_code == 404
    assert step(session, "add 1").json()["observation"]["text"] == "The count is 6."


def test_valid_actions_come_only_when_asked_for(client, begin, step):
    session = begin()
    assert "valid_actions" not in step(session, "add 1").json()["metadata"]
    assert step(session, "add 1", include=["valid_actions"]).json()["metadata"]["valid_actions"] == ["add 1"]


def test_a_deleted_session_is_gone(client, begin):
    session = begin()
    assert client.delete(f"/sessions/{session}").status_code == 204
    assert client.delete(f"/sessions/{session}").json()["error"]["code"] == "unknown_session"
    assert client.get("/sessions").json() == {"sessions": [], "max_sessions": 50}


def test_what_an_engine_prints_does_not_disturb_its_answers(begin, step):
    assert step(begin(), 'print {"text":1}').json()["observation"]["text"] == "The count is 0."


def test_long_texts_and_actions_pass(begin, step):
    session = begin()
    assert len(step(session, "long 3000000").json()["observation"]["text"]) == 3_000_000
    assert step(session, "\u0001" * 8191 + "a").status_code == 200
    assert step(session, "\U0001f600" * 8192).status_code == 200


def test_tasks_are_listed_in_openenvs_words(client):
    assert client.get("/list_environments").json() == ["counter"]
    assert client.get("/counter/splits").json() == [{"name": "train", "type": "train"}]
    assert client.post("/counter/num_tasks", json={"split": "train"}).json() == {"num_tasks": 10}
    tasks = client.post("/counter/tasks", json={"split": "train"}).json()
    assert tasks["env_name"] == "counter"
    assert tasks["tasks"][2] == {"task_id": "count:3", "index": 2, "task_type": "count", "max_steps": 20}
    assert client.post("/counter/task", json={"split": "train", "index": 2}).json() == {"task": tasks["tasks"][2]}
    some = client.post("/counter/task_range", json={"split": "train", "start": 2, "stop": 4}).json()
    assert some == {"tasks": tasks["tasks"][2:4]}


def test_the_expert_answers(client):
    expert = client.get("/tasks/count%3A2/expert").json()
    assert expert == {"task_id": "count:2", "actions": ["add 1", "add 1"], "source": "fingers"}


def test_service_pages_answer(client):
    assert client.get("/health").json() == {"status": "healthy"}
    assert client.get("/ready").json() == {"ready": True}
    assert set(client.get("/schema").json()) == {"action", "observation", "state"}
    assert client.get("/schema").json()["action"]["required"] == ["action"]
    assert client.get("/metadata").json()["name"] == "counter"
    assert client.get("/docs").status_code == 200
    page = client.get("/openapi.json").json()
    assert page["components"]["schemas"]["StepRequest"]["properties"]["request_id"]
