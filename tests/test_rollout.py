"""Rollouts against the real ScienceWorld service; the policy is scripted, since only the orchestrator's logic is under test."""

import asyncio
import errno
import json
import os
import signal
import subprocess
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import pytest
from orchestrator.env_client import EnvClient, Task
from orchestrator.episode import Assignment, Player
from orchestrator.experts import GoldPolicy, answer
from orchestrator.policy_client import PolicyClient, Sampling
from orchestrator.prompts import load_prompt
from orchestrator.records import Episode, TerminateReason
from orchestrator.rollout import Rollout, RolloutError, run
from scripted_policy import ScriptedPolicy, turn

from orchestrator import jsonl, process

TYPE = "task-3-find-non-living-thing"
PROMPT = load_prompt("sciworld")


async def choose(env: EnvClient, n: int) -> list[Assignment]:
    tasks = [t for t in await env.tasks("eto-unseen") if t.task_type == TYPE][:n]
    return [Assignment(t, "eto-unseen") for t in tasks]


def play(sciworld: str, policy: str, out: Path, n: int = 3, concurrency: int = 3, patience_s: float = 30.0) -> Rollout:
    async def main() -> Rollout:
        async with (
            EnvClient(sciworld, "sciworld", patience_s=patience_s) as env,
            PolicyClient(policy, "m", patience_s=patience_s) as client,
        ):
            player = Player(client, "agent", "v1", Sampling(max_tokens=64), PROMPT, max_steps=4)
            return await run(await choose(env, n), env, player, out, concurrency=concurrency, run_id="test")

    return asyncio.run(main())


def gold(sciworld: str, out: Path, n: int = 2) -> list[Episode]:
    async def main() -> Rollout:
        async with EnvClient(sciworld, "sciworld") as env:
            player = Player(GoldPolicy(env, PROMPT), "expert", None, Sampling(), PROMPT)
            return await run(await choose(env, n), env, player, out, concurrency=2, run_id="test")

    return sorted(asyncio.run(main()).episodes, key=lambda e: e.key)


def wander(messages: list[dict[str, str]], number: int) -> str:
    return answer(["look around", "open door to hallway", "go to hallway", "inventory"][turn(messages) % 4], PROMPT)


def open_sessions(sciworld: str) -> list[str]:
    return [s["session_id"] for s in httpx.get(f"{sciworld}/sessions").json()["sessions"]]


def test_a_gold_path_becomes_an_expert_episode_that_scores_one(sciworld: str, tmp_path: Path) -> None:
    for episode in gold(sciworld, tmp_path / "e.jsonl"):
        assert episode.success
        assert episode.terminate_reason is TerminateReason.TERMINATED
        assert episode.reward == pytest.approx(1.0)
        assert sum(s.reward for s in episode.steps) == pytest.approx(episode.score)
        assert len(episode.messages) == 3 + 2 * len(episode.steps)
    assert open_sessions(sciworld) == []


def test_what_is_on_disk_is_not_played_again(sciworld: str, tmp_path: Path) -> None:
    out = tmp_path / "e.jsonl"
    with ScriptedPolicy(wander) as policy:
        first = play(sciworld, policy.url, out, n=2)
        asked = len(policy.requests)
        text = out.read_text()
        out.write_text(text + text[:100])  # torn by a kill
        second = play(sciworld, policy.url, out, n=3)
        assert len(policy.requests) == asked + 4  # one new episode of four turns
    assert {e.key for e in first.episodes} < {e.key for e in second.episodes}
    assert len(list(jsonl.read(out, Episode))) == 3


def test_episodes_run_side_by_side_up_to_the_bound_and_are_the_same_as_one_by_one(sciworld: str, tmp_path: Path) -> None:
    def slowly(messages: list[dict[str, str]], number: int) -> str:
        time.sleep(0.05)  # a model's pace: requests of concurrent episodes meet
        return wander(messages, number)

    with ScriptedPolicy(slowly) as policy:
        together = play(sciworld, policy.url, tmp_path / "a.jsonl", n=6, concurrency=3)
        assert 2 <= policy.most_at_once <= 3
        alone = play(sciworld, policy.url, tmp_path / "b.jsonl", n=6, concurrency=1)
    streams = [{e.key: (e.messages, [s.reward for s in e.steps], e.score) for e in r.episodes} for r in (together, alone)]
    assert streams[0] == streams[1]


