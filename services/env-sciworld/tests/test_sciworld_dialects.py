"""AgentGym's client plays ScienceWorld as it is. OpenEnv's does in tests/test_openenv.py."""

import pytest
from conftest import GOLD, play
from env_core.conformance import run_checks
from env_core.testing import AgentGym
from env_sciworld.agentgym import games

TASK = "task-3-find-living-thing:0"


@pytest.fixture
def gym(client, sciworld):
    return AgentGym(sciworld.url)


def test_the_games_are_numbered_as_agentgym_numbers_them():
    assert len(games()) == 4639
    assert [games()[i].task_id for i in (0, 30, 4638)][:2] == ["task-1-boil:0", "task-1-melt:0"]


def test_agentgyms_client_plays_a_gold_episode(gym, client):
    number = [task.task_id for task in games()].index(TASK)
    env = gym.post("/create")["id"]
    begun = gym.post("/reset", id=env, data_idx=number)
    assert sorted(begun) == ["deleted", "done", "observation", "reward", "score", "task_description", "task_name", "var_num"]
    assert (begun["task_name"], begun["var_num"]) == ("find-living-thing", 0)
    assert begun["observation"].startswith("This room is called")
    texts, rewards = [], []
    for action in GOLD[TASK]:
        reply = gym.post("/step", id=env, action=action)
        assert sorted(reply) == ["done", "observation", "reward", "score"]
        texts.append(reply["observation"])
        rewards.append(reply["reward"])
        if reply["done"]:
            break
    assert (reply["done"], reply["score"], sum(rewards)) == (True, 100, 100)
    assert texts == [text for text, *_ in play(client, TASK, GOLD[TASK])[1:]]
    assert gym.post("/close", id=env) is True


def test_agentgyms_questions_are_answered_and_change_nothing(gym):
    env, other = gym.post("/create")["id"], gym.post("/create")["id"]
    for number in (env, other):
        gym.post("/reset", id=number, data_idx=0)
    hint = gym.get("/action_hint", id=env)
    assert "look around" in " ".join(hint["possible_actions"])
    assert hint["possible_objects"]
    assert "goals" in gym.get("/goals", id=env)
    assert gym.get("/task_description", id=env)["task_description"].startswith("Your task is to boil")
    assert gym.get("/object_tree", id=env)["object_tree"]
    assert gym.get("/state", id=env)["current_moves"] == 0
    assert gym.get("/detail", id=env)["score"] == 0
    assert gym.get("/observation", id=env).startswith("This room")
    assert gym.post("/step", id=env, action="look around") == gym.post("/step", id=other, action="look around")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/step", {"id": 1, "action": "look"}),
        ("/step", {"id": -1, "action": "look"}),
        ("/step", {"id": "x", "action": "look"}),
        ("/step", {"id": 10**30, "action": "look"}),
        ("/step", {}),
        ("/reset", {"id": 1, "data_idx": 0}),
        ("/close", {"id": 1}),
    ],
)
def test_agentgyms_errors_come_with_status_200(gym, path, body):
    assert list(gym.post(path, **body)) == ["error"]


@pytest.mark.parametrize("data_idx", [-1, 4639, 10**30, "a", None])
def test_a_game_that_is_none_is_refused(gym, data_idx):
    env = gym.post("/create")["id"]
    assert list(gym.post("/reset", id=env, data_idx=data_idx)) == ["error"]
    assert "error" in gym.get("/observation", id=env)


@pytest.mark.slow
def test_the_service_passes_the_conformance_kit(sciworld):
    assert {name: problem for name, problem in run_checks(sciworld.url).items() if problem} == {}
