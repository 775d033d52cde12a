"""The client of an environment, where what it meets at the end must not hide what ended it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from orchestrator.env_client import EnvClient

from orchestrator import env_client

REPLY = {
    "observation": {"text": "a room"},
    "reward": 0.0,
    "done": False,
    "metadata": {"session_id": "s", "task_id": "t", "step": 0, "max_steps": 9, "score": 0.0, "success": False}
    | {"terminated": False, "truncated": False},
}


async def episode(env: EnvClient) -> None:
    reply = await env.reset("t")
    async with env.closing(reply.metadata.session_id):
        await env.step("s", "look", "0")


@asynccontextmanager
async def service(deleted: list[int], stepping: asyncio.Event) -> AsyncIterator[EnvClient]:
    """An environment whose steps never end and whose deletions are answered with these, one after the other."""

    async def reset(request: web.Request) -> web.Response:
        return web.json_response(REPLY)

    async def step(request: web.Request) -> web.Response:
        stepping.set()
        await asyncio.sleep(60)
        return web.json_response(REPLY)

    async def delete(request: web.Request) -> web.Response:
        return web.json_response({"error": {"code": "any", "message": "why"}}, status=deleted.pop(0))

    app = web.Application()
    app.add_routes([web.post("/reset", reset), web.post("/step", step), web.delete("/sessions/s", delete)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with EnvClient(f"http://127.0.0.1:{port}", "env", patience_s=600) as client:
            yield client
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("answers", [[409, 409, 200], [500], [404]], ids=["while its step is at work", "fails", "is gone"])
def test_a_cancelled_episode_stays_cancelled_whatever_its_session_says_to_being_deleted(answers: list[int]) -> None:
    async def main() -> None:
        stepping = asyncio.Event()
        async with service(answers, stepping) as env:
            task = asyncio.create_task(episode(env))
            await stepping.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert answers == []


def test_a_cancelled_episode_does_not_wait_for_a_service_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env_client, "PARTING_S", 0.1)

    async def main() -> None:
        stepping = asyncio.Event()
        async with service([503] * 1000, stepping) as env:  # as a proxy answers for a service that is away
            task = asyncio.create_task(episode(env))
            await stepping.wait()
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=60)  # patience is 600 s
            assert done
            assert task.cancelled()

    asyncio.run(main())
