"""Our play of a game beside stock alfworld and textworld, in this process. benchmarks/soak/alfworld.py does it on real data."""

import random

import pytest
from env_alfworld.downward import Library
from env_alfworld.engine import made_ready
from env_alfworld.stock import stock_environment
from env_alfworld.world import World


@pytest.mark.slow
def test_observations_commands_and_won_are_those_of_stock_textworld(source, store):
    games = [game for game in source.games if game.split == "valid_unseen"][::2]
    assert len({game.task_type for game in games}) == 6
    rng = random.Random(0)
    stock, library = stock_environment(), Library()
    for file in games:
        stock.load(str(source.root / file.path))
        state = stock.reset()
        world = World(library, made_ready(store, source.root, file, games_kept=8))
        assert (world.text, world.commands) == (state.feedback, state.admissible_commands)
        won = False
        for _ in range(30):
            command = rng.choice(world.commands)
            state, _, _ = stock.step(command)
            won = won or state.won
            assert world.step(command) == state.feedback, (file.task_id, command)
            assert (world.commands, world.won) == (state.admissible_commands, won)
    library.close()


@pytest.mark.slow
def test_won_stays_where_stock_textworld_takes_it_back(source, store, client, tasks):
    from conftest import expert

    task_id = tasks["pick_and_place_simple"]
    file = store.game(task_id)
    actions = expert(client, task_id)
    undo = actions[-1].replace("move ", "take ").replace(" to ", " from ")
    stock = stock_environment()
    stock.load(str(source.root / file.path))
    stock.reset()
    assert [stock.step(action)[2] for action in [*actions, undo]][-2:] == [True, False]
    library = Library()
    world = World(library, made_ready(store, source.root, file, games_kept=8))
    for action in [*actions, undo]:
        world.step(action)
    assert world.won
    library.close()
