"""What is taken for a game and what is not."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from env_alfworld.catalogue import GAME, LAYOUT, TRAJECTORY, GameFileError, read_game, scan, task_id_of
from env_alfworld.store import Store

GOOD = {"pddl_domain": "d", "grammar": "g", "pddl_problem": "p", "solvable": True}
SIMPLE = "pick_and_place_simple-Mug-None-Desk-1"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "alfworld"


@pytest.fixture
def own(tmp_path):
    store = Store(tmp_path / "store.sqlite")
    yield store
    store.close()


def put(root, folder, game, split="train"):
    path = root / LAYOUT / split / folder
    path.mkdir(parents=True)
    (path / TRAJECTORY).write_text("{}")
    if game is not None:
        (path / GAME).write_text(game if isinstance(game, str) else json.dumps(game))
    return path / GAME


def reason(own, root):
    scan(own, root)
    (game,) = own.games()
    return game.reason


def test_games_are_counted_and_those_left_out_have_a_reason(own, root):
    for number, game in enumerate([GOOD, {**GOOD, "walkthrough": []}, {**GOOD, "solvable": False}, None, "no json", "[]"]):
        put(root, f"{SIMPLE}/trial_{number}", game)
    put(root, "pick_and_place_with_movable_recep-Mug-Bowl-Desk-1/trial_0", GOOD)
    put(root, "pick_and_place_simple-BreadSliced-None-Desk-1/trial_0", GOOD)
    put(root, "juggle-Mug-None-Desk-1/trial_0", GOOD)
    train, seen, *_ = scan(own, root)
    assert (train.playable, seen.playable) == (2, 0)
    assert train.left_out == {
        "with a movable receptacle or a sliced object": 2,
        "of an unknown task type": 1,
        "unsolvable": 1,
        "without game.tw-pddl": 1,
        "broken (no JSON)": 1,
        "broken (no JSON object)": 1,
    }
    assert "train: 2 games (left out: 1 broken (no JSON object), 1 broken (no JSON), 1 of" in str(train)


@pytest.mark.parametrize("key", list(GOOD))
def test_a_game_without_an_expected_key_is_broken(own, root, key):
    put(root, f"{SIMPLE}/trial_0", {k: v for k, v in GOOD.items() if k != key})
    assert reason(own, root) == f"broken (without {key})"


def test_a_game_with_an_unexpected_key_is_broken(own, root):
    put(root, f"{SIMPLE}/trial_0", {**GOOD, "post_load": "import os"})
    assert reason(own, root) == "broken (with the unexpected post_load)"


def test_a_game_outside_the_data_directory_is_not_read(own, root, tmp_path):
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text(json.dumps(GOOD))
    put(root, f"{SIMPLE}/trial_0", None).symlink_to(elsewhere)
    assert reason(own, root) == "outside the data directory"


def test_a_game_is_read_once_and_refused_when_it_has_changed(own, root):
    path = put(root, f"{SIMPLE}/trial_0", GOOD)
    scan(own, root)
    (game,) = own.games()
    stat = path.stat()
    assert read_game(root, game.path, game.sha256)[0] == GOOD
    path.write_text(json.dumps({**GOOD, "grammar": "h"}))
    with pytest.raises(GameFileError, match="has changed"):
        read_game(root, game.path, game.sha256)
    scan(own, root)
    assert own.games()[0].sha256 != game.sha256
    path.write_text("not read again: same size and time".ljust(stat.st_size))
    os.utime(path, ns=(own.games()[0].mtime_ns, own.games()[0].mtime_ns))
    scan(own, root)
    assert own.games()[0].reason is None


def test_imported_gold_is_known_by_its_game_file(own, root, tmp_path):
    put(root, f"{SIMPLE}/trial_0", GOOD)
    gold = tmp_path / "gold.json"
    turns = [("human", "You are ..."), ("gpt", "OK"), ("human", "Your task"), ("gpt", "go to desk 1"), ("gpt", "Thought: now\nAction: look")]
    episode = {"game_file": f"json_2.1.1/train/{SIMPLE}/trial_0/game.tw-pddl", "conversations": [{"from": f, "value": v} for f, v in turns]}
    gold.write_text(json.dumps([episode]))
    scan(own, root, gold)
    assert own.games()[0].gold == ("go to desk 1", "look")


def test_the_name_of_a_game_file_leads_to_its_task():
    assert task_id_of("/data/json_2.1.1/train/a/b/game.tw-pddl") == task_id_of("train/a/b") == "train/a/b"


@pytest.mark.parametrize("made", [None, "valid_seen"])
def test_without_games_of_a_required_split_the_service_says_what_to_do(tmp_path, made):
    if made:
        put(tmp_path / "alfworld", f"{SIMPLE}/trial_0", GOOD, made)
    done = subprocess.run(
        [sys.executable, "-m", "env_alfworld", "serve", "--port", "0"],
        env={"PATH": "", "ETO_DATA": str(tmp_path), "ETO_ALFWORLD_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"alfworld-download --data-dir {tmp_path / 'alfworld'}" in done.stderr
    assert "train: 0 games" in done.stderr


def test_all_is_well_with_a_cache_that_another_service_filled(source, tmp_path):
    copied = tmp_path / "store.sqlite"
    shutil.copy(source.store, copied)
    store = Store(copied)
    assert store.games() == list(source.games)
    store.close()