def test_output_without_an_action_costs_a_step_and_says_so(sciworld: str, tmp_path: Path) -> None:
    garbage = ["", "I do not know.", "Action:", "\x00\ud83d\ude00 {}"]
    with ScriptedPolicy(lambda messages, number: garbage[turn(messages)]) as policy:
        (episode,) = play(sciworld, policy.url, tmp_path / "e.jsonl", n=1).episodes
    assert episode.terminate_reason is TerminateReason.STEP_LIMIT
    assert [s.action for s in episode.steps] == [None] * 4
    assert not any(s.valid or s.reward for s in episode.steps)
    assert PROMPT.invalid_output in episode.messages[-1].content


def test_a_context_overflow_ends_the_episode_with_its_own_reason(sciworld: str, tmp_path: Path) -> None:
    message = "This model's maximum context length is 64 tokens. However, you requested 99 tokens"
    overflow = {"error": {"message": message, "type": "BadRequestError", "code": 400}}
    with ScriptedPolicy(lambda m, number: (400, overflow) if turn(m) == 2 else wander(m, number)) as policy:
        (episode,) = play(sciworld, policy.url, tmp_path / "e.jsonl", n=1).episodes
    assert episode.terminate_reason is TerminateReason.CONTEXT_OVERFLOW
    assert len(episode.steps) == 2


def test_a_full_context_drops_its_oldest_turns_where_that_is_wanted_and_the_record_keeps_them(sciworld: str, tmp_path: Path) -> None:
    message = {"error": {"message": "This model's maximum context length is 64 tokens.", "type": "BadRequestError", "code": 400}}
    seen = []

    def two_turns_fit(messages: list[dict[str, str]], number: int) -> str | tuple[int, dict[str, Any]]:
        if turn(messages) > 2:
            return 400, message
        seen.append([m["content"] for m in messages])
        return f"Thought: {len(seen)}\nAction: look around"

    async def main(policy: str) -> Rollout:
        async with EnvClient(sciworld, "sciworld") as env, PolicyClient(policy, "m") as client:
            player = Player(client, "agent", "v1", Sampling(), PROMPT, max_steps=6, drop_oldest=True)
            return await run(await choose(env, 1), env, player, tmp_path / "e.jsonl", concurrency=1, run_id="test")

    with ScriptedPolicy(two_turns_fit) as policy:
        (episode,) = asyncio.run(main(policy.url)).episodes
    assert episode.terminate_reason is TerminateReason.STEP_LIMIT
    assert [s.dropped_turns for s in episode.steps] == [0, 0, 0, 1, 2, 3]
    assert len(episode.messages) == 3 + 2 * 6
    for turn_number, shown in enumerate(seen):
        kept = episode.messages[:3] + episode.messages[3 + 2 * episode.steps[turn_number].dropped_turns : 3 + 2 * turn_number]
        assert shown == [m.content for m in kept]


def test_a_policy_that_is_busy_or_restarting_is_asked_again(sciworld: str, tmp_path: Path) -> None:
    calm = ScriptedPolicy(wander)
    flaky = ScriptedPolicy(lambda m, number: (503, {"error": {"message": "loading"}}) if number % 3 == 0 else wander(m, number))
    with calm, flaky:
        episodes = [play(sciworld, p.url, tmp_path / f"{i}.jsonl", n=2).episodes for i, p in enumerate((calm, flaky))]
    assert sorted([e.messages for e in episodes[0]], key=str) == sorted([e.messages for e in episodes[1]], key=str)


def test_a_policy_that_is_down_ends_the_rollout_with_a_sentence_and_keeps_what_was_played(sciworld: str, tmp_path: Path) -> None:
    out = tmp_path / "e.jsonl"
    with ScriptedPolicy(wander) as policy:
        play(sciworld, policy.url, out, n=1)
    with pytest.raises(RolloutError, match=r"no answer in 1 s.*1 finished episodes are in"):
        play(sciworld, policy.url, out, n=2, patience_s=1.0)
    assert len(list(jsonl.read(out, Episode))) == 1
    assert open_sessions(sciworld) == []


