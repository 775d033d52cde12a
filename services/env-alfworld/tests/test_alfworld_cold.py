"""Games that no store holds yet."""

import contextlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import begin, workers
from env_alfworld.ahead import Ahead
from env_alfworld.store import Store

LOAD = """
import json, sys
from env_alfworld.engine import create
outcome = create(sys.argv[1], sys.argv[2], "sample", 4, 0, "planner", False).load(sys.argv[3], 0, ["valid_actions"])
print(json.dumps([outcome.text, "textworld" in sys.modules]))
"""


def test_one_process_looks_ahead_of_a_store_whoever_asks(source, tmp_path):
    path = tmp_path / "games.sqlite"
    with contextlib.closing(Store(path)) as store:
        store.replace_games(source.games)
        first = next(game for game in source.games if game.split == "train")
        one, other = (Ahead(str(path), str(source.root), 16) for _ in range(2))
        one.begin(store, first)
        other.begin(store, first)
        assert one.running
        assert not other.running
        one.close()  # killed, and the lock with it
        other.begin(store, first)
        assert other.running
        other.close()


@pytest.mark.slow
def test_a_worker_plays_a_cold_game_without_reading_the_grammar_again(serve, tmp_path):
    with serve(ETO_ALFWORLD_CACHE=str(tmp_path)) as service, httpx.Client(base_url=service.url, timeout=120) as client:
        (path,) = tmp_path.glob("games-*.sqlite")
        store = Store(path)
        file = store.not_translated("train", 0, 1)[0]
        loaded = subprocess.run(
            [sys.executable, "-c", LOAD, path, tmp_path / "sample" / "v1", file.task_id], check=True, stdout=subprocess.PIPE
        )
        text, imported = json.loads(loaded.stdout)
        assert text == begin(client, file.task_id)["observation"]["text"]
        assert not imported
        assert not store.not_translated("train", file.place - 1, 1)
        store.close()


@pytest.mark.slow
def test_cold_games_begin_on_several_workers_at_once(serve, source, tmp_path):
    cold = [game.task_id for game in source.games if game.split == "train"][1:49]
    options = ("--max-sessions", "48", "--max-engines", "48")
    with serve(*options, ETO_ALFWORLD_CACHE=str(tmp_path), ETO_ALFWORLD_GAMES_AHEAD="16") as service:
        with httpx.Client(base_url=service.url, timeout=300) as client, ThreadPoolExecutor(48) as threads:
            replies = list(threads.map(lambda task_id: begin(client, task_id), cold))
        assert all("Your task is to: " in reply["observation"]["text"] for reply in replies)
        assert len(workers(service)) == 3
