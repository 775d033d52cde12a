#!services/trainer/.venv/bin/python
"""Real (non-padding) tokens a CPU second: our trainer, TRL as it comes, and the reference's way, on the same trajectories in one run.

    make bench ONLY=train, or benchmarks/train.py [--model DIR] [--data DIR] [--sft 2] [--dpo 1] [--measure sft dpo]

Arms (benchmarks/train_arms.py), each with the same weights, arithmetic (bf16 autocast over float32 weights), rows of a pass and optimiser:
- ours: python -m trainer's own classes.
- trl: TRL's trainer, dynamic padding, live reference. Its dpo collator is told our masks, so that it computes the same loss.
- reference: the same TRL trainer, every row padded to 2,048 tokens.
Trajectories: AgentTraj's of WebShop, ALFWorld and ScienceWorld (ETO_DATA/experts), as many of each, evenly spread over the files,
cut at 2,048 tokens as a job with that max_length cuts them. A pair is one of them against the next of its environment, cut as pairs
are. All make one optimiser step. A DPO job's reference log-probabilities are spread over the three epochs that it has. SFT and DPO
are measured one after the other (TRL's logits take 11 GB), on one thread; intervals are bootstrapped over passes. Losses of three
steps in float32 are compared on a small model that is trained on one conversation or pair of each environment. Writes
benchmarks/out/train.json; where one method is measured, the other's figures in it stay.
"""

import argparse
import itertools
import json
import lzma
import os
import platform
import random
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OUT = ROOT / "benchmarks" / "out" / "train.json"
MODEL = Path.home() / ".cache" / "eto" / "models" / "smollm2-135m-instruct"
DATA = Path(os.environ.get("ETO_DATA") or Path.home() / ".cache" / "eto" / "data") / "experts"
ENVS = ("webshop", "alfworld", "sciworld")
ROLES = {"human": "user", "gpt": "assistant"}
TARGETS = {"sft_vs_trl": 2.0, "dpo_vs_trl": 1.8, "sft_vs_reference": 6.0, "dpo_vs_reference": 5.0}
LOSS_TOLERANCE = 1e-3
LOSS_STEPS = 3
EPOCHS_OF_A_JOB = 3
RESAMPLES = 10_000
MICRO_BATCH_SIZE = {"sft": 2, "dpo": 1}
REJECTED_MARGIN_MESSAGES = 10  # docs/training.md: the rejected side is cut to the winner's length and ten messages, not in ALFWorld


