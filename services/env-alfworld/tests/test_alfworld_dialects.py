"""The conformance kit, and AgentGym's client."""

import pytest
from conftest import act, begin, expert
from env_core.conformance import main as conformance
from env_core.testing import AgentGym


@pytest.mark.slow
def test_the_service_conforms(alfworld):
    assert conformance([alfworld.url]) == 0


@pytest.fixture
def gym(client, alfworld):
    return AgentGym(alfworld.url)


def test_agentgyms_client_wins_a_game(gym, client, source):
    game = source.games[0] if source.games[0].split == "train" else next(g for g in source.games if g.split == "train")
    env = gym.post("/create")["id"]
    first = gym.post("/reset", id=env, game=0, world_type="Text")
    assert set(first) == {"id", "observation", "available_actions", "task_type"}
    assert first["id"] == env
    assert first["observation"].startswith("You are in the middle of a room.")
    assert "\nYour task is to: " in first["observation"]
    assert first["task_type"] == game.task_id.removeprefix("train/")
    assert gym.get("/available_actions", id=env) == first["available_actions"]
    actions = expert(client, game.task_id)
    replies = [gym.post("/step", id=env, action=action) for action in actions]
    assert set(replies[0]) == {"observation", "reward", "available_actions", "done"}
    assert [(r["reward"], r["done"]) for r in replies] == [(0.0, False)] * (len(actions) - 1) + [(1.0, True)]
    detail = gym.get("/detail", id=env)
    assert (detail["game"], detail["done"], detail["deleted"], detail["world_type"]) == (0, True, False, "Text")
    assert gym.get("/observation", id=env) == replies[-1]["observation"]
    assert gym.post("/close", id=env) is True


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/reset", {"id": -1, "game": 0, "world_type": "Text"}),
        ("/reset", {"id": 1, "game": 10**9, "world_type": "Text"}),
        ("/reset", {"id": 1, "game": 0, "world_type": "Real"}),
        ("/step", {"id": 1, "action": "look"}),
        ("/step", {"id": "x"}),
        ("/close", {"id": 1}),
    ],
)
def test_agentgyms_errors_come_with_status_200(gym, path, body):
    assert set(gym.post(path, **body)) == {"error"}


def test_the_service_says_that_its_games_are_samples(client, tasks):
    assert "sample" in client.get("/metadata").json()["description"].lower()
    session = begin(client, tasks["look_at_obj_in_light"])["metadata"]["session_id"]
    assert act(client, session, "look")["metadata"]["info"]["data"] == "sample"
