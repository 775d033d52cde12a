"""Games that are broken in ways that only playing them shows."""

import json
import shutil

import httpx
import pytest
from conftest import act, begin

BROKEN = {
    "pddl_problem": lambda game: {**game, "pddl_problem": "(define (problem"},
    "pddl_domain": lambda game: {**game, "pddl_domain": game["pddl_domain"].replace(":action", ":acton")},
    "grammar": lambda game: {**game, "grammar": "grammar :: nonsense"},
    "code": lambda game: {**game, "grammar": game["grammar"].replace("{r.name}", "{__import__('os').abort()}")},
    "rule": lambda game: {**game, "grammar": game["grammar"].replace("#task#", "#nosuchrule#")},
}


@pytest.fixture(scope="module")
def broken(serve, source, tmp_path_factory):
    """A service whose first games of valid_seen are broken, each in another way."""
    data = tmp_path_factory.mktemp("data")
    shutil.copytree(source.root, data / "alfworld")
    games = [game for game in source.games if game.split == "valid_seen"]
    for game, broken in zip(games, BROKEN.values(), strict=False):
        path = data / "alfworld" / game.path
        path.write_text(json.dumps(broken(json.loads(path.read_text()))))
    variables = {"ETO_DATA": str(data), "ETO_ALFWORLD_SAMPLE": "0", "ETO_ALFWORLD_CACHE": str(data / "cache")}
    with serve(**variables) as service, httpx.Client(base_url=service.url, timeout=120) as client:
        yield client, dict(zip(BROKEN, games, strict=False)), games[-1]


@pytest.mark.slow
@pytest.mark.parametrize("how", list(BROKEN))
def test_a_broken_game_is_over_at_once_with_the_reason_and_hurts_no_neighbour(broken, how):
    client, games, good = broken
    neighbour = begin(client, good.task_id)["metadata"]["session_id"]
    reply = begin(client, games[how].task_id)
    assert reply["observation"]["text"].startswith("This game cannot be played: ")
    assert (reply["done"], reply["reward"], reply["metadata"]["success"]) == (True, 0.0, False)
    assert reply["metadata"]["info"]["error"]
    assert client.get(f"/tasks/{games[how].task_id}/expert").json()["actions"] == []
    assert act(client, neighbour, "look")["metadata"]["step"] == 1
