"""The search for a plan, which may want all of a machine."""

import re

import pytest
from env_alfworld.catalogue import read_game
from env_alfworld.downward import Library
from env_alfworld.engine import made_ready
from env_alfworld.experts import replay
from env_alfworld.planner import NotFoundInTimeError, plan
from env_alfworld.relevance import relevant
from env_alfworld.store import Store
from env_alfworld.translation import optimized_sas
from env_alfworld.world import World


def test_a_search_that_wants_more_memory_than_it_may_use_is_given_up(source):
    store = Store(source.store)
    file = next(game for game in source.games if game.split == "valid_seen")
    game = made_ready(store, source.root, file, games_kept=1)
    store.close()
    with pytest.raises(NotFoundInTimeError, match="it may use 1 MB"):
        plan(source.store, source.root, file.task_id, memory_mb=1)
    assert replay(game, plan(source.store, source.root, file.task_id) or ())


def test_a_search_leaves_out_what_the_goal_does_not_ask_for_and_still_finds_a_plan(source, tasks):
    store = Store(source.store)
    for task_id in tasks.values():
        file = store.game(task_id)
        game = made_ready(store, source.root, file, games_kept=1)
        content, _ = read_game(source.root, file.path, file.sha256)
        whole = optimized_sas(content)
        part = relevant(whole, game.types)
        assert operators(part) < operators(whole)
        assert "closeobject" in "".join(operators(whole))
        assert "closeobject" not in "".join(operators(part))
        with Library() as library:
            assert replay(game, World(library, game).plan(part) or ()), task_id
    store.close()


def operators(sas: str) -> set[str]:
    return set(re.findall(r"begin_operator\n(.*)\n", sas))
