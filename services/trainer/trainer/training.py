"""An sft, dpo or grpo job: load, build the trainer, train, save."""

import json
import math
import os
import shutil
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState  # type: ignore[import-untyped]
from datasets import Dataset  # type: ignore[import-untyped]
from peft import LoraConfig, PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.sft_config import SFTConfig

from trainer.attention import NAME, can_share
from trainer.batches import collate_dpo, collate_grpo, collate_sft, fit_micro_batch, ordered
from trainer.checkpoint import base_version, empty_directory, library_versions, publish, write_manifest
from trainer.collapse import StopOnCollapse
from trainer.errors import JobError, TrainingError
from trainer.examples import Examples, dpo_examples, grpo_examples, sft_examples
from trainer.grpo import GrpoTrainer, grpo_config, rewards_are_recorded
from trainer.job import Job
from trainer.muon import Muon
from trainer.precision import choose_precision
from trainer.progress import Progress
from trainer.shared import collate_shared_dpo, collate_shared_grpo, collate_shared_sft
from trainer.states import SaveNowAndThen, last_state, open_partial
from trainer.trainers import AgentTrainer, DpoTrainer, SftTrainer


def train(job: Job, rows: list[Any], data_sha256: str, progress: Progress) -> dict[str, Any]:
    """Run an sft, dpo or grpo job on its conversations, pairs or samples; return the manifest (on the main process)."""
    started = time.monotonic()
    processes = PartialState(cpu=not torch.cuda.is_available())
    config, tokenizer = _load_config_and_tokenizer(job)
    examples = _examples(job, rows, tokenizer)
    if not examples.rows:
        raise JobError(
            f"no example of {job.data} fits into max_length {job.max_length} ({dict(examples.dropped)}), so there is "
            "nothing to train on: raise max_length or shorten the prompts"
        )
    if job.batch_size % processes.num_processes:
        raise JobError(f"batch_size {job.batch_size} cannot be shared by {processes.num_processes} processes: make it a multiple")
    _check_trackers(job)
    steps = job.max_steps or math.ceil(job.epochs * math.ceil(len(examples.rows) / job.batch_size))
    partial = Path(job.output.rstrip("/") + ".partial")
    identity = {
        "job": job.model_dump(mode="json"),
        "data_sha256": data_sha256,
        "base_version": base_version(job.model),
        "processes": processes.num_processes,
        "precision": choose_precision(job.precision),
    }
    with processes.main_process_first():
        precision = open_partial(partial, identity)["precision"]
    state = last_state(partial)
    progress.emit("start", **_start_fields(job, examples, steps, precision, state))
    trainer = _build_trainer(job, examples, steps, precision, partial, tokenizer)
    trainer.start_reporting(progress)
    watch = StopOnCollapse(job.collapse_bound)
    if job.method == "dpo" and job.collapse_bound:
        trainer.add_callback(watch)
    trainer.train(resume_from_checkpoint=str(state) if state else None)
    stopped = _back_to_the_last_good_state(trainer, watch, partial, progress)
    loss = trainer.state.log_history[-2]["loss"] if len(trainer.state.log_history) > 1 else None
    metrics = {
        "loss": loss,
        **trainer.last_terms,
        "steps": trainer.state.global_step,
        "examples": len(examples.rows),
        "dropped": dict(examples.dropped),
        "truncated": examples.truncated,
        **({"drifted": examples.drifted} if job.method == "grpo" else {}),
        "tokens": trainer.total_tokens,
        "precision": precision,
        **stopped,
        "train_s": round(time.monotonic() - started, 3),
    }
    final = partial / "final"
    _save_weights(trainer, job, final, getattr(config, "dtype", None) or torch.bfloat16)
    manifest: dict[str, Any] = {"version": None, "metrics": metrics}
    if processes.is_main_process:
        tokenizer.save_pretrained(final)
        manifest = write_manifest(final, job, data_sha256, tokenizer, metrics)
        publish(final, Path(job.output))
        shutil.rmtree(partial, ignore_errors=True)
    processes.wait_for_everyone()
    return manifest


