"""The games that the project makes itself."""

import filecmp
import json
from collections import Counter

from env_alfworld.catalogue import TASK_TYPES, read_game
from env_alfworld.experts import replay
from env_alfworld.engine import made_ready
from env_alfworld.sample import make_sample


def test_every_split_has_the_six_types_of_task(source):
    for split, per_type in (("train", 10), ("valid_seen", 2), ("valid_unseen", 2), ("valid_train", 1)):
        assert Counter(g.task_type for g in source.games if g.split == split) == dict.fromkeys(TASK_TYPES, per_type)


def test_the_games_are_the_same_each_time(source, tmp_path):
    again = make_sample(tmp_path)
    for game in source.games:
        assert filecmp.cmp(source.root / game.path, again / game.path, shallow=False), game.path


def test_no_two_games_are_the_same(source):
    problems = [read_game(source.root, game.path)[0]["pddl_problem"] for game in source.games]
    assert len(set(problems)) == len(problems)


def test_the_task_of_a_game_is_in_its_trajectory_file(source):
    for game in source.games:
        trajectory = json.loads((source.root / game.path).with_name("traj_data.json").read_text())
        assert trajectory["task_type"] == game.task_type
        assert trajectory["pddl_params"]["object_target"] in game.path


def test_no_game_is_won_before_it_begins(source, store):
    for game in [g for g in source.games if g.split == "valid_seen"]:
        assert replay(made_ready(store, source.root, game, games_kept=8), ["look"]) == []
