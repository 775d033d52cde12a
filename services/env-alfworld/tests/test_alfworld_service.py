"""The service on generated games, over HTTP."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import act, begin, expert, play, seen
from env_alfworld.catalogue import TASK_TYPES


def test_reset_shows_the_room_and_the_task(client, tasks):
    reply = begin(client, tasks["pick_cool_then_place_in_recep"])
    text, metadata = reply["observation"]["text"], reply["metadata"]
    assert text.startswith("-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly around you, you see a ")
    assert "\n\nYour task is to: cool some " in text
    assert (metadata["max_steps"], metadata["info"]["task_type"], metadata["info"]["data"]) == (40, "pick_cool_then_place_in_recep", "sample")
    assert metadata["info"]["game_file"].startswith("json_2.1.1/valid_seen/pick_cool")


@pytest.mark.slow
@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_the_expert_wins_each_type_of_task(client, tasks, task_type):
    stream = play(client, tasks[task_type], expert(client, tasks[task_type]))
    _, reward, done, metadata = stream[-1]
    assert (reward, done, metadata["score"], metadata["success"], metadata["terminated"]) == (1.0, True, 1.0, True, True)
    assert all(step[1] == 0.0 and not step[2] for step in stream[:-1])


def test_a_command_that_does_not_apply_changes_nothing_and_costs_a_step(client, tasks):
    session = begin(client, tasks["look_at_obj_in_light"])["metadata"]["session_id"]
    before = act(client, session, "look", include=["valid_actions"])
    for step, action in enumerate(["open the fridge", "go to moon 1", "GO TO DESK 1", "take", "look around"], start=2):
        reply = act(client, session, action, include=["valid_actions"])
        assert (reply["observation"]["text"], reply["reward"], reply["metadata"]["step"]) == ("Nothing happens.", 0.0, step)
        assert reply["metadata"]["valid_actions"] == before["metadata"]["valid_actions"]
    assert act(client, session, " look \n")["observation"]["text"] == before["observation"]["text"]


@pytest.mark.parametrize("action", ["a" * 8192, "loo\u0000k", "\U0001f600", "\\", "\"'", "{r.name}", "#intro#", "[{r.name | a(b)}]", "-1"])
def test_odd_actions_are_answered_and_change_nothing(client, tasks, action):
    session = begin(client, tasks["look_at_obj_in_light"])["metadata"]["session_id"]
    assert act(client, session, action)["observation"]["text"] == "Nothing happens."
    assert act(client, session, "look")["observation"]["text"].startswith("You are in the middle of a room.")


def test_valid_actions_are_listed_on_request_and_each_is_understood(client, tasks):
    reply = begin(client, tasks["pick_and_place_simple"], include=["valid_actions"])
    valid = reply["metadata"]["valid_actions"]
    assert valid == sorted(set(valid))
    assert {"look", "inventory"} < set(valid)
    for action in valid:
        reply = begin(client, tasks["pick_and_place_simple"])
        assert act(client, reply["metadata"]["session_id"], action)["observation"]["text"] != "Nothing happens."


def test_a_task_is_found_by_its_game_file_too(client, tasks):
    task_id = tasks["pick_two_obj_and_place"]
    reply = begin(client, f"json_2.1.1/{task_id}/game.tw-pddl")
    assert reply["metadata"]["task_id"] == task_id


@pytest.mark.parametrize("task_id", ["valid_seen/none/trial", "valid_seen", "../../etc/passwd", "/", "valid_seen:0", "json_2.1.1/"])
def test_what_is_no_task_is_refused(client, task_id):
    refused = client.post("/reset", json={"task_id": task_id})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_task")


def test_a_client_cannot_give_a_game(client, tasks):
    game = {"pddl_domain": "", "grammar": "grammar :: ...", "pddl_problem": "", "solvable": True}
    assert client.post("/reset", json={"task_id": tasks["look_at_obj_in_light"], "game": game}).status_code == 422


def test_the_splits_are_listed_without_an_engine(client):
    assert [split["name"] for split in client.get("/alfworld/splits").json()] == ["train", "valid_seen", "valid_unseen", "valid_train"]
    counts = [client.post("/alfworld/num_tasks", json={"split": s}).json()["num_tasks"] for s in ("train", "valid_seen", "valid_unseen")]
    assert counts == [60, 12, 12]


def test_other_words_for_putting_are_not_taken_unless_asked_for(client, serve, tasks):
    task_id = tasks["pick_and_place_simple"]
    moves = expert(client, task_id)
    puts = [a.replace("move ", "put ").replace(" to ", " in/on ") if a.startswith("move ") else a for a in moves]
    assert moves != puts
    assert play(client, task_id, puts)[-1][0] == "Nothing happens."
    with serve(ETO_ALFWORLD_PUT_OR_MOVE="1") as lenient, httpx.Client(base_url=lenient.url, timeout=60) as other:
        assert play(other, task_id, puts)[-1] == play(other, task_id, moves)[-1]
        assert play(other, task_id, puts)[-1][3]["success"]


@pytest.mark.slow
def test_sixteen_interleaved_episodes_are_what_they_are_one_after_another(client, source):
    tasks = [game.task_id for game in source.games if game.split == "train"][::4] + [source.games[0].task_id]
    assert len(tasks) == 16
    actions = ["look", "go to drawer 1", "open drawer 1", "inventory", "go to garbagecan 1", "examine garbagecan 1", "help", "look"]
    alone = [play(client, task_id, actions) for task_id in tasks]

    with ThreadPoolExecutor(16) as threads:  # at the same time
        assert list(threads.map(lambda task_id: play(client, task_id, actions), tasks)) == alone

    replies = [begin(client, task_id, include=["valid_actions"]) for task_id in tasks]  # in turns
    streams = [[seen(reply)] for reply in replies]
    for action, (number, reply) in itertools.product(actions, list(enumerate(replies))):
        streams[number].append(seen(act(client, reply["metadata"]["session_id"], action, include=["valid_actions"])))
    assert streams == alone
