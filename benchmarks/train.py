#!services/trainer/.venv/bin/python
"""Real (non-padding) tokens a CPU second: our trainer, TRL as it comes, and the reference's way, on the same trajectories in one run.

    make bench ONLY=train, or benchmarks/train.py [--model DIR] [--data FILE] [--trajectories 4] [--steps 2]

Three arms a method, each with the same weights, order, arithmetic (bf16 autocast over float32 weights), batch and optimiser:
- ours: python -m trainer's own classes: padded to the longest of a pass, logits where there is loss, the reference computed once.
- trl: TRL's trainer, dynamic padding, live reference. Its dpo collator is told our masks, so that it computes the same loss.
- reference: the same TRL trainer, every row padded to 2,048 tokens, as ETO's code pads.
All conversations make one optimiser step, so that the order does not matter; the first step warms up and is not counted, the time that
ours spends on reference log-probabilities is (spread over the steps of three epochs, as a job has). Losses of each step are compared.
Trajectories: AgentTraj's of ScienceWorld (ETO_DATA/experts) that fit, evenly spread; a pair is one of them against another of the same
kind of task. Writes benchmarks/out/train.json.
"""

import argparse
import copy
import json
import lzma
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset
from trainer.data import Conversation, Pair
from trainer.examples import dpo_examples, sft_examples
from trainer.job import Job
from trainer.precision import choose_precision
from trainer.progress import Progress
from trainer.training import _build_trainer
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

ROOT = Path(__file__).parent.parent
OUT = ROOT / "benchmarks" / "out" / "train.json"
MODEL = Path.home() / ".cache" / "eto" / "models" / "smollm2-135m-instruct"
DATA = Path(os.environ.get("ETO_DATA", ROOT.parent / "shared" / "data")) / "experts" / "sciworld_agenttraj_2120.jsonl.xz"
ROLES = {"human": "user", "gpt": "assistant"}
REFERENCE_LENGTH = 2048
EPOCHS_OF_A_JOB = 3


class Clock(TrainerCallback):
    """When each optimiser step ended, in CPU seconds of this process and on the wall."""

    def __init__(self) -> None:
        self.on_train_begin()
        self.losses: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.ends = [time.process_time()]
        self.wall = [time.perf_counter()]

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.process_time())
        self.wall.append(time.perf_counter())

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])