def _examples(job: Job, rows: list[Any], tokenizer: Any) -> Examples:
    if job.method == "sft":
        return sft_examples(tokenizer, rows, job.max_length)
    if job.method == "dpo":
        return dpo_examples(tokenizer, rows, job.max_length)
    examples = grpo_examples(tokenizer, rows, job.max_length, job.grpo.scale_rewards)
    if examples.rows and not any(row["advantage"] for row in examples.rows):
        raise JobError(
            f"all samples of each task of {job.data} earned the same, so there is nothing to prefer: play more samples a task, at a "
            "temperature above 0, or choose tasks that the policy solves sometimes"
        )
    return examples


def _back_to_the_last_good_state(trainer: AgentTrainer, watch: StopOnCollapse, partial: Path, progress: Progress) -> dict[str, Any]:
    """After a collapse load the state before it; returns what the metrics say of it, nothing if training went to its end."""
    if watch.stopped_at is None:
        return {}
    good = watch.good_state(partial)
    if good is None:
        watch.drop_states(partial)
        raise TrainingError(watch.sentence())
    trainer._load_from_checkpoint(str(good))
    kept = int(good.name.split("-")[1])
    progress.emit("collapse", step=watch.stopped_at, kept_step=kept, message=f"{watch.sentence()}. Kept: the weights of step {kept}")
    return {"steps": kept, "stopped": f"{watch.sentence()}. Kept: the weights of step {kept}"}


def _check_trackers(job: Job) -> None:
    missing = [name for name in job.report_to if find_spec(name) is None]
    if missing:
        raise JobError(f"report_to names {', '.join(missing)}, not installed here: install it beside the trainer or leave it out")
    # its default is a folder of the partial output, which goes when the job is done
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", job.output.rstrip("/") + ".tensorboard")


def _load_config_and_tokenizer(job: Job) -> tuple[Any, Any]:
    try:
        config = AutoConfig.from_pretrained(job.base)
        tokenizer = AutoTokenizer.from_pretrained(job.base)
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise JobError(f"model {job.model} cannot be loaded ({reason}): set model to a checkpoint directory or a hub id") from error
    if not tokenizer.chat_template:
        raise JobError(
            f"the tokenizer of {job.model} has no chat template, so conversations cannot be rendered: choose a chat "
            "model or add a chat_template.jinja"
        )
    positions = getattr(config, "max_position_embeddings", None) or job.max_length
    if job.max_length > positions:
        raise JobError(f"max_length {job.max_length} is more than the {positions} positions of {job.model}: lower max_length")
    return config, tokenizer


def _start_fields(job: Job, examples: Examples, steps: int, precision: str, state: Path | None) -> dict[str, Any]:
    return {
        "method": job.method,
        "examples": len(examples.rows),
        "dropped": dict(examples.dropped),
        "truncated": examples.truncated,
        **({"drifted": examples.drifted} if job.method == "grpo" else {}),
        "tokens": examples.tokens,
        "loss_tokens": examples.loss_tokens,
        "steps": steps,
        "precision": precision,
        "resumed_step": int(state.name.split("-")[1]) if state else 0,
        "versions": library_versions(),
    }


