"""Finished checkpoints: written under a temporary name, made durable, renamed; the manifest proves they are whole."""

import hashlib
import json
import os
import shutil
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from trainer.errors import JobError
from trainer.job import Job

SCHEMA = "eto.checkpoint/1"
MANIFEST = "manifest.json"
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "tokenizers")
PROBE_TOKENS = 48
PROBE_TEXT = (
    "You are in the middle of a room. Looking quickly around you, you see a cabinet 1, a countertop 2 and a fridge 1. "
    "Your task is to: put a clean mug in the cabinet.\nThought: I should look for a mug first. It may be on the "
    "countertop.\nAction: go to countertop 2\nObservation: On the countertop 2, you see a mug 1, a knife 3, and an apple."
)


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that shape a result."""
    return {name: version(name) for name in LIBRARIES}


def weights_version(directory: Path) -> str | None:
    """Return 12 hex digits of the sha256 of a directory's safetensors, in the order of their names."""
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:12]


def base_version(model: str | None) -> str | None:
    """Return the version of the weights a job starts from; null for a hub id and for init."""
    if model is None or not Path(model).is_dir():
        return None
    return weights_version(Path(model))


def finished_manifest(job: Job, data_sha256: str) -> dict[str, Any] | None:
    """Return the manifest if output is this very job's result; refuse an output that is something else."""
    output = Path(job.output)
    if not output.exists():
        return None
    try:
        manifest: dict[str, Any] = json.loads((output / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise JobError(f"output {output} exists and is no finished checkpoint: choose another output or remove it") from error
    same = (job, data_sha256, base_version(job.model))
    if (_job_of(manifest), manifest.get("data_sha256"), manifest.get("base_version")) != same:
        raise JobError(f"output {output} holds the result of another job, data or base model: choose another output or remove it")
    return manifest


def _job_of(manifest: dict[str, Any]) -> Job | None:
    """Return the job that made a checkpoint; options that were not known then have their defaults."""
    try:
        return Job.model_validate(manifest.get("job"))
    except ValidationError:
        return None


def probe_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the fixed prompt's first tokens."""
    ids: list[int] = tokenizer(PROBE_TEXT, add_special_tokens=False)["input_ids"]
    return ids[:PROBE_TOKENS]


def probe(directory: Path, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Load the saved weights as a server would, and ask for the log-probability of each token of a fixed prompt."""
    ids = probe_tokens(tokenizer)
    if (directory / "adapter_config.json").exists():
        from peft import AutoPeftModelForCausalLM

        model = AutoPeftModelForCausalLM.from_pretrained(directory, dtype="auto")
    else:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    model.eval()
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0].float()
    logps = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    return {"prompt_token_ids": ids, "logprobs": [None, *(round(value, 6) for value in logps.tolist())]}


def write_manifest(
    directory: Path, job: Job, data_sha256: str, tokenizer: PreTrainedTokenizerBase, metrics: dict[str, Any]
) -> dict[str, Any]:
    """Describe the weights that lie in directory."""
    manifest = {
        "schema": SCHEMA,
        "version": weights_version(directory),
        "method": job.method,
        "base_model": job.model,
        "base_version": base_version(job.model),
        "data": job.data,
        "data_sha256": data_sha256,
        "job": job.model_dump(mode="json"),
        "versions": library_versions(),
        "seed": job.seed,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "metrics": metrics,
        "probe": probe(directory, tokenizer),
    }
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return manifest


def publish(directory: Path, output: Path) -> None:
    """Make a directory durable and readable by everyone, then give it its final name in one step."""
    for path in [*directory.rglob("*"), directory]:
        path.chmod(0o755 if path.is_dir() else 0o644)
        _fsync(path)
    directory.rename(output)
    _fsync(output.parent)


def empty_directory(path: Path) -> Path:
    """Return path as an empty directory."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