class MaskedCollator(DataCollatorForPreference):
    """TRL's collator, with observations taken out of the completion mask."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        masks = [example[f"{side}_mask"] for side in ("chosen", "rejected") for example in examples]
        for row, mask in enumerate(masks):
            batch["completion_mask"][row, : len(mask)] *= torch.tensor(mask, dtype=torch.long)
        return batch


def conversations(path: Path, tokenizer: Any, count: int) -> list[list[dict[str, str]]]:
    """So many conversations that fit into the reference's length, evenly spread over the file."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line)["conversations"] for line in file]
    found = [[{"role": ROLES[t["from"]], "content": t["value"]} for t in row] for row in rows[:: len(rows) // (4 * count)]]
    found = [row[:-1] if row[-1]["role"] == "user" else row for row in found]
    fitting = [row for row in found if len(tokenizer.apply_chat_template(row)["input_ids"]) <= REFERENCE_LENGTH]
    return fitting[:: max(1, len(fitting) // count)][:count]


def options(arguments: argparse.Namespace, precision: str, folder: str) -> dict[str, Any]:
    """What all TRL arms are told; the values are those that our trainer takes."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": arguments.micro_batch_size,
        "gradient_accumulation_steps": arguments.trajectories // arguments.micro_batch_size,
        "max_steps": arguments.steps + 1,
        "learning_rate": arguments.learning_rate,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "bf16": precision == "bf16",
        "use_cpu": not torch.cuda.is_available(),
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "max_length": None,
    }


def ours(method: str, examples: Any, arguments: argparse.Namespace, precision: str, tokenizer: Any, folder: Path) -> tuple[Clock, float]:
    """Our trainer; returns its clock and the seconds spent on reference log-probabilities."""
    job = Job(
        method=method,  # type: ignore[arg-type]
        model=str(arguments.model),
        data="-",
        output=str(folder),
        learning_rate=arguments.learning_rate,
        batch_size=arguments.trajectories,
        micro_batch_size=arguments.micro_batch_size,
        max_steps=arguments.steps + 1,
        scheduler="constant",
        warmup_ratio=0,
        precision=precision,  # type: ignore[arg-type]
    )
    started = time.process_time()
    trainer = _build_trainer(job, examples, arguments.steps + 1, precision, folder, tokenizer)
    built = time.process_time() - started
    clock = Clock()
    trainer.add_callback(clock)
    trainer.start_reporting(Progress(None))
    begun = time.process_time()
    trainer.train()
    return clock, (built if method == "dpo" else 0.0) + max(0.0, clock.ends[0] - begun) * (method == "dpo")


def trl(method: str, examples: Any, arguments: argparse.Namespace, precision: str, tokenizer: Any, folder: Path, padded: bool) -> Clock:
    """TRL's trainer on the same tokens."""
    common = options(arguments, precision, str(folder)) | ({"pad_to_multiple_of": REFERENCE_LENGTH} if padded else {})
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    clock = Clock()
    parts: dict[str, Any] = {"model": model, "processing_class": tokenizer, "callbacks": [clock]}
    if method == "sft":
        rows = [
            {"input_ids": r["ids"], "labels": [i if on else -100 for i, on in zip(r["ids"], r["mask"], strict=True)]} for r in examples.rows
        ]
        trainer: Any = SFTTrainer(args=SFTConfig(**common), train_dataset=Dataset.from_list(rows), **parts)
    else:
        rows = []
        for r in examples.rows:
            start = min(r["chosen_mask"].index(True), r["rejected_mask"].index(True))
            sides = {f"{s}_ids": r[f"{s}_ids"][start:] for s in ("chosen", "rejected")}
            rows.append({"prompt_ids": r["chosen_ids"][:start], **sides, **{k: r[k] for k in ("chosen_mask", "rejected_mask")}})
        config = DPOConfig(**common, beta=0.1, remove_unused_columns=False)
        collator = MaskedCollator(pad_token_id=tokenizer.pad_token_id, pad_to_multiple_of=REFERENCE_LENGTH if padded else None)
        trainer = _Prepared(
            args=config, train_dataset=Dataset.from_list(rows), data_collator=collator, ref_model=copy.deepcopy(model), **parts
        )
    trainer.train()
    return clock


class _Prepared(DPOTrainer):
    """TRL's trainer on rows that are tokens already."""

    def _prepare_dataset(self, dataset: Dataset, *_args: Any, **_kwargs: Any) -> Dataset:
        return dataset


def main() -> None:
    """Measure, print a table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--trajectories", type=int, default=4, help="conversations (and pairs) of an optimiser step")
    parser.add_argument("--micro-batch-size", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2, help="measured optimiser steps, after one of warm-up")
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--methods", nargs="+", default=["sft", "dpo"])
    parser.add_argument("--arms", nargs="+", default=["ours", "trl", "reference"])
    arguments = parser.parse_args()
    if arguments.trajectories < 2:
        parser.error("--trajectories must be at least 2: a pair is two different ones")
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    talks = conversations(arguments.data, tokenizer, arguments.trajectories)
    precision = choose_precision(arguments.precision)
    sft = sft_examples(tokenizer, [Conversation(t, "") for t in talks], REFERENCE_LENGTH)
    pairs = [Pair(t[:3], t[3:], talks[(i + 1) % len(talks)][3:], "") for i, t in enumerate(talks)]
    dpo = dpo_examples(tokenizer, pairs, REFERENCE_LENGTH)
    result: dict[str, Any] = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch threads {torch.get_num_threads()}",
        "load_average_before": os.getloadavg()[0],
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
        "model": arguments.model.name,
        "precision": precision,
        "trajectories": len(talks),
        "steps": arguments.steps,
        "micro_batch_size": arguments.micro_batch_size,
        "arms": {},
    }
    for method in arguments.methods:
        examples = {"sft": sft, "dpo": dpo}[method]
        for arm in arguments.arms:
            folder = OUT.parent / "train" / f"{method}-{arm}"
            extra = 0.0
            if arm == "ours":
                clock, extra = ours(method, examples, arguments, precision, tokenizer, folder)
            else:
                clock = trl(method, examples, arguments, precision, tokenizer, folder, arm == "reference")
            seconds = (clock.ends[-1] - clock.ends[1]) / arguments.steps
            rate = examples.tokens / (seconds + extra / EPOCHS_OF_A_JOB)
            result["arms"][f"{method} {arm}"] = {
                "real_tokens_per_step": examples.tokens,
                "cpu_s_per_step": round(seconds, 2),
                "wall_s_per_step": round((clock.wall[-1] - clock.wall[1]) / arguments.steps, 2),
                "reference_cpu_s": round(extra, 2),
                "tokens_per_cpu_s": round(rate, 1),
                "losses": clock.losses[: arguments.steps + 1],
            }
            print(f"{method:<4} {arm:<10} {rate:8.1f} tokens/CPU s   losses {[round(x, 4) for x in clock.losses]}", flush=True)
        for other in (a for a in arguments.arms if a != "ours" and "ours" in arguments.arms):
            mine, its = result["arms"][f"{method} ours"], result["arms"][f"{method} {other}"]
            result[f"{method}_vs_{other}"] = round(mine["tokens_per_cpu_s"] / its["tokens_per_cpu_s"], 2)
            result[f"{method}_loss_difference_{other}"] = max(abs(a - b) for a, b in zip(mine["losses"], its["losses"], strict=True))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print({k: v for k, v in result.items() if "_vs_" in k or "difference" in k})


if __name__ == "__main__":
    main()
