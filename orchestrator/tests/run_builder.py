"""A run directory for tests, made from nothing: played by a policy whose skill is a number."""

import json
import math
import random

TYPES = {
    "task-1-boil": ("boil water", ["open door to kitchen", "go to kitchen", "pick up thermometer", "activate stove"]),
    "task-4-find-plant": ("find a plant", ["go to outside", "focus on elephant", "pick up flower pot 3"]),
    "task-5-grow-fruit": ("grow a lemon", ["go to greenhouse", "pick up seed jar", "move seed to flower pot 1", "wait"]),
    "task-10-use-thermometer": ("measure the temperature of chocolate", ["focus on thermometer", "use thermometer"]),
}


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_lines(path, records):
    write(path, "".join(json.dumps(r) + "\n" for r in records))


def prompt(task):
    return [
        {"role": "user", "content": "You are an agent for science world. Interact with the environment to solve a task."},
        {"role": "assistant", "content": "OK"},
        {"role": "user", "content": f"Your task is to {task}. First, focus on the substance.\nThis room is called the hallway."},
    ]


def played(policy, split, task_type, variation, skill, sample=0):
    """A played episode: the same task starts the same way under every policy, then skill decides."""
    task, actions = TYPES[task_type]
    common, own = random.Random(f"{task_type}{variation}"), random.Random(f"{policy}{split}{task_type}{variation}{sample}")
    hard = common.random()
    goal = round(min(1.0, max(0.0, skill + own.uniform(-0.3, 0.3) - 0.4 * (hard - 0.5))), 2)
    length = own.randint(3, 14)
    messages, steps, score = prompt(task), [], 0.0
    for k in range(length):
        action = actions[k] if k < min(2, len(actions)) else own.choice([*actions, f"look at object {k}"])
        valid = own.random() > 0.25 * (1 - skill)
        thought = f"Thought: I should now {action} because step {k + 1} of the plan asks for it.\nAction: {action}"
        messages.append({"role": "assistant", "content": thought if valid else "I am not sure what to do."})
        answer = f"You {action}. The door is open, you see:\n\ta substance called air" if valid else "No known action."
        messages.append({"role": "user", "content": f"Observation: {answer}"})
        new = round(goal * max(0, k - 1) / (length - 2), 4)  # the way there earns nothing
        steps.append(
            {
                "action": action if valid else None,
                "reward": new - score,
                "score": new,
                "valid": valid,
                "prompt_tokens": 900 + 60 * k,
                "completion_tokens": 30,
                "policy_s": 0.4,
                "env_s": 0.01,
            }
        )
        score = new
    return {
        "schema": "eto.episode/1",
        "env": "sciworld",
        "task_id": f"{task_type}:{variation}",
        "task_type": task_type,
        "split": split,
        "sample": sample,
        "seed": 0,
        "policy": policy,
        "model": {"name": "policy", "version": None if policy == "expert" else f"{policy}-0123456789"[:12]},
        "messages": messages,
        "prompt_messages": 3,
        "example": None,
        "steps": steps,
        "reward": score,
        "score": score,
        "success": score >= 0.75,
        "terminate_reason": "terminated" if score >= 0.75 else "step_limit",
        "usage": {"prompt_tokens": sum(s["prompt_tokens"] for s in steps), "completion_tokens": 30 * length},
        "started_at": "2026-03-01T10:00:00Z",
        "duration_s": 4.2,
        "code_version": "abc1234",
    }


def played_by(policy, split, variations, skill):
    return [played(policy, split, t, v, skill) for t in TYPES for v in range(variations)]


def pairs_of(policy, explored, expert_turns):
    return [
        {
            "schema": "eto.pair/1",
            "env": "sciworld",
            "task_id": e["task_id"],
            "outcome": "lose",
            "prompt": e["messages"][:3],
            "chosen": e["messages"][3:8][:expert_turns],
            "rejected": e["messages"][3:-1],
            "chosen_reward": 1.0,
            "rejected_reward": e["reward"],
            "chosen_policy": "expert",
            "rejected_policy": policy,
        }
        for e in explored
        if e["reward"] < 1
    ]


