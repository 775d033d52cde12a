#!services/env-alfworld/.venv/bin/python
"""The long proofs of the ALFWorld service on real data: identity with stock textworld, experts that win, interleaving, memory.

    ETO_DATA=DIR services/env-alfworld/.venv/bin/python benchmarks/soak/alfworld.py [NAME ...]

DIR holds alfworld/json_2.1.1 (and experts/alfworld_gold.json); without it the generated games are played, which are fewer and have no gold.
Without names, all of those below. It ends with status 1 when one fails.
Writes benchmarks/out/soak-alfworld.json.
- identity: 60 games x 30 random admissible steps: observations, admissible commands and won are those of stock textworld in process.
- gold: the imported gold episodes of 300 train games are won through HTTP.
- planner: the planner's plans of 40 valid_seen and 40 valid_unseen games are won through HTTP.
- handcoded: alfworld's hand-coded agent on 30 valid games; counted, not demanded (it may fail by its nature).
- interleaved: 16 episodes played together are what they are one after another.
- memory: 256 open sessions, each on an engine of its own, in less than 2 GB.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from env_alfworld.downward import Library
from env_alfworld.engine import made_ready
from env_alfworld.experts import find_actions, handcoded_actions, replay
from env_alfworld.settings import AlfworldSettings
from env_alfworld.sources import Source, listed
from env_alfworld.stock import stock_environment
from env_alfworld.store import GameFile, Store
from env_alfworld.world import World
from env_core.process_tree import pss_mb, tree
from env_core.running import running_service

OUT = Path(__file__).parent.parent / "out" / "soak-alfworld.json"
SEED = 0
STEPS = 30
QUIET = ("--log-level", "warning")


def drawn(source: Source, splits: Iterable[str], count: int) -> list[GameFile]:
    """Return `count` random games that can be played, or all where there are fewer."""
    games = [game for game in source.games if game.split in splits and game.reason is None]
    return random.Random(SEED).sample(games, min(count, len(games)))


def identity(source: Source) -> dict[str, Any]:
    """Play beside stock textworld."""
    store, library, stock, rng = Store(source.store), Library(), stock_environment(), random.Random(SEED)
    games = drawn(source, ("train", "valid_seen", "valid_unseen"), 60)
    differences, wins = [], 0
    for file in games:
        stock.load(str(source.root / file.path))
        state = stock.reset()
        world = World(library, made_ready(store, source.root, file, games_kept=1))
        same = (world.text, world.commands) == (state.feedback, state.admissible_commands)
        won = False
        for _ in range(STEPS):
            command = rng.choice(world.commands)
            state, _, _ = stock.step(command)
            won = won or state.won
            same = same and (world.step(command), world.commands, world.won) == (state.feedback, state.admissible_commands, won)
        wins += won
        if not same:
            differences.append(file.task_id)
    return {"ok": not differences, "games": len(games), "steps": len(games) * STEPS, "won": wins, "different": differences}


def played(client: httpx.Client, task_id: str, actions: list[str], max_steps: int = 1000) -> list[tuple[str, float, bool, list[str]]]:
    """Play actions; return observation, reward, done and valid actions of each reply."""
    fields: dict[str, Any] = {"include": ["valid_actions"]}
    reply = client.post("/reset", json={"task_id": task_id, "max_steps": max_steps, **fields}).raise_for_status().json()
    session = reply["metadata"]["session_id"]
    stream = [_seen(reply)]
    for action in actions:
        reply = client.post("/step", json={"session_id": session, "action": action, **fields}).raise_for_status().json()
        stream.append(_seen(reply))
        if reply["done"]:
            break
    client.delete(f"/sessions/{session}").raise_for_status()
    return stream


def _seen(reply: dict[str, Any]) -> tuple[str, float, bool, list[str]]:
    return reply["observation"]["text"], reply["reward"], reply["done"], reply["metadata"]["valid_actions"]


def gold(source: Source) -> dict[str, Any]:
    """Replay imported gold through the service."""
    games = [g for g in drawn(source, ("train",), 3000) if g.gold][:300]
    return _replayed("gold", [(game, list(game.gold or ())) for game in games])


def planner(source: Source) -> dict[str, Any]:
    """Replay the planner's plans, worked out ahead as `env_alfworld.prepare --plans` does and asked of the service."""
    games = drawn(source, ("valid_seen",), 40) + drawn(source, ("valid_unseen",), 40)
    store = Store(source.store)
    for file in games:
        game = made_ready(store, source.root, file, games_kept=1)
        find_actions(store, source.root, file, game, "planner")
    return _replayed("planner", [(game, None) for game in games])


