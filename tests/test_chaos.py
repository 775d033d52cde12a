"""Policy servers that fail one request in ten in five ways, and die: every episode ends, once, as it would have undisturbed.

benchmarks/soak/chaos.py is the long form: 1,000 episodes.
"""

from pathlib import Path

import chaos_run

EPISODES = 24
FAULTS = {"faults": 0.1, "slow_s": 30.0}


def play(sciworld: str, servers: chaos_run.Servers, out: Path, **options: object) -> chaos_run.Rollout:
    played, _ = chaos_run.rollout("sciworld", sciworld, servers, out, EPISODES, 8, split="eto-unseen", max_steps=4, **options)  # type: ignore[arg-type]
    return played


def test_every_episode_ends_once_as_undisturbed_and_every_fault_is_one_retry(sciworld: str, tmp_path: Path) -> None:
    with chaos_run.Servers(1, tmp_path / "calm", {}) as servers:
        play(sciworld, servers, tmp_path / "calm.jsonl")
    calm = chaos_run.contents(tmp_path / "calm.jsonl")
    assert len(calm) == EPISODES

    with chaos_run.Servers(2, tmp_path / "faulty", FAULTS) as servers:
        played = play(sciworld, servers, tmp_path / "faulty.jsonl", turn_timeout_s=2.0)
        told = servers.told()
    assert chaos_run.contents(tmp_path / "faulty.jsonl") == calm
    faults = sum(told[kind] for kind in chaos_run.chat_server.FAULTS)
    assert faults > 0
    assert sum(e.retries for e in played.episodes) == faults
    assert told["answered"] == sum(len(e.steps) for e in played.episodes)

    with chaos_run.Servers(2, tmp_path / "dying", {**FAULTS, "slots": 8, "service_s": 0.1}) as servers:
        played = play(sciworld, servers, tmp_path / "dying.jsonl", turn_timeout_s=2.0, kill_every_s=0.7)
        assert servers.kills > 0
        told = servers.told()
    assert chaos_run.contents(tmp_path / "dying.jsonl") == calm
    assert sum(e.retries for e in played.episodes) >= sum(told[kind] for kind in (*chaos_run.chat_server.FAULTS, "cut off by a kill"))
