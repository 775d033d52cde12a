"""A GGUF file becomes a checkpoint directory: bf16 weights, tokenizer and manifest."""

import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from policy import PolicyError

PROBE_TEXT = "The agent opens the door to the kitchen, takes the pot and fills it with water."


def convert_gguf(source: Path, target: Path, base_model: str) -> Path:
    """Convert `source` into `target` once; a second caller waits for the first and finds it done.

    `target` appears complete or not at all: it is written under another name and renamed.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent / f".{target.name}.lock"):
            if (target / "manifest.json").exists():
                return target
            for leftover in target.parent.glob(f".{target.name}.tmp-*"):
                shutil.rmtree(leftover)
            work = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.parent))
            try:
                _write_checkpoint(source, work, base_model)
                work.rename(target)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise PolicyError(
            f"Model {target.name} was to be converted into {target}, but: {error}. "
            "Make room and writable the folder, or set XDG_CACHE_HOME to another."
        ) from error
    return target


def weights_version(directory: Path) -> str:
    """The version of a checkpoint: 12 hex digits of the sha256 over its safetensors files in the order of names."""
    digest = hashlib.sha256()
    for file in sorted(directory.glob("*.safetensors")):
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:12]


def _write_checkpoint(source: Path, directory: Path, base_model: str) -> None:
    print(f"policy: converting {source.name}, once, in about half a minute", file=sys.stderr, flush=True)
    os.environ.setdefault("TQDM_DISABLE", "1")
    import torch  # type: ignore[import-not-found, unused-ignore]
    import transformers  # type: ignore[import-not-found, unused-ignore]
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call, unused-ignore]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call, unused-ignore]
    folder, name = str(source.parent), source.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    tokenizer.save_pretrained(directory)
    model.save_pretrained(directory)
    manifest: dict[str, Any] = {
        "schema": "eto.checkpoint/1",
        "version": weights_version(directory),
        "method": "pretrained",
        "base_model": base_model,
        "base_version": None,
        "data": None,
        "data_sha256": None,
        "job": {"gguf": name},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "seed": 0,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "metrics": {},
        "probe": _probe(model, tokenizer),
    }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    # safetensors writes mode 0600: a container's other user could not read it.
    for file in directory.iterdir():
        file.chmod(0o644)
    directory.chmod(0o755)


def _probe(model: Any, tokenizer: Any) -> dict[str, list[Any]]:
    import torch

    ids = tokenizer(PROBE_TEXT)["input_ids"]
    with torch.no_grad():
        logits = model.eval()(torch.tensor([ids])).logits[0].float()
    logprobs = torch.log_softmax(logits[:-1], dim=-1)
    chosen = logprobs.gather(1, torch.tensor(ids[1:]).unsqueeze(1)).squeeze(1)
    return {"prompt_token_ids": ids, "logprobs": [None, *(round(value, 5) for value in chosen.tolist())]}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