def test_an_error_of_one_episode_leaves_the_others_and_is_named(sciworld: str, tmp_path: Path) -> None:
    out = tmp_path / "e.jsonl"

    async def main() -> None:
        async with EnvClient(sciworld, "sciworld") as env:
            todo = await choose(env, 2)
            nowhere = Assignment(Task(task_id="task-1-boil:99999", task_type="task-1-boil", max_steps=9))
            with ScriptedPolicy(wander) as policy:
                async with PolicyClient(policy.url, "m") as client:
                    player = Player(client, "agent", None, Sampling(), PROMPT, max_steps=4)
                    await run([nowhere, *todo], env, player, out, concurrency=1, run_id="test")

    with pytest.raises(RolloutError, match=r"1 of 3 episodes could not be played, for example task-1-boil:99999.*unknown_task"):
        asyncio.run(main())
    assert len(list(jsonl.read(out, Episode))) == 2
    assert list(json.loads((tmp_path / "failures.json").read_text())) == ["task-1-boil:99999#0"]


def test_a_full_disk_stops_the_rollout_with_a_sentence_and_keeps_what_was_written(
    sciworld: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, write, lines = tmp_path / "e.jsonl", os.write, [0]

    def second_line_does_not_fit(fd: int, data: bytes) -> int:
        if bytes(data[:20]).startswith(b'{"schema":"eto.epis'):
            lines[0] += 1
            if lines[0] == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(os, "write", second_line_does_not_fit)
    with ScriptedPolicy(wander) as policy:
        with pytest.raises(RolloutError, match=r"The disk is full.*1 finished episodes are in"):
            play(sciworld, policy.url, out, n=3, concurrency=1)
        monkeypatch.undo()
        assert len(play(sciworld, policy.url, out, n=3).episodes) == 3


def test_a_jvm_killed_in_mid_episode_changes_nothing(sciworld: str, tmp_path: Path) -> None:
    undisturbed = gold(sciworld, tmp_path / "a.jsonl", n=1)
    running = process.find("env-sciworld")
    assert running is not None

    def kill_a_jvm(pid: int) -> int:
        children = defaultdict(list)
        for line in subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout.splitlines():
            process_id, parent, name = line.split(None, 2)
            children[int(parent)].append((int(process_id), name))
        todo, killed = [pid], 0
        while todo:
            for child, name in children[todo.pop()]:
                if "java" in name:
                    os.kill(child, signal.SIGKILL)
                    killed += 1
                todo.append(child)
        return killed

    killed = []

    class KillingGold(GoldPolicy):
        async def chat(self, messages, sampling, seed, task_id):
            if len(messages) == 3 + 2 * 2:  # after two turns
                killed.append(kill_a_jvm(running.pid))
            return await super().chat(messages, sampling, seed, task_id)

    async def main() -> Rollout:
        async with EnvClient(sciworld, "sciworld") as env:
            player = Player(KillingGold(env, PROMPT), "expert", None, Sampling(), PROMPT)
            return await run(await choose(env, 1), env, player, tmp_path / "b.jsonl", concurrency=1, run_id="test")

    (episode,) = asyncio.run(main()).episodes
    assert sum(killed) >= 1
    assert episode.messages == undisturbed[0].messages
    assert episode.steps[-1].score == 1.0


def test_sessions_that_a_killed_orchestrator_left_are_closed(sciworld: str, tmp_path: Path) -> None:
    for _ in range(4):  # all the service has
        httpx.post(
            f"{sciworld}/reset", json={"split": "eto-unseen", "index": 0, "episode_id": "test/agent/x/0"}, timeout=120
        ).raise_for_status()
    with ScriptedPolicy(wander) as policy:
        assert len(play(sciworld, policy.url, tmp_path / "e.jsonl", n=2, patience_s=10).episodes) == 2
    assert open_sessions(sciworld) == []
