#!services/trainer/.venv/bin/python
"""Real (non-padding) tokens a CPU second: our trainer, TRL as it comes, and the reference's way, on the same trajectories in one run.

    make bench ONLY=train, or benchmarks/train.py [--model DIR] [--data DIR] [--sft 7] [--dpo 5] [--measure sft dpo] [--steps 2]

Arms (benchmarks/train_arms.py), each with the same weights and arithmetic (bf16 autocast over float32 weights):
- ours: python -m trainer's own classes.
- trl: TRL's trainer, dynamic padding, live reference. Its dpo collator is told our masks, so that it computes the same loss.
- reference: as the reference's FastChat-based code does it: every row padded to 2,048 tokens, logits at each position in float32, a live
  reference.
Trajectories: AgentTraj's of WebShop, ALFWorld and ScienceWorld (ETO_DATA/experts), a seeded sample of so many in all, from each set in
proportion to its size, cut at 2,048 tokens as a job with that max_length cuts them. A pair is one of them against another of its
environment, cut as pairs are. An environment's rows are one optimiser step, taken once to warm up and then --steps times. Counted are
forward and backward passes; the optimiser, the same in every arm and once for 32 to 64 rows in a job, is left out. A DPO job's reference
log-probabilities are spread over the three epochs that it has. Passes hold 2 conversations or 1 pair in TRL's and the reference's arm
(their logits fill the memory), and up to 4 conversations or 2 pairs in ours (a job's default is up to 8). Each arm is a process of its
own, one after the other, on one thread. Intervals are bootstrapped over the passes of both arms, within environments: they speak of the
machine's noise, not of other trajectories. Beside each ratio stands what it would be if our passes were nothing but the products of
matrices that they need (benchmarks/train_floor.py): with this arithmetic nothing is faster.
Losses of three steps in float32 are compared on a small model that is trained on one conversation or pair of each environment. Writes
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
MICRO_BATCH_SIZE = {"sft": {"ours": 4, "trl": 2, "reference": 2}, "dpo": {"ours": 2, "trl": 1, "reference": 1}}
REJECTED_MARGIN_MESSAGES = 10  # docs/training.md: the rejected side is cut to the winner's length and ten messages, not in ALFWorld


def trajectories(folder: Path, env: str) -> list[Any]:
    """All of an environment's records."""
    plain = folder / f"{env}_agenttraj.json"
    if plain.exists():
        found: list[Any] = json.loads(plain.read_text(encoding="utf-8"))
        return found
    with lzma.open(next(folder.glob(f"{env}_agenttraj*.jsonl.xz")), "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def conversations(folder: Path, env: str, count: int, seed: int) -> list[list[dict[str, str]]]:
    """A sample of an environment's conversations; each ends with an answer."""
    found = [row["conversations"] for row in random.Random(f"{seed}/{env}").sample(trajectories(folder, env), count)]
    talks = [[{"role": ROLES[t["from"]], "content": t["value"]} for t in row] for row in found]
    return [talk[:-1] if talk[-1]["role"] == "user" else talk for talk in talks]


def proportional(folder: Path, total: int) -> dict[str, int]:
    """How many of each environment, at least one, so that `total` is shared in proportion to the sets."""
    sizes = {env: len(trajectories(folder, env)) for env in ENVS}
    return {env: max(1, round(total * size / sum(sizes.values()))) for env, size in sizes.items()}


def examples_of(method: str, folder: Path, tokenizer: Any, counts: dict[str, int], seed: int) -> Any:
    """The rows that every arm trains on."""
    from train_arms import REFERENCE_LENGTH
    from trainer.data import Conversation, Pair
    from trainer.examples import dpo_examples, sft_examples

    if method == "sft":
        talks = [talk for env, count in counts.items() for talk in conversations(folder, env, count, seed)]
        return sft_examples(tokenizer, [Conversation(talk, "") for talk in talks], REFERENCE_LENGTH)
    pairs = []
    for env, count in counts.items():
        talks = conversations(folder, env, count + 1, seed)
        for one, other in itertools.pairwise(talks):
            kept = None if env == "alfworld" else len(one) - 3 + REJECTED_MARGIN_MESSAGES
            rejected = other[3:][:kept]
            pairs.append(Pair(one[:3], one[3:], rejected[:-1] if rejected[-1]["role"] == "user" else rejected, ""))
    return dpo_examples(tokenizer, pairs, REFERENCE_LENGTH)


def measure(method: str, arm: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train with one arm, an environment at a time, on the model that is measured."""
    from train_arms import Setting, run
    from train_floor import products_s
    from trainer.batches import fit_micro_batch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    result: dict[str, Any] = {}
    for env, count in proportional(arguments.data, getattr(arguments, method)).items():
        rows = examples_of(method, arguments.data, tokenizer, {env: count}, arguments.seed)
        n = len(rows.rows)
        size = fit_micro_batch(n, MICRO_BATCH_SIZE[method][arm], 1)
        setting = Setting(arguments.model, method, size, n, 1 + arguments.steps, 1e-5, arguments.precision)
        clock = run(arm, rows, tokenizer, setting, folder / env)
        here = {
            "passes_cpu_s": [round(s, 3) for s in clock.passes[n // size :]],
            "warm_up_cpu_s": [round(s, 3) for s in clock.passes[: n // size]],
            "reference_cpu_s": round(clock.reference_s / EPOCHS_OF_A_JOB, 2),
            "losses": clock.losses,
        }
        result[env] = {"rows": n, "tokens": rows.tokens, "loss_tokens": rows.loss_tokens, "cut": rows.truncated, arm: here}
        if arm == "ours":
            result[env]["products_cpu_s"] = round(products_s(arguments.model, method, rows, arguments.precision), 2)
        speed = rows.tokens / seconds(here, arguments.steps)
        print(f"{method:<4} {env:<9} {arm:<10} {speed:8.1f} tokens/CPU s, loss {clock.losses[0]:.4f}", file=sys.stderr, flush=True)
    return result


def seconds(arm: dict[str, Any], steps: int) -> float:
    """CPU seconds that an arm takes for one step."""
    return float(sum(arm["passes_cpu_s"])) / steps + float(arm["reference_cpu_s"])


def losses(method: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Three steps of every arm in float32 on a small model."""
    from train_arms import ARMS, Setting, run
    from trainer.fresh import fresh_model, fresh_tokenizer
    from trainer.job import InitOptions

    talks = [talk for env in ENVS for talk in conversations(arguments.data, env, 2, arguments.seed)]
    tokenizer = fresh_tokenizer(talks, 2048)
    model = folder / "small"
    fresh_model(InitOptions(hidden_size=64, layers=2, heads=2), tokenizer, seed=0).save_pretrained(model)
    rows = examples_of(method, arguments.data, tokenizer, dict.fromkeys(ENVS, 1), arguments.seed)
    setting = Setting(model, method, len(rows.rows), len(rows.rows), LOSS_STEPS, 1e-3, "fp32")
    found = {arm: run(arm, rows, tokenizer, setting, folder / f"{method}-{arm}-small").losses for arm in ARMS}
    worst = max(abs(a - b) for arm in ARMS for a, b in zip(found["ours"], found[arm], strict=True))
    return {"losses": found, "largest_difference": worst}


def interval(environments: list[dict[str, Any]], other: str, steps: int) -> list[float]:
    """95 % interval of the ratio of an arm's seconds to ours, passes drawn anew within environments."""
    draw = random.Random(0)

    def drawn(arm: dict[str, Any]) -> dict[str, Any]:
        return arm | {"passes_cpu_s": draw.choices(arm["passes_cpu_s"], k=len(arm["passes_cpu_s"]))}

    ratios = sorted(
        ratio([{arm: drawn(here[arm]) for arm in ("ours", other)} for here in environments], other, steps) for _ in range(RESAMPLES)
    )
    return [round(ratios[int(RESAMPLES * q)], 2) for q in (0.025, 0.975)]


def ratio(environments: list[dict[str, Any]], other: str, steps: int) -> float:
    """How many times our seconds another arm takes."""
    return sum(seconds(here[other], steps) for here in environments) / sum(seconds(here["ours"], steps) for here in environments)


def bound(environments: list[dict[str, Any]], other: str, steps: int) -> float:
    """How many times the seconds of our products alone another arm takes."""
    return sum(seconds(here[other], steps) for here in environments) / sum(float(here["products_cpu_s"]) for here in environments)


def in_own_process(method: str, part: str) -> dict[str, Any]:
    """What `worker` prints. Raises SystemExit."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", method, part]
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{method}, {part}: its process ended with {done.returncode} (-9: out of memory)")
    return dict(json.loads(done.stdout))


def worker(method: str, part: str, arguments: argparse.Namespace) -> None:
    """What a process of its own does: print the measurements of an arm, or the losses of all, as JSON."""
    sys.stdout = sys.stderr
    with tempfile.TemporaryDirectory() as folder:
        told = losses(method, arguments, Path(folder)) if part == "losses" else measure(method, part, arguments, Path(folder))
    sys.__stdout__.write(json.dumps(told))  # type: ignore[union-attr]


def measure_method(method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every arm in turn."""
    from train_arms import ARMS

    load = os.getloadavg()[0]
    result: dict[str, Any] = {"precision": arguments.precision, "seed": arguments.seed, "steps": arguments.steps, "environments": {}}
    for arm in ARMS:
        for env, here in in_own_process(method, arm).items():
            result["environments"].setdefault(env, {}).update(here)
    return {**result, "load_average_before": load, "load_average_after": os.getloadavg()[0], "float32": in_own_process(method, "losses")}


def main() -> int:
    """Measure, print a table, write the file; exit code 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of ENV_agenttraj.json")
    parser.add_argument("--sft", type=int, default=7, help="conversations in all")
    parser.add_argument("--dpo", type=int, default=5, help="pairs in all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample of trajectories")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--measure", nargs="+", default=["sft", "dpo"], choices=["sft", "dpo"])
    parser.add_argument("--steps", type=int, default=2, help="that are counted, after one to warm up")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(*arguments.worker, arguments)
        return 0
    found = {method: measure_method(method, arguments) for method in arguments.measure}
    # a method that is not measured now keeps the figures it has, if they are complete: older files know no products
    result: dict[str, Any] = json.loads(OUT.read_text()) if OUT.exists() and len(arguments.measure) == 1 else {"methods": {}}
    result["methods"] = {
        method: kept
        for method, kept in result["methods"].items()
        if all("products_cpu_s" in here for here in kept["environments"].values())
    }
    result |= {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, one thread",
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
        "model": arguments.model.name,
    }
    result["methods"] |= found
    missed = False
    for method, measured in result["methods"].items():
        for other in ("trl", "reference"):
            name, environments = f"{method}_vs_{other}", list(measured["environments"].values())
            steps = measured["steps"]
            result[name] = round(ratio(environments, other, steps), 2)
            result[f"{name}_interval"] = interval(environments, other, steps)
            missed |= result[name] < TARGETS[name]
            result[f"{name}_bound"] = round(bound(environments, other, steps), 2)
            each = ", ".join(f"{env} {ratio([here], other, steps):.2f}" for env, here in measured["environments"].items())
            print(f"{name:<18} {result[name]:6.2f}  95 % {result[f'{name}_interval']}  target {TARGETS[name]}  ({each})")
            each = ", ".join(f"{env} {bound([here], other, steps):.2f}" for env, here in measured["environments"].items())
            print(f"{'  products alone':<18} {result[f'{name}_bound']:6.2f}  ({each})")
        worst = measured["float32"]["largest_difference"]
        missed |= worst > LOSS_TOLERANCE
        counts = ", ".join(f"{here['rows']} of {env} with {here['tokens']} tokens" for env, here in measured["environments"].items())
        print(f"{method} losses in float32 differ by {worst:.1e} at most; measured: {counts}")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
