#!services/env-webshop/.venv/bin/python
"""AgentTraj's recorded WebShop sessions, replayed through HTTP on the real 1,000 products, each observation compared.

    ETO_DATA=DIR make soak ONLY=webshop_replay

DIR holds webshop/{items_shuffle_1000.json, items_ins_v2_1000.json} and experts/webshop_agenttraj.json. A recording is of the original's
environment (AgentGym's server); its item N is synthetic goal N of the original's order. Observations fall in classes: equal; equal but
for the price limit in the instruction, which the original draws unseeded; other. Then the service's expert plays --experts goals.
Rewards are not in the recordings. What can be said of them: who buys the goal's product with the goal's options has matched all (1.0).
Writes benchmarks/out/soak-webshop_replay.json.
"""

import argparse
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from env_core.running import running_service

ROOT = Path(__file__).parents[2]
OUT = ROOT / "benchmarks" / "out" / "soak-webshop_replay.json"
LIMIT = re.compile(r", and price lower than [\d.]+ dollars")
ACTION = re.compile(r"Action:\s*(.*)", re.DOTALL)
SYNTHETIC_GOALS = 6910


def compare(seen: str, recorded: str) -> str:
    """Return the class of an observation."""
    if seen == recorded:
        return "equal"
    return "equal but for the price limit" if LIMIT.sub("", seen) == LIMIT.sub("", recorded) else "other"


def is_exact(record: dict[str, Any], actions: list[str]) -> bool:
    """Whether a session buys the goal's own product with all its options."""
    clicked = {action[6:-1].lower() for action in actions if action.startswith("click[")}
    options = {value.lower() for value in record["goal_options"].values()}
    products = [action[6:-1] for action in actions if re.fullmatch(r"click\[B[0-9A-Z]{9}\]", action)]
    return bool(products) and products[-1] == record["goal_asin"] and options <= clicked


def replay(client: httpx.Client, record: dict[str, Any], classes: Counter[str], others: list[dict[str, Any]]) -> tuple[bool, float, bool]:
    """Play a recording; return (whether it bought, its score, whether it was an exact purchase)."""
    turns = record["conversations"]
    task_id = "synthetic:" + record["id"].rpartition("_")[2]
    reply = client.post("/reset", json={"task_id": task_id, "max_steps": 1000}).raise_for_status().json()
    session = reply["metadata"]["session_id"]
    actions = []
    for place in range(2, len(turns) - 1, 2):
        seen, recorded = reply["observation"]["text"], turns[place]["value"]
        kind = compare(seen, recorded)
        classes[kind] += 1
        if kind == "other":
            others.append({"task_id": task_id, "turn": place, "seen": seen, "recorded": recorded})
        actions.append(ACTION.findall(turns[place + 1]["value"])[-1].strip())
        reply = client.post("/step", json={"session_id": session, "action": actions[-1]}).raise_for_status().json()
        if not reply["metadata"]["info"]["valid"]:
            others.append({"task_id": task_id, "turn": place, "refused": actions[-1]})
    client.delete(f"/sessions/{session}")
    return reply["metadata"]["terminated"], reply["metadata"]["score"], is_exact(record, actions)


def expert_score(client: httpx.Client, task_id: str) -> float:
    """Play the service's expert."""
    actions = client.get(f"/tasks/{task_id}/expert").raise_for_status().json()["actions"]
    reply = client.post("/reset", json={"task_id": task_id}).raise_for_status().json()
    for action in actions:
        reply = client.post("/step", json={"session_id": reply["metadata"]["session_id"], "action": action}).raise_for_status().json()
    client.delete(f"/sessions/{reply['metadata']['session_id']}")
    score: float = reply["metadata"]["score"]
    return score


def main() -> None:
    """Replay, print, write."""
    parser = argparse.ArgumentParser(description="Replay of AgentTraj's WebShop sessions.")
    parser.add_argument("--experts", type=int, default=700, help="goals that the expert plays, evenly spread (default 700)")
    options = parser.parse_args()
    records = json.loads((Path(os.environ["ETO_DATA"]) / "experts" / "webshop_agenttraj.json").read_text("utf-8"))
    classes: Counter[str] = Counter()
    others: list[dict[str, Any]] = []
    settings = {"ETO_WEBSHOP_CATALOGUE": "1000", "ETO_ENV_KEPT_SESSIONS": "10"}
    with (
        running_service("env_webshop", ["--log-level", "warning"], settings, ready_timeout_s=300) as service,
        httpx.Client(base_url=service.url, timeout=120) as client,
    ):
        goals = client.post("/webshop/num_tasks", json={"split": "synthetic"}).json()["num_tasks"]
        played = [replay(client, record, classes, others) for record in records]
        places = range(0, goals, max(1, goals // max(1, options.experts)))
        experts = Counter(round(expert_score(client, f"synthetic:{place}"), 3) for place in places)
    observations = sum(classes.values())
    exact = [score for _, score, is_exact in played if is_exact]
    result = {
        "synthetic_goals": goals,
        "sessions": len(records),
        "bought": sum(bought for bought, _, _ in played),
        "observations": observations,
        "classes": dict(classes),
        "match_rate": 1 - classes["other"] / observations,
        "scores": {str(score): n for score, n in Counter(round(score, 3) for _, score, _ in played).most_common()},
        "exact_purchases": len(exact),
        "exact_purchases_that_score_1": sum(score == 1.0 for score in exact),
        "experts": {"n": sum(experts.values()), "scores": {str(score): n for score, n in experts.most_common()}},
        "others": others[:20],
    }
    print(json.dumps({name: value for name, value in result.items() if name != "others"}, indent=1))
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    good = goals == SYNTHETIC_GOALS and not others and result["bought"] == len(records) and min(exact) == 1.0
    sys.exit(not good)


if __name__ == "__main__":
    main()
