"""The three ways of benchmarks/train.py: ours, TRL as it comes, and as the reference (FastChat) does it. A part of it, no script."""

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
from torch import Tensor
from trainer.examples import Examples
from trainer.job import Job
from trainer.progress import Progress
from trainer.training import _build_trainer
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments
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
    return trl(examples, tokenizer, setting, folder) if arm == "trl" else reference(examples, setting, folder)


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


def plain_options(setting: Setting, folder: Path) -> dict[str, Any]:
    """What transformers' trainer is told in every arm."""
    return {
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
    }


def trl(examples: Examples, tokenizer: Any, setting: Setting, folder: Path) -> Clock:
    """TRL's trainer on the same tokens: dynamic padding, a live reference."""
    options = plain_options(setting, folder) | {"max_length": None}
    model = AutoModelForCausalLM.from_pretrained(setting.model, dtype=torch.float32)
    clock = Clock()
    parts: dict[str, Any] = {"model": model, "processing_class": tokenizer, "callbacks": [clock]}
    if setting.method == "sft":
        rows = [{"input_ids": r["ids"], "labels": labels(r)} for r in examples.rows]
        trainer: Any = SFTTrainer(args=SFTConfig(**options), train_dataset=Dataset.from_list(rows), **parts)
    else:
        trainer = Prepared(
            args=DPOConfig(**options, beta=0.1, remove_unused_columns=False),
            train_dataset=Dataset.from_list([preference(r) for r in examples.rows]),
            data_collator=MaskedCollator(pad_token_id=tokenizer.pad_token_id),
            ref_model=copy.deepcopy(model),
            **parts,
        )
    clock.watch(trainer)
    trainer.train()
    return clock


def padded(rows: list[list[int]], value: int) -> Tensor:
    """Every row as long as the reference's rows."""
    return torch.tensor([row + [value] * (REFERENCE_LENGTH - len(row)) for row in rows])


def collate_padded(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Conversations, or all chosen and then all rejected sides, with labels as the models of transformers take them."""
    sides = ("",) if "ids" in examples[0] else ("chosen_", "rejected_")
    ids = [example[f"{side}ids"] for side in sides for example in examples]
    given = [labels({"ids": example[f"{side}ids"], "mask": example[f"{side}mask"]}) for side in sides for example in examples]
    return {"input_ids": padded(ids, 0), "attention_mask": padded([[1] * len(row) for row in ids], 0), "labels": padded(given, -100)}


class ReferenceTrainer(Trainer):
    """What the reference's code does: FastChat's SFT is transformers' trainer and its loss; DPO takes every position's log-softmax."""

    ref_model: Any = None
    loss_is_scaled_for_ga = True

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        if self.ref_model is None:
            loss: Tensor = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
            return loss
        policy = self.sums(model, inputs)
        with torch.no_grad(), self.accelerator.autocast():
            before = self.sums(self.ref_model, inputs)
        chosen, rejected = (policy - before).chunk(2)
        return -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean() / self.current_gradient_accumulation_steps

    def sums(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """The sum of each row's targets' log-probabilities."""
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False).logits.float()
        targets = inputs["labels"][:, 1:]
        kept = targets != -100
        found = logits[:, :-1].log_softmax(-1).gather(2, targets.masked_fill(~kept, 0)[:, :, None])[:, :, 0]
        return (found * kept).sum(1)


def reference(examples: Examples, setting: Setting, folder: Path) -> Clock:
    """Every row padded to REFERENCE_LENGTH, logits at each position in float32, a live reference."""
    model = AutoModelForCausalLM.from_pretrained(setting.model, dtype=torch.float32)
    clock = Clock()
    trainer = ReferenceTrainer(
        model=model,
        args=TrainingArguments(**plain_options(setting, folder), remove_unused_columns=False),
        train_dataset=Dataset.from_list(examples.rows),
        data_collator=collate_padded,
        callbacks=[clock],
    )
    if setting.method == "dpo":
        trainer.ref_model = copy.deepcopy(model).eval()
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
