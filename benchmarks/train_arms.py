"""The three ways of benchmarks/train.py to train on the same rows: ours, TRL as it comes, the reference's. A part of it, no script."""

import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset
from trainer.examples import Examples
from trainer.job import Job
from trainer.progress import Progress
from trainer.training import _build_trainer
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

REFERENCE_LENGTH = 2048
ARMS = ("ours", "trl", "reference")


@dataclass(frozen=True)
class Setting:
    """What all arms are told: rows of a pass, rows of an optimiser step, steps, arithmetic."""

    model: Path
    method: str
    micro_batch_size: int
    batch_size: int
    steps: int
    learning_rate: float
    precision: str


@dataclass
class Clock(TrainerCallback):
    """CPU seconds of this process: of each forward and backward pass, of the whole loop, of reference log-probabilities before it."""

    passes: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    reference_s: float = 0.0
    begun: float = 0.0
    loop_s: float = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.begun = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.loop_s = time.process_time() - self.begun

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])

    def watch(self, trainer: Any) -> None:
        """Time every pass of a trainer."""
        step = trainer.training_step

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            loss = step(*args, **kwargs)
            self.passes.append(time.process_time() - started)
            return loss

        trainer.training_step = timed


def run(arm: str, examples: Examples, tokenizer: Any, setting: Setting, folder: Path) -> Clock:
    """Train with one arm."""
    torch.manual_seed(0)
    if arm == "ours":
        return ours(examples, tokenizer, setting, folder)
    return trl(examples, tokenizer, setting, folder, padded=arm == "reference")


def ours(examples: Examples, tokenizer: Any, setting: Setting, folder: Path) -> Clock:
    """Our trainer."""
    job = Job(
        method=setting.method,  # type: ignore[arg-type]
        model=str(setting.model),
        data="-",
        output=str(folder),
        learning_rate=setting.learning_rate,
        batch_size=setting.batch_size,
        micro_batch_size=setting.micro_batch_size,
        max_steps=setting.steps,
        max_length=REFERENCE_LENGTH,
        scheduler="constant",
        warmup_ratio=0,
        precision=setting.precision,  # type: ignore[arg-type]
        checkpoint_every_s=1e9,
    )
    clock = Clock()
    with reference_timed(clock):
        trainer = _build_trainer(job, examples, setting.steps, setting.precision, folder, tokenizer)
        trainer.add_callback(clock)
        trainer.start_reporting(Progress(None))
        clock.watch(trainer)
        trainer.train()
    return clock


class reference_timed:
    """Add up the CPU seconds that our trainer spends on reference log-probabilities before it trains."""

    def __init__(self, clock: Clock) -> None:
        from trainer.trainers import DpoTrainer

        self.clock, self.owner, self.plain = clock, DpoTrainer, DpoTrainer.compute_ref_log_probs

    def __enter__(self) -> None:
        plain: Callable[..., Any] = self.plain

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            found = plain(*args, **kwargs)
            self.clock.reference_s += time.process_time() - started
            return found

        self.owner.compute_ref_log_probs = timed  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        self.owner.compute_ref_log_probs = self.plain  # type: ignore[method-assign]


class MaskedCollator(DataCollatorForPreference):
    """TRL's collator, with observations taken out of the completion mask: the loss is ETO's in every arm."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        masks = [example[f"{side}_mask"] for side in ("chosen", "rejected") for example in examples]
        for row, mask in enumerate(masks):
            batch["completion_mask"][row, : len(mask)] *= torch.tensor(mask, dtype=torch.long)
        return batch


class Prepared(DPOTrainer):
    """TRL's trainer on rows that are tokens already."""

    def _prepare_dataset(self, dataset: Dataset, *_args: Any, **_kwargs: Any) -> Dataset:
        return dataset


def trl(examples: Examples, tokenizer: Any, setting: Setting, folder: Path, padded: bool) -> Clock:
    """TRL's trainer on the same tokens: dynamic padding, or every row padded to the reference's length; a live reference."""
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": setting.micro_batch_size,
        "gradient_accumulation_steps": setting.batch_size // setting.micro_batch_size,
        "max_steps": setting.steps,
        "learning_rate": setting.learning_rate,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "bf16": setting.precision == "bf16",
        "use_cpu": not torch.cuda.is_available(),
        "gradient_checkpointing": False,  # TRL's default is to trade time for memory: it would only be slower
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "max_length": None,
    }
    multiple = REFERENCE_LENGTH if padded else None
    model = AutoModelForCausalLM.from_pretrained(setting.model, dtype=torch.float32)
    clock = Clock()
    parts: dict[str, Any] = {"model": model, "processing_class": tokenizer, "callbacks": [clock]}
    if setting.method == "sft":
        rows = [{"input_ids": r["ids"], "labels": labels(r)} for r in examples.rows]
        config = SFTConfig(**options, pad_to_multiple_of=multiple)
        trainer: Any = SFTTrainer(args=config, train_dataset=Dataset.from_list(rows), **parts)
    else:
        collator = MaskedCollator(pad_token_id=tokenizer.pad_token_id, pad_to_multiple_of=multiple)
        trainer = Prepared(
            args=DPOConfig(**options, beta=0.1, remove_unused_columns=False),
            train_dataset=Dataset.from_list([preference(r) for r in examples.rows]),
            data_collator=collator,
            ref_model=copy.deepcopy(model),
            **parts,
        )
    clock.watch(trainer)
    trainer.train()
    return clock


def labels(row: dict[str, Any]) -> list[int]:
    """A conversation's labels as TRL takes them."""
    return [i if on else -100 for i, on in zip(row["ids"], row["mask"], strict=True)]


def preference(row: dict[str, Any]) -> dict[str, Any]:
    """A pair as TRL's collator takes it: what stands before the first target is the prompt."""
    start = min(row["chosen_mask"].index(True), row["rejected_mask"].index(True))
    sides = {f"{s}_ids": row[f"{s}_ids"][start:] for s in ("chosen", "rejected")}
    return {"prompt_ids": row["chosen_ids"][:start], **sides, **{k: row[k] for k in ("chosen_mask", "rejected_mask")}}
