"""Several policy servers: who is asked, who is set aside, how weights are replaced. The servers are scripted processes."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import chat_server
import pytest
from orchestrator.config import RolloutSection
from orchestrator.config_services import PolicySection
from orchestrator.endpoints import Conversation, Unanswerable, keys
from orchestrator.http import Refused, Unavailable
from orchestrator.placement import PolicyPlacement
from orchestrator.policy_client import Completion, PolicyClient, Sampling, SwapFailed
from orchestrator.records import Message
from scripted_policy import ScriptedPolicy, completion
from tiny_run import free_port

from orchestrator import endpoints

PROMPT = [Message(role="user", content="instruction"), Message(role="assistant", content="OK"), Message(role="user", content="task")]


@contextmanager
def servers(count: int, **options: object) -> Iterator[list[str]]:
    ports = [free_port() for _ in range(count)]
    processes = [chat_server.start(port, weights=options.pop("weights", f"w{i}"), **options) for i, port in enumerate(ports)]
    try:
        yield [f"http://127.0.0.1:{port}" for port in ports]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def using(urls: list[str], work: Callable[[PolicyClient], Awaitable[None]], patience_s: float = 20.0, turn_timeout_s: float = 20.0) -> None:
    async def main() -> None:
        async with PolicyClient(urls, "m", patience_s=patience_s, turn_timeout_s=turn_timeout_s) as client:
            await work(client)

    asyncio.run(main())


async def episode(client: PolicyClient, turns: int, conversation: Conversation | None = None) -> list[Completion]:
    """So many turns, one after the other."""
    conversation = conversation or Conversation("t")
    messages, answers = list(PROMPT), []
    for _ in range(turns):
        answers.append(await client.chat(messages, Sampling(), 0, conversation))
        messages += [Message(role="assistant", content=answers[-1].text), Message(role="user", content="Observation: .")]
    return answers


def who(answer: Completion) -> str:
    """The weights that a scripted server says it answered with."""
    return answer.text.removeprefix("(").partition(")")[0]


def test_episodes_are_spread_by_requests_in_flight_and_each_stays_where_it_began() -> None:
    async def work(client: PolicyClient) -> None:
        played = await asyncio.gather(*(episode(client, 4) for _ in range(30)))
        assert all(len({who(a) for a in answers}) == 1 for answers in played)
        assert Counter(who(answers[0]) for answers in played) == {"w0": 10, "w1": 10, "w2": 10}

    with servers(3, slots=4, service_s=0.01) as urls:
        using(urls, work)


def test_a_server_that_dies_is_set_aside_its_episodes_go_on_elsewhere_and_it_is_asked_again_when_it_is_back() -> None:
    ports = [free_port(), free_port()]
    first, second = (chat_server.start(port, weights=f"w{i}") for i, port in enumerate(ports))
    back = second

    async def work(client: PolicyClient) -> None:
        conversations = [Conversation("t") for _ in range(8)]
        await asyncio.gather(*(episode(client, 1, c) for c in conversations))
        assert Counter(c.endpoint for c in conversations) == dict.fromkeys(client.endpoints.all, 4)
        first.kill()
        first.wait()
        answers = await asyncio.gather(*(episode(client, 3, c) for c in conversations))
        assert {who(a) for some in answers for a in some} == {"w1"}
        assert client.endpoints.all[0].aside
        assert sum(c.retries for c in conversations) >= 4
        nonlocal back
        back = await asyncio.to_thread(chat_server.start, ports[0], weights="w0")
        while client.endpoints.all[0].aside:
            await episode(client, 1)
        assert {who((await episode(client, 1))[0]) for _ in range(4)} == {"w0", "w1"}

    try:
        using([f"http://127.0.0.1:{port}" for port in ports], work)
    finally:
        for process in (second, back):
            process.kill()
            process.wait()


@pytest.mark.parametrize("fault", [(500, {"error": {"message": "x"}}), (429, {}), (503, {}), (200, {"choices": []}), (401, {"error": {}})])
def test_a_server_that_only_fails_costs_no_episode_while_another_answers(fault: tuple[int, dict[str, object]]) -> None:
    asked = Counter[str]()

    async def work(client: PolicyClient) -> None:
        await asyncio.gather(*(episode(client, 5) for _ in range(10)))

    with ScriptedPolicy(lambda m, n: fault) as bad, ScriptedPolicy(lambda m, n: "fine") as good:
        using([bad.url, good.url], work)
        asked.update({"bad": len(bad.requests), "good": len(good.requests)})
    assert asked["good"] == 50
    assert asked["bad"] <= 60 if fault[0] == 429 else asked["bad"] <= 20  # "too many requests" is no failure, only a "not now"


@pytest.mark.parametrize("bytes_sent", [b"", b"220 mail.example ESMTP\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"])
def test_a_server_that_hangs_up_or_speaks_something_else_costs_no_episode_while_another_answers(bytes_sent: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(bytes_sent)
        writer.close()

    async def main() -> None:
        other = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}"
        with ScriptedPolicy(lambda m, n: "fine") as good:
            async with other, PolicyClient([url, good.url], "m", patience_s=20.0) as client:
                conversations = [Conversation("t") for _ in range(4)]
                answers = await asyncio.gather(*(episode(client, 3, c) for c in conversations))
                assert {a.text for some in answers for a in some} == {"fine"}
                assert sum(c.retries for c in conversations) >= 1

    asyncio.run(main())


def test_what_every_server_refuses_is_told_at_once() -> None:
    async def work(client: PolicyClient) -> None:
        with pytest.raises(Refused, match="no such model"):
            await episode(client, 1)

    with ScriptedPolicy(lambda m, n: (404, {"error": {"message": "no such model"}})) as one:
        using([one.url], work)


def test_retry_after_is_waited_for_where_no_other_server_is() -> None:
    async def work(client: PolicyClient) -> None:
        conversation = Conversation("t")
        with pytest.raises(Unavailable, match="status 429"):  # the servers ask for more patience than there is
            await episode(client, 1, conversation)
        assert conversation.retries == 1

    with servers(1, faults=1.0, kinds="429") as urls:  # which says 0.2 s; a pause of our own would have been shorter than the patience
        using(urls, work, patience_s=0.19)


def test_a_request_that_breaks_the_server_again_and_again_is_given_up_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "BACKOFF_S", (0.02, 0.2))

    def script(messages: list[dict[str, str]], number: int) -> str | tuple[int, dict[str, object]]:
        return (500, {"error": {"message": "cannot"}}) if messages[-1]["content"] == "poison" else "fine"

    async def work(client: PolicyClient) -> None:
        poison = [*PROMPT[:2], Message(role="user", content="poison")]

        async def bystander() -> None:
            while not broken.done():
                await episode(client, 1)

        broken = asyncio.ensure_future(client.chat(poison, Sampling(), 0, Conversation("t")))
        await asyncio.gather(bystander(), bystander(), return_exceptions=True)
        with pytest.raises(Unanswerable, match="times on one request and answered others"):
            await broken

    with ScriptedPolicy(script) as server:
        using([server.url], work, patience_s=120)


def test_keys_come_from_the_environment_each_server_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETO_POLICY_TOKEN", "all")
    monkeypatch.setenv("ETO_POLICY_TOKEN_2", "second")
    assert keys(3) == ["all", "second", "all"]


def checkpoint(folder: Path, name: str) -> Path:
    """A checkpoint whose probe a scripted server answers once it has loaded it."""
    made = folder / name
    made.mkdir()
    value = -1.0 - sum(map(ord, name)) % 97 / 10
    probe = {"prompt_token_ids": [1, 2, 3], "logprobs": [None, value, value]}
    (made / "manifest.json").write_text(json.dumps({"version": name, "method": "dpo", "probe": probe}))
    return made


def placement(urls: list[str]) -> PolicyPlacement:
    return PolicyPlacement(PolicySection(url=urls), "test", RolloutSection(patience_s=30))


def test_weights_are_replaced_one_server_at_a_time_while_episodes_go_on_and_every_turn_names_its_version(tmp_path: Path) -> None:
    one, two = checkpoint(tmp_path, "one"), checkpoint(tmp_path, "two")

    async def main(urls: list[str]) -> None:
        policy = placement(urls)
        async with policy.client as client:
            assert await policy.serve(str(one)) == "one"
            swapped = asyncio.Event()

            async def play() -> list[Completion]:
                answers = await episode(client, 5)
                while not swapped.is_set():
                    answers += await episode(client, 1)
                return answers + await episode(client, 5)

            async def watch() -> int:
                """The most servers that were closed at any look."""
                closed = 0
                while not swapped.is_set():
                    closed = max(closed, sum(e.opens_in(0.0) is None for e in client.endpoints.all))
                    await asyncio.sleep(0)
                return closed

            async def swap() -> None:
                await asyncio.sleep(0.1)  # let the episodes begin
                assert await policy.serve(str(two)) == "two"
                swapped.set()

            played, closed, _ = await asyncio.gather(asyncio.gather(*(play() for _ in range(24))), watch(), swap())
        answers = [a for one_episode in played for a in one_episode]
        assert [(a.version, who(a)) for a in answers if a.version != who(a)] == []  # "one and two" would be a request that spans both
        assert {a.version for a in answers} == {"one", "two"}
        assert {a.version for one_episode in played for a in one_episode[-5:]} == {"two"}
        assert closed == 1

    with servers(3, slots=8, service_s=0.02) as urls:
        asyncio.run(main(urls))


def test_a_server_that_was_away_during_a_swap_gets_the_weights_before_it_is_asked_again(tmp_path: Path) -> None:
    one = checkpoint(tmp_path, "one")
    ports = [free_port(), free_port()]
    first = chat_server.start(ports[0], weights="base")

    async def main() -> None:
        notes: list[str] = []
        policy = placement([f"http://127.0.0.1:{port}" for port in ports])
        policy.note = notes.append
        async with policy.client as client:
            await policy.serve(str(one))
            assert f"127.0.0.1:{ports[1]} is set aside" in notes[0]
            second = await asyncio.to_thread(chat_server.start, ports[1], weights="base")
            try:
                seen: list[Completion] = []
                while client.endpoints.all[1].aside:
                    seen += await episode(client, 1)
                seen += [a for some in await asyncio.gather(*(episode(client, 1) for _ in range(8))) for a in some]
            finally:
                second.kill()
                second.wait()
            assert {(a.version, who(a)) for a in seen} == {("one", "one")}
            assert client.endpoints.all[1].asked_at > 0

    try:
        asyncio.run(main())
    finally:
        first.kill()
        first.wait()


def test_a_server_that_takes_no_weights_is_told_as_such(tmp_path: Path) -> None:
    one = checkpoint(tmp_path, "one")

    async def main(url: str) -> None:
        policy = placement([url])
        async with policy.client:
            with pytest.raises(SwapFailed, match="does not take weights: no such route"):
                await policy.serve(str(one))
            assert await policy.serve("some-model") == "some-model"  # it keeps its own

    with ScriptedPolicy(lambda m, n: (404, {"error": {"message": "no such route"}})) as server:
        asyncio.run(main(server.url))


def test_tokens_are_recorded_where_the_server_gives_them() -> None:
    def script(messages: list[dict[str, str]], number: int) -> tuple[int, dict[str, object]]:
        reply = completion("hello")
        reply["choices"][0] |= {"logprobs": {"content": [{"token": "a", "logprob": -0.5}]}, "token_ids": [7]}
        return 200, reply

    async def work(client: PolicyClient) -> None:
        for record, sent in ((None, []), ("logprobs", ["logprobs"]), ("ids", ["logprobs", "return_token_ids"])):
            answer = await client.chat(PROMPT, Sampling(record=record), 0, Conversation("t"))
            assert (answer.logprobs, answer.token_ids) == ([-0.5], [7])
            assert sorted(server.requests[-1].keys() & {"logprobs", "return_token_ids"}) == sent

    with ScriptedPolicy(script) as server:
        using([server.url], work)
