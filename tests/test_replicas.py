"""One environment served by several services: three real ones on ports of their own (the core's counter)."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from orchestrator.env_client import EnvClient, SessionLost
from orchestrator.episode import Assignment, Player
from orchestrator.experts import GoldPolicy
from orchestrator.http import Unavailable
from orchestrator.policy_client import Sampling
from orchestrator.process import Service
from orchestrator.prompts import load_prompt
from orchestrator.records import Episode
from orchestrator.replicas import Replicas
from orchestrator.services import _get_ok
from tiny_run import free_port, kill

from orchestrator import places, process, rollout

pytestmark = pytest.mark.slow
PROMPT = load_prompt("sciworld")
CORE_TESTS = Path(__file__).parents[1] / "services/env-core/tests"


def counter(number: int, folder: Path) -> Service:
    port = free_port()
    command = [str(places.service_python("env-sciworld")), "-m", "counter_env", "serve", "--port", str(port), "--max-sessions", "4"]
    url = f"http://127.0.0.1:{port}"
    journal = ["--journal", str(folder / f"{number}.sqlite")]
    return Service(f"counter-{number}", command + journal, url, _get_ok(f"{url}/ready"), {"PYTHONPATH": str(CORE_TESTS)})


async def start(service: Service) -> None:
    await process.wait_ready(service, process.start(service))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Service]]:
    folder = tmp_path_factory.mktemp("journals")
    services = [counter(number, folder) for number in range(3)]
    yield services
    for service in services:
        if (running := process.find(service.name)) is not None:
            process.stop(running)


@pytest.fixture
def replicas(three: list[Service]) -> list[Service]:
    """All are up and hold no session."""

    async def all_of_them() -> None:
        await asyncio.gather(*[start(service) for service in three if not await service.ready()])

    asyncio.run(all_of_them())
    for service in three:
        for session in open_at(service):
            httpx.delete(f"{service.url}/sessions/{session}").raise_for_status()
    return three


def urls(replicas: list[Service]) -> list[str]:
    return [service.url for service in replicas]


def open_at(service: Service) -> list[str]:
    return [s["session_id"] for s in httpx.get(f"{service.url}/sessions").json()["sessions"]]


def end(service: Service) -> None:
    running = process.find(service.name)
    assert running is not None
    kill(running.pid)
    os.waitpid(running.pid, 0)


def play(env: EnvClient, out: Path, tasks: int, concurrency: int) -> asyncio.Task[rollout.Rollout]:
    async def main() -> rollout.Rollout:
        player = Player(GoldPolicy(env, PROMPT), "expert", None, Sampling(), PROMPT)
        todo = [Assignment(task) for task in (await env.tasks("train"))[:tasks]]
        return await rollout.run(todo, env, player, out, concurrency=concurrency, run_id="test")

    return asyncio.create_task(main())


def complete(played: rollout.Rollout, tasks: int) -> list[Episode]:
    assert sorted(e.task_id for e in played.episodes) == sorted(f"count:{n}" for n in range(1, tasks + 1))
    assert all(e.success for e in played.episodes)
    return played.episodes


def test_sessions_are_spread_evenly_and_each_stays_with_the_service_that_made_it(replicas: list[Service]) -> None:
    async def main() -> None:
        async with EnvClient(urls(replicas), "counter") as env:
            opened = [(await env.reset("count:9")).metadata.session_id for _ in range(6)]
            assert [len(open_at(service)) for service in replicas] == [2, 2, 2]
            for number in range(3):
                replies = await asyncio.gather(*(env.step(s, "add 1", str(number)) for s in opened))
                assert [r.metadata.step for r in replies] == [number + 1] * 6
            for session in opened:
                await env.close(session)
            assert [open_at(service) for service in replicas] == [[], [], []]

    asyncio.run(main())


def test_more_sessions_than_one_service_takes_go_to_the_others(replicas: list[Service]) -> None:
    async def main() -> None:
        async with EnvClient(urls(replicas), "counter") as env, httpx.AsyncClient() as other:
            for _ in range(4):  # another client fills the first
                assert (await other.post(f"{replicas[0].url}/reset", json={"task_id": "count:9"})).status_code == 200
            for _ in range(8):
                await env.reset("count:9")
            assert [len(open_at(service)) for service in replicas] == [4, 4, 4]

    asyncio.run(main())


def test_a_service_that_dies_for_good_costs_its_episodes_a_restart_and_nothing_else(replicas: list[Service], tmp_path: Path) -> None:
    async def main() -> list[Episode]:
        async with EnvClient(urls(replicas), "counter", lost_after_s=1.0) as env:
            running = play(env, tmp_path / "episodes.jsonl", 10, 6)
            while not open_at(replicas[1]):
                await asyncio.wait([running], timeout=0.005)
            end(replicas[1])
            return complete(await running, 10)

    episodes = asyncio.run(main())
    assert sum(e.restarts for e in episodes) >= 1
    assert open_at(replicas[0]) == open_at(replicas[2]) == []


def test_a_service_that_comes_back_with_its_journal_goes_on_with_its_sessions(replicas: list[Service]) -> None:
    async def main() -> None:
        async with EnvClient(urls(replicas), "counter") as env:
            opened = [(await env.reset("count:9")).metadata.session_id for _ in range(3)]
            end(replicas[0])
            waiting = [asyncio.create_task(env.step(s, "add 1", "0")) for s in opened]
            await start(replicas[0])
            assert [(await w).observation.text for w in waiting] == ["The count is 1."] * 3

    asyncio.run(main())


def test_a_session_that_no_service_is_known_to_have_is_lost(replicas: list[Service]) -> None:
    async def main() -> None:
        async with EnvClient(urls(replicas), "counter") as env:
            with pytest.raises(SessionLost, match="none of the replicas"):
                await env.step("nobodys", "add 1", "0")

    asyncio.run(main())


def test_sessions_that_a_killed_orchestrator_left_are_closed_at_every_service(replicas: list[Service]) -> None:
    async def main() -> None:
        async with EnvClient(urls(replicas), "counter") as dead:
            for _ in range(6):
                await dead.reset("count:9", episode_id="test/agent/count:9/0")
        async with EnvClient(urls(replicas), "counter") as env:
            await rollout.close_leftovers(env, "test")

    asyncio.run(main())
    assert [open_at(service) for service in replicas] == [[], [], []]


def test_a_name_that_stands_for_one_address_is_asked_by_its_name(replicas: list[Service]) -> None:
    async def main() -> None:
        url = replicas[0].url.replace("127.0.0.1", "ip4-loopback.invalid")
        for name in (replicas[0].url.replace("127.0.0.1", "localhost"), url):
            known = Replicas([name], {}, 5.0)
            assert [r.url for r in await known.listed()] == [name]
            assert not known.several
            await known.close()

    asyncio.run(main())


def test_where_to_find_one_gone_takes_all_patience_another_is_asked_still(replicas: list[Service]) -> None:
    gone = f"http://127.0.0.1:{free_port()}"

    async def played() -> list[str]:
        async with EnvClient([gone, *urls(replicas)], "counter", patience_s=0.0) as env:
            return [(await env.reset("count:9")).metadata.session_id for _ in range(3)]

    assert len(set(asyncio.run(played()))) == 3


def test_where_all_are_gone_it_is_said(replicas: list[Service]) -> None:
    async def asked() -> None:
        gone = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
        async with EnvClient(gone, "sciworld", patience_s=0.0) as env:
            await env.reset("anything")

    with pytest.raises(Unavailable, match="no replica of sciworld answered"):
        asyncio.run(asked())