def _replayed(expert: str, episodes: list[tuple[GameFile, list[str] | None]]) -> dict[str, Any]:
    options = ("--max-sessions", "4", "--max-engines", "1", *QUIET)
    variables = {"ETO_ALFWORLD_EXPERT": expert, "ETO_ENV_EXPERT_TIMEOUT_S": "300"}
    failed, lengths = [], []
    with running_service("env_alfworld", options, variables, 300) as service, httpx.Client(base_url=service.url, timeout=400) as client:
        for game, actions in episodes:
            if actions is None:
                actions = client.get(f"/tasks/{game.task_id}/expert").raise_for_status().json()["actions"]
            _, reward, done, _ = played(client, game.task_id, actions)[-1]
            lengths.append(len(actions))
            if (reward, done) != (1.0, True):
                failed.append(game.task_id)
    within = sum(length <= 40 for length in lengths)
    return {"ok": not failed, "games": len(episodes), "won": len(episodes) - len(failed), "in_40_steps": within, "failed": failed}


def handcoded(source: Source) -> dict[str, Any]:
    """Let the hand-coded agent play."""
    store = Store(source.store)
    games = drawn(source, ("valid_seen", "valid_unseen"), 30)
    won = 0
    for file in games:
        game = made_ready(store, source.root, file, games_kept=1)
        won += bool(replay(game, handcoded_actions(source.root, file, game) or ()))
    return {"ok": True, "games": len(games), "won": won}


def interleaved(source: Source) -> dict[str, Any]:
    """Play 16 episodes one after another and together."""
    store, library = Store(source.store), Library()
    episodes = []
    for file in drawn(source, ("valid_seen", "valid_unseen"), 16):
        rng, world = random.Random(SEED), World(library, made_ready(store, source.root, file, games_kept=1))
        actions = []
        for _ in range(STEPS):
            actions.append(rng.choice(world.commands))
            world.step(actions[-1])
        episodes.append((file.task_id, actions))
    options = ("--max-sessions", "16", "--max-engines", "16", *QUIET)
    with running_service("env_alfworld", options, None, 300) as service, httpx.Client(base_url=service.url, timeout=120) as client:
        alone = [played(client, *episode) for episode in episodes]
        with ThreadPoolExecutor(16) as threads:
            together = list(threads.map(lambda episode: played(client, *episode), episodes))
    return {"ok": alone == together, "episodes": len(episodes), "steps": len(episodes) * STEPS}


def memory(source: Source) -> dict[str, Any]:
    """Open 256 sessions, on different games where there are so many, take five steps in each, weigh all processes."""
    few = drawn(source, ("valid_seen", "valid_unseen"), 256)
    games = (few * 256)[:256]
    options = ("--max-sessions", "256", "--max-engines", "256", *QUIET)
    with running_service("env_alfworld", options, None, 300) as service, httpx.Client(base_url=service.url, timeout=300) as client:
        for game in games:
            reply = client.post("/reset", json={"task_id": game.task_id}).raise_for_status().json()
            session = {"session_id": reply["metadata"]["session_id"]}
            for action in ("look", "inventory", "go to drawer 1", "open drawer 1", "look"):
                client.post("/step", json={**session, "action": action}).raise_for_status()
        live = sum(not state["done"] for state in client.get("/sessions").json()["sessions"])
        used = pss_mb(tree(service.process.pid))
    return {"ok": used < 2000 and live == 256, "sessions": live, "pss_mb": round(used)}


PROOFS: dict[str, Callable[[Source], dict[str, Any]]] = {
    proof.__name__: proof for proof in (identity, gold, planner, handcoded, interleaved, memory)
}


def main() -> None:
    """Run the proofs that are named."""
    sys.path.remove(str(Path(__file__).resolve().parent))  # this file would be taken for the package alfworld
    names = sys.argv[1:] or list(PROOFS)  # read now: the translator overwrites sys.argv
    if unknown := set(names) - set(PROOFS):
        raise SystemExit(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(PROOFS)}")
    os.environ["ETO_ALFWORLD_GAMES_AHEAD"] = "0"
    source = listed(AlfworldSettings())
    found = [str(f) for f in source.found]
    print(f"{source.label}: {'; '.join(found)}", flush=True)
    results = json.loads(OUT.read_text()) if OUT.exists() else {}
    results["found"] = found
    for name in names:
        started, cpu = time.monotonic(), os.times()
        results[name] = PROOFS[name](source)
        spent = os.times()
        results[name]["elapsed_s"] = round(time.monotonic() - started, 1)
        results[name]["cpu_s"] = round(sum(spent[:4]) - sum(cpu[:4]), 1)
        print(name, json.dumps(results[name]), flush=True)
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(json.dumps(results, indent=1) + "\n")
    if not all(results[name]["ok"] for name in names):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
