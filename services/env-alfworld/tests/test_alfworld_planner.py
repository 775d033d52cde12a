"""The search for a plan, which may want all of a machine."""

import pytest
from env_alfworld.engine import made_ready
from env_alfworld.experts import replay
from env_alfworld.planner import NotFoundInTimeError, plan
from env_alfworld.store import Store


def test_a_search_that_wants_more_memory_than_it_may_use_is_given_up(source):
    store = Store(source.store)
    file = next(game for game in source.games if game.split == "valid_seen")
    game = made_ready(store, source.root, file, games_kept=1)
    store.close()
    with pytest.raises(NotFoundInTimeError, match="it may use 1 MB"):
        plan(source.store, source.root, file.task_id, memory_mb=1)
    assert replay(game, plan(source.store, source.root, file.task_id) or ())