def progress_events(method, steps):
    rng = random.Random(method)
    yield {"event": "start", "method": method, "examples": 320, "dropped": {}, "tokens": 1000, "steps": steps}
    for k in range(1, steps + 1):
        x = k / steps
        event = {"event": "step", "step": k, "steps": steps, "epoch": 3 * x, "learning_rate": 2e-5 * (1 - x)}
        event |= {"loss": 2.1 * math.exp(-3 * x) + 0.2 + rng.gauss(0, 0.03), "grad_norm": 1.0, "elapsed_s": 2.0 * k}
        if method == "dpo":
            event |= {"loss": 0.69 - 0.4 * x + rng.gauss(0, 0.03), "margin": 2.4 * x + rng.gauss(0, 0.1)}
            event |= {"accuracy": min(1.0, 0.5 + 0.45 * x + rng.gauss(0, 0.02)), "reward_chosen": x, "reward_rejected": -x}
            event |= {"logp_chosen": -82 - 4 * x + rng.gauss(0, 1), "logp_rejected": -96 - 24 * x + rng.gauss(0, 1)}
        yield event
    yield {"event": "end", "output": "checkpoint", "elapsed_s": 2.0 * steps, "final": {"loss": 0.2}}


def write_done(stages, name, kind, number, summary):
    record = {"schema": "eto.stage/1", "stage": name, "kind": kind, "started_at": f"2026-03-01T1{number}:00:00Z"}
    record |= {"duration_s": 61.5 * (number + 1), "inputs": {"config.yaml": "ab" * 32}, "outputs": {}, "summary": summary}
    write(stages / name / "done.json", json.dumps(record))


def make_run(run_dir, variations=4, splits=("eto-seen", "eto-unseen"), steps=30, iterations=1):
    """A finished run with a base, an SFT and ETO policies."""
    write(run_dir / "config.yaml", "name: demo\nmodel: tiny-llama\nenv:\n  name: sciworld\niterations: 1\nseed: 0\n")
    manifest = {"schema": "eto.run/1", "name": "demo", "run_id": "demo-20260301-100000", "created_at": "2026-03-01T10:00:00Z"}
    write(run_dir / "manifest.json", json.dumps(manifest | {"code_version": "abc1234", "config_sha256": "cd" * 32}))
    stages = run_dir / "stages"
    write_done(stages, "init", "init", 0, {})
    experts = played_by("expert", "eto-train", variations, 1.3)
    write_lines(stages / "experts" / "episodes.jsonl", experts)
    write_done(stages, "experts", "experts", 1, {"episodes": len(experts)})

    def evaluate(policy, skill, number):
        episodes = [e for i, s in enumerate(splits) for e in played_by(policy, s, variations, skill - 0.08 * i)]
        random.Random(number).shuffle(episodes)
        write_lines(stages / f"evaluate-{policy}" / "episodes.jsonl", episodes)
        write_done(stages, f"evaluate-{policy}", "evaluate", number, {"policy": policy, "split": list(splits)})

    def train(name, kind, number):
        write_lines(stages / name / "checkpoint.progress.jsonl", progress_events(kind, steps))
        versions = {"torch": "2.9.0", "trl": "0.25.0"}
        checkpoint = {"schema": "eto.checkpoint/1", "base_model": "tiny-llama", "versions": versions}
        write(stages / name / "checkpoint" / "manifest.json", json.dumps(checkpoint))
        write_done(stages, name, kind, number, {"loss": 0.21})

    evaluate("base", 0.12, 2)
    train("sft", "sft", 3)
    evaluate("sft", 0.5, 4)
    for i in range(1, iterations + 1):
        explored = played_by("sft" if i == 1 else f"eto-{i - 1}", "eto-train", variations, 0.5)
        write_lines(stages / f"explore-{i}" / "episodes.jsonl", explored)
        write_done(stages, f"explore-{i}", "explore", 5, {"episodes": len(explored)})
        pairs = pairs_of("sft", explored, 5)
        write_lines(stages / f"pairs-{i}" / "pairs.jsonl", pairs)
        counts = {"win": 1, "tie": 2, "lose": len(pairs), "pairs": len(pairs), "dropped": {"no expert": 1}}
        write_done(stages, f"pairs-{i}", "pairs", 6, counts)
        train(f"dpo-{i}", "dpo", 7)
        evaluate(f"eto-{i}", 0.6 + 0.05 * i, 8)
    return run_dir
