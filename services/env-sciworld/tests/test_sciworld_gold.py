"""Gold paths of all of ETO's task types, played twice: the simulator scores 1.0 and says the same to the byte."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import GOLD, act, begin, play, seen
from env_sciworld.tables import split_task_id, task_types

TOGETHER = ["task-3-find-living-thing", "task-1-melt", "task-10-use-thermometer", "task-5-chemistry-mix-paint-(secondary-color)"]


def test_the_gold_paths_cover_a_train_and_a_test_task_of_each_task_type():
    found = {split_task_id(task_id) for task_id in GOLD}
    for task_type in task_types().values():
        if task_type.splits["eto-train"]:
            variations = {variation for name, variation in found if name == task_type.name}
            assert variations & set(task_type.splits["eto-train"])
            assert variations & set(task_type.splits["test"])


@pytest.mark.slow
def test_gold_paths_score_1_and_the_same_is_seen_when_they_are_played_again(client):
    def twice(task_id):
        return task_id, play(client, task_id, GOLD[task_id]), play(client, task_id, GOLD[task_id])

    with ThreadPoolExecutor(2) as threads:
        for task_id, first, second in threads.map(twice, GOLD):
            assert first == second, task_id
            _, _, done, last = first[-1]
            assert (done, last["score"], last["success"]) == (True, 1.0, True), task_id
            assert sum(reward for _, reward, _, _ in first) == pytest.approx(1.0), task_id


@pytest.mark.slow
def test_eight_interleaved_episodes_are_what_they_are_one_after_another(sciworld, client):
    tasks = [task_id for task_id in GOLD if split_task_id(task_id)[0] in TOGETHER]
    assert len(tasks) == 8
    alone = {task_id: play(client, task_id, GOLD[task_id]) for task_id in tasks}

    with ThreadPoolExecutor(8) as threads:  # at the same time
        played = dict(zip(tasks, threads.map(lambda task_id: play(client, task_id, GOLD[task_id]), tasks), strict=True))
    assert played == alone

    replies = {task_id: begin(client, task_id) for task_id in tasks}  # in turns
    streams = {task_id: [seen(reply)] for task_id, reply in replies.items()}
    for actions in itertools.zip_longest(*(GOLD[task_id] for task_id in tasks)):
        for task_id, action in zip(tasks, actions, strict=True):
            if not replies[task_id]["done"]:
                replies[task_id] = act(client, replies[task_id]["metadata"]["session_id"], action)
                streams[task_id].append(seen(replies[task_id]))
    assert streams == alone


@pytest.mark.slow
def test_another_service_says_the_same(client, serve):
    tasks = list(GOLD)[:3]
    here = [play(client, task_id, GOLD[task_id]) for task_id in tasks]
    with serve("--log-level", "warning") as other, httpx.Client(base_url=other.url, timeout=60) as elsewhere:
        assert [play(elsewhere, task_id, GOLD[task_id]) for task_id in tasks] == here