def _build_trainer(job: Job, examples: Examples, steps: int, precision: str, partial: Path, tokenizer: Any) -> AgentTrainer:
    processes = PartialState().num_processes
    micro_batch_size = fit_micro_batch(job.batch_size, job.micro_batch_size, processes)
    options: dict[str, Any] = {
        "output_dir": str(partial),
        "per_device_train_batch_size": micro_batch_size,
        "gradient_accumulation_steps": job.batch_size // micro_batch_size // processes,
        "num_train_epochs": job.epochs,
        "max_steps": job.max_steps or -1,
        "learning_rate": job.learning_rate,
        "lr_scheduler_type": "constant_with_warmup" if job.scheduler == "constant" else job.scheduler,
        "warmup_steps": math.ceil(steps * job.warmup_ratio),
        "weight_decay": job.weight_decay,
        "max_grad_norm": job.max_grad_norm,
        "optim": "adamw_torch_fused",
        "bf16": precision == "bf16",
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "gradient_checkpointing": job.gradient_checkpointing,
        "seed": job.seed,
        "save_strategy": "no",
        "save_total_limit": 2,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": list(job.report_to) or "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "max_length": None,
    }
    shared = job.share_beginning and can_share(AutoConfig.from_pretrained(job.base))
    # frozen weights need no float32 master copy
    frozen_in_bf16 = job.lora is not None and precision == "bf16"
    dtype = torch.bfloat16 if frozen_in_bf16 else torch.float32
    attention = {"attn_implementation": NAME} if shared else {}
    model = AutoModelForCausalLM.from_pretrained(job.base, dtype=dtype, **attention)
    parts: dict[str, Any] = {
        "model": model,
        "train_dataset": Dataset.from_list(ordered(examples.rows, shared)),
        "processing_class": tokenizer,
        "peft_config": _lora_config(job),
        "callbacks": [SaveNowAndThen(job.checkpoint_every_s)],
    }
    if job.optimizer == "muon":
        _check_whole_matrices()
        parts["optimizers"] = (Muon(model, job.learning_rate, job.weight_decay), None)
    if job.method == "sft":
        sft = SFTConfig(**options, dataset_kwargs={"skip_prepare_dataset": True})
        return SftTrainer(args=sft, data_collator=collate_shared_sft if shared else collate_sft, **parts)
    if job.method == "grpo":
        samples = GrpoTrainer(reward_funcs=rewards_are_recorded, args=grpo_config(job, options), **parts)
        samples.data_collator = collate_shared_grpo if shared else collate_grpo
        return samples
    dpo = DPOConfig(**options, beta=job.loss.beta, precompute_ref_log_probs=True)
    trainer = DpoTrainer(args=dpo, data_collator=collate_shared_dpo if shared else collate_dpo, **parts)
    trainer.loss_options = job.loss
    return trainer


def _check_whole_matrices() -> None:
    """Raise JobError where processes hold parts of matrices."""
    if any(os.environ.get(f"ACCELERATE_USE_{kind}", "").lower() in ("1", "true") for kind in ("FSDP", "DEEPSPEED")):
        raise JobError("optimizer muon needs every matrix as a whole: choose adamw, or an accelerate config without FSDP and DeepSpeed")


def _lora_config(job: Job) -> LoraConfig | None:
    if job.lora is None:
        return None
    return LoraConfig(
        r=job.lora.r,
        lora_alpha=job.lora.alpha,
        lora_dropout=job.lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _save_weights(trainer: AgentTrainer, job: Job, directory: Path, dtype: torch.dtype) -> None:
    """Gather the weights of all processes and write them in dtype; adapters are merged if the job says so."""
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not trainer.accelerator.is_main_process:
        return
    empty_directory(directory)
    model = trainer.accelerator.unwrap_model(trainer.model)
    if job.lora is None:
        _save_in(model, state, directory, dtype)
        return
    adapter = empty_directory(directory.with_name("adapter")) if job.lora.merge else directory
    model.save_pretrained(adapter, state_dict=state)
    if job.lora.merge:
        base = AutoModelForCausalLM.from_pretrained(job.base, dtype=torch.float32)
        merged: PreTrainedModel = PeftModel.from_pretrained(base, adapter).merge_and_unload()
        _save_in(merged, merged.state_dict(), directory, dtype)


def _save_in(model: PreTrainedModel, state: dict[str, torch.Tensor], directory: Path, dtype: torch.dtype) -> None:
    """Save weights in dtype; tied weights stay one tensor, and the config names the dtype of the file."""
    cast: dict[int, torch.Tensor] = {}
    for tensor in state.values():
        cast.setdefault(tensor.data_ptr(), tensor.to(dtype) if tensor.is_floating_point() else tensor)
    model.save_pretrained(directory, state_dict={name: cast[tensor.data_ptr()] for name, tensor in state.items()})
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