def conversations(folder: Path, env: str, count: int) -> list[list[dict[str, str]]]:
    """So many conversations of an environment, evenly spread over its file; each ends with an answer."""
    plain = folder / f"{env}_agenttraj.json"
    if plain.exists():
        rows = json.loads(plain.read_text(encoding="utf-8"))
    else:
        with lzma.open(next(folder.glob(f"{env}_agenttraj*.jsonl.xz")), "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
    found = [rows[i * len(rows) // count]["conversations"] for i in range(count)]
    talks = [[{"role": ROLES[t["from"]], "content": t["value"]} for t in row] for row in found]
    return [talk[:-1] if talk[-1]["role"] == "user" else talk for talk in talks]


def examples_of(method: str, folder: Path, tokenizer: Any, per_env: int) -> Any:
    """The rows that every arm trains on."""
    from train_arms import REFERENCE_LENGTH
    from trainer.data import Conversation, Pair
    from trainer.examples import dpo_examples, sft_examples

    if method == "sft":
        talks = [talk for env in ENVS for talk in conversations(folder, env, per_env)]
        return sft_examples(tokenizer, [Conversation(talk, "") for talk in talks], REFERENCE_LENGTH)
    pairs = []
    for env in ENVS:
        talks = conversations(folder, env, per_env + 1)
        for one, other in itertools.pairwise(talks):
            kept = None if env == "alfworld" else len(one) - 3 + REJECTED_MARGIN_MESSAGES
            rejected = other[3:][:kept]
            pairs.append(Pair(one[:3], one[3:], rejected[:-1] if rejected[-1]["role"] == "user" else rejected, ""))
    return dpo_examples(tokenizer, pairs, REFERENCE_LENGTH)


def measure(method: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train one step with every arm on the model that is measured."""
    from train_arms import ARMS, Setting, run
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    rows = examples_of(method, arguments.data, tokenizer, getattr(arguments, method))
    n = len(rows.rows)
    result: dict[str, Any] = {
        "rows": n,
        "tokens": rows.tokens,
        "loss_tokens": rows.loss_tokens,
        "cut": rows.truncated,
        "precision": arguments.precision,
    }
    setting = Setting(arguments.model, method, MICRO_BATCH_SIZE[method], n, 1, 1e-5, arguments.precision)
    for arm in ARMS:
        clock = run(arm, rows, tokenizer, setting, folder / f"{method}-{arm}")
        seconds = clock.loop_s + clock.reference_s / EPOCHS_OF_A_JOB
        result[arm] = {
            "cpu_s": round(seconds, 2),
            "of_which_reference": round(clock.reference_s / EPOCHS_OF_A_JOB, 2),
            "passes_cpu_s": [round(s, 3) for s in clock.passes],
            "loss": clock.losses[0],
            "tokens_per_cpu_s": round(rows.tokens / seconds, 1),
        }
        print(f"{method:<4} {arm:<10} {rows.tokens / seconds:8.1f} tokens/CPU s, loss {clock.losses[0]:.4f}", file=sys.stderr, flush=True)
    return result


def losses(method: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Three steps of every arm in float32 on a small model."""
    from train_arms import ARMS, Setting, run
    from trainer.fresh import fresh_model, fresh_tokenizer
    from trainer.job import InitOptions

    talks = [talk for env in ENVS for talk in conversations(arguments.data, env, 2)]
    tokenizer = fresh_tokenizer(talks, 2048)
    model = folder / "small"
    fresh_model(InitOptions(hidden_size=64, layers=2, heads=2), tokenizer, seed=0).save_pretrained(model)
    rows = examples_of(method, arguments.data, tokenizer, 1)
    setting = Setting(model, method, len(rows.rows), len(rows.rows), LOSS_STEPS, 1e-3, "fp32")
    found = {arm: run(arm, rows, tokenizer, setting, folder / f"{method}-{arm}-small").losses for arm in ARMS}
    worst = max(abs(a - b) for arm in ARMS for a, b in zip(found["ours"], found[arm], strict=True))
    return {"losses": found, "largest_difference": worst}


def interval(ours: dict[str, Any], other: dict[str, Any]) -> list[float]:
    """95 % interval of the ratio of the arms' seconds, passes drawn anew; what is no pass (optimiser, reference) stays."""
    draw = random.Random(0)
    ratios = []
    for _ in range(RESAMPLES):
        sums = []
        for arm in (ours, other):
            passes = arm["passes_cpu_s"]
            sums.append(arm["cpu_s"] - sum(passes) + sum(draw.choices(passes, k=len(passes))))
        ratios.append(sums[1] / sums[0])
    ratios.sort()
    return [round(ratios[int(RESAMPLES * q)], 2) for q in (0.025, 0.975)]


def worker(method: str, arguments: argparse.Namespace) -> None:
    """What a process of its own does: print its measurements as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        compared = losses(method, arguments, Path(folder))
        measured = measure(method, arguments, Path(folder))
    sys.__stdout__.write(json.dumps({**measured, "float32": compared}))  # type: ignore[union-attr]


def main() -> int:
    """Measure, print a table, write the file; exit code 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of ENV_agenttraj.json")
    parser.add_argument("--sft", type=int, default=2, help="conversations of each environment")
    parser.add_argument("--dpo", type=int, default=1, help="pairs of each environment")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--measure", nargs="+", default=["sft", "dpo"], choices=["sft", "dpo"])
    parser.add_argument("--worker", choices=["sft", "dpo"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        sys.stdout = sys.stderr
        worker(arguments.worker, arguments)
        return 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent), "HF_HUB_OFFLINE": "1"}
    # a method that is not measured now keeps the figures it has
    result: dict[str, Any] = json.loads(OUT.read_text()) if OUT.exists() and len(arguments.measure) == 1 else {"methods": {}}
    result |= {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, one thread",
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
        "model": arguments.model.name,
    }
    for method in arguments.measure:
        command = [sys.executable, __file__, *sys.argv[1:], "--worker", method]
        load = os.getloadavg()[0]
        done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=False)
        if done.returncode:
            print(f"{method}: its process ended with {done.returncode} (-9: out of memory)", file=sys.stderr)
            return 1
        result["methods"][method] = {**json.loads(done.stdout), "load_average_before": load, "load_average_after": os.getloadavg()[0]}
    missed = False
    for method, arms in result["methods"].items():
        for other in ("trl", "reference"):
            name = f"{method}_vs_{other}"
            result[name] = round(arms[other]["cpu_s"] / arms["ours"]["cpu_s"], 2)
            result[f"{name}_interval"] = interval(arms["ours"], arms[other])
            missed |= result[name] < TARGETS[name]
            print(f"{name:<18} {result[name]:6.2f}  95 % {result[f'{name}_interval']}  target {TARGETS[name]}")
        worst = arms["float32"]["largest_difference"]
        missed |= worst > LOSS_TOLERANCE
        print(f"{method} losses in float32 differ by {worst:.1e} at most, {arms['rows']} rows, {arms['tokens']} tokens a step")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
