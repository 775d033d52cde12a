"""Workers that are killed or stopped, memory, and how the service ends."""

import os
import signal
import time

import httpx
import pytest
from conftest import act, begin, expert, play, seen, workers
from env_core.process_tree import command, pss_mb, tree


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_an_episode_and_its_neighbours_go_on_as_if_nothing_had_happened(serve, tasks, sent):
    task_id = tasks["pick_heat_then_place_in_recep"]
    with serve("--step-timeout-s", "3", "--log-level", "critical") as service, httpx.Client(base_url=service.url, timeout=120) as client:
        actions = expert(client, task_id)
        undisturbed = play(client, task_id, actions)
        replies = [begin(client, task_id, include=["valid_actions"]) for _ in range(3)]
        streams = [[seen(reply)] for reply in replies]
        for number, action in enumerate(actions):
            if number == 2:
                hit = workers(service)
                assert len(hit) == 1
                os.kill(hit[0], sent)
            for reply, stream in zip(replies, streams, strict=True):
                stream.append(seen(act(client, reply["metadata"]["session_id"], action, include=["valid_actions"])))
        assert streams == [undisturbed] * 3
        assert not [pid for pid in hit if command(pid)]


@pytest.mark.slow
def test_256_open_sessions_take_less_than_2_gb(serve, source):
    tasks = [game.task_id for game in source.games if game.reason is None]
    options = ("--max-sessions", "256", "--max-engines", "256")
    with serve(*options) as service, httpx.Client(base_url=service.url, timeout=120) as client:
        for number in range(256):
            session = begin(client, tasks[number % len(tasks)])["metadata"]["session_id"]
            act(client, session, "look")
        assert len(client.get("/sessions").json()["sessions"]) == 256
        used = pss_mb(tree(service.process.pid))
        print(f"256 open sessions: {used:.0f} MB in {len(workers(service))} workers")
        assert used < 2000


@pytest.mark.slow
def test_a_worker_does_not_grow_with_the_episodes_it_plays(serve, tasks):
    with serve("--max-engines", "1") as service, httpx.Client(base_url=service.url, timeout=120) as client:

        def episodes(count: int) -> float:
            for number in range(count):
                play(client, list(tasks.values())[number % 6], ["look", "go to drawer 1", "inventory"])
            return pss_mb(workers(service))

        episodes(60)
        before = episodes(60)
        assert episodes(240) - before < 10


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_service(serve, tasks, end):
    with serve(ETO_ALFWORLD_GAMES_AHEAD="30") as service, httpx.Client(base_url=service.url, timeout=60) as client:
        begin(client, tasks["look_at_obj_in_light"])
        pids = tree(service.process.pid)
        service.process.send_signal(end)
        service.process.wait(20)
        deadline = time.monotonic() + 5
        while any(command(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [pid for pid in pids if command(pid)]
