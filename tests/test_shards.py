"""A shard is a process that plays; on a cluster it is a Ray actor (benchmarks/soak/ray_cluster.py), which needs the extra `make ray`."""

import asyncio
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import httpx
import pytest
from orchestrator.config import ConfigError, RaySection, RolloutSection
from orchestrator.config_file import load_config
from orchestrator.config_services import EnvSection
from orchestrator.env_client import EnvClient, Task
from orchestrator.episode import Assignment, Player
from orchestrator.experts import GoldPolicy
from orchestrator.policy_client import Sampling
from orchestrator.prompts import load_prompt
from orchestrator.records import Episode
from orchestrator.rollout import play_one
from orchestrator.shards import Failure, Orders, Shard, Shards, Terms
from tiny_run import wait_until

from orchestrator import ray_cluster

PROMPT = load_prompt("sciworld")
CAST = partial(Player, policy="expert", version=None, sampling=Sampling(), prompt=PROMPT)
CONNECT = partial(GoldPolicy, prompt=PROMPT)
TASK = Task(task_id="task-3-find-non-living-thing:0", task_type="task-3-find-non-living-thing", max_steps=100)

#: Starts a shard's own service by playing, tells its address, and waits to be killed.
PLAYS = f"""
import asyncio
from functools import partial
from orchestrator.config import RolloutSection
from orchestrator.config_services import EnvSection
from orchestrator.env_client import Task
from orchestrator.episode import Assignment, Player
from orchestrator.experts import GoldPolicy
from orchestrator.policy_client import Sampling
from orchestrator.prompts import load_prompt
from orchestrator.shards import Orders, Shard, Terms
from orchestrator import process

async def main():
    prompt = load_prompt("sciworld")
    cast = partial(Player, policy="expert", version=None, sampling=Sampling(), prompt=prompt)
    orders = Orders(cast, partial(GoldPolicy, prompt=prompt))
    shard = Shard(0, Terms(EnvSection(max_engines=1), RolloutSection(), orders, "test", {{}}))
    played = await shard.play(Assignment(Task.model_validate({TASK.model_dump()!r})))
    print(played.score, process.find("env-sciworld").url, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


def terms(url: str) -> Terms:
    return Terms(EnvSection(url=url), RolloutSection(patience_s=5), Orders(CAST, CONNECT), "test", {})


@pytest.fixture
def state_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard has its process to itself and names its own state there; the tests' is put back."""
    monkeypatch.setenv("ETO_STATE", os.environ["ETO_STATE"])


def test_a_shard_plays_what_the_orchestrator_would(sciworld: str, state_stays: None) -> None:
    async def both() -> list[object]:
        played = await Shard(0, terms(sciworld)).play(Assignment(TASK))
        async with EnvClient(sciworld, "sciworld") as env:
            return [played, await play_one(Assignment(TASK), env, CAST(CONNECT(env)), "test")]

    stories = []
    for played in asyncio.run(both()):
        assert isinstance(played, Episode)
        stories.append((played.messages, [s.reward for s in played.steps], played.score, played.policy))
    assert stories[0] == stories[1]
    assert stories[0][2] == 1.0


def test_a_shard_says_why_there_is_no_episode_and_whether_others_would_fare_better(sciworld: str, state_stays: None) -> None:
    nowhere = Assignment(Task(task_id="task-3-find-non-living-thing:99999", task_type="x", max_steps=9))
    failure = asyncio.run(Shard(0, terms(sciworld)).play(nowhere))
    assert isinstance(failure, Failure)
    assert not failure.final
    assert "unknown_task" in failure.message
    gone = asyncio.run(Shard(0, terms("http://127.0.0.1:9")).play(Assignment(TASK)))
    assert isinstance(gone, Failure)
    assert gone.final


def test_the_service_of_a_shard_ends_with_the_shard_however_that_ends(tmp_path: Path) -> None:
    shard = subprocess.Popen(
        [sys.executable, "-c", PLAYS], stdout=subprocess.PIPE, env={**os.environ, "ETO_STATE": str(tmp_path)}, text=True
    )
    try:
        assert shard.stdout is not None
        score, url = shard.stdout.readline().split()
        assert float(score) == 1.0
        assert httpx.get(f"{url}/health").status_code == 200
    finally:
        os.kill(shard.pid, signal.SIGKILL)
        shard.wait()

    def closed() -> bool:
        try:
            httpx.get(f"{url}/health", timeout=2)
        except httpx.TransportError:
            return True
        return False

    wait_until(closed, 60)


def test_a_configuration_that_wants_ray_where_it_is_not_installed_is_told_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as the import system marks a module that is not there
    with pytest.raises(ConfigError, match=r"not installed here. Run `make ray`"):
        ray_cluster.load()


def test_an_address_without_a_cluster_is_an_error_of_one_sentence() -> None:
    pytest.importorskip("ray", reason="Ray is an extra: `make ray` installs it")
    shards = Shards(EnvSection(), RolloutSection(ray=RaySection(address="127.0.0.1:9")), Orders(CAST, CONNECT), "test", 1)

    async def main() -> None:
        async with shards:
            pass

    with pytest.raises(RuntimeError, match=r"no Ray cluster answers at 127\.0\.0\.1:9"):
        asyncio.run(main())


def test_unknown_settings_of_both_ray_sections_are_told_their_own_names(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: x\ntrain_tasks: {split: a}\nevaluate: [{split: b}]\nrollout: {ray: {nodes: 3}}\ntrainer: {ray: {nodes: 3}}\n")
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert "rollout.ray.nodes: unknown key; known here: address, shards" in str(error.value)
    assert "trainer.ray.nodes: unknown key; known here: address, gpus, cpus, resources, python" in str(error.value)
