"""One job from its file to its exit code."""

import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from trainer.data import read_conversations, read_pairs, read_samples, sha256_of_file
from trainer.errors import JobError
from trainer.job import Job, load_job
from trainer.progress import Progress

READERS: dict[str, Callable[[str], list[Any]]] = {"dpo": read_pairs, "grpo": read_samples}


def run_job_file(path: str, stream: TextIO) -> int:
    """Run a job; errors become a progress line and an exit code."""
    main_process = int(os.environ.get("RANK", "0")) == 0
    progress = Progress(stream if main_process else None)
    try:
        job = load_job(path)
        progress.path = Path(job.output.rstrip("/") + ".progress.jsonl")
        run_job(job, progress)
    except JobError as error:
        progress.emit("error", message=str(error))
        return 2
    except Exception as error:
        traceback.print_exc()
        from trainer.failures import failure_sentence

        progress.emit("error", message=failure_sentence(error, job) or f"{type(error).__name__}: {error}")
        return 1
    return 0


def run_job(job: Job, progress: Progress) -> None:
    """Check everything that can be checked without starting, then do the work."""
    started = time.monotonic()
    rows: list[Any] = READERS.get(job.method, read_conversations)(job.data)
    data_sha256 = sha256_of_file(Path(job.data))
    # TRL reports every trainer to its authors unless told not to
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from trainer.checkpoint import finished_manifest

    finished = finished_manifest(job, data_sha256)
    if finished is not None:
        finished["metrics"]["already_done"] = True
    elif job.method == "init":
        from trainer.fresh import make_fresh

        finished = make_fresh(job, rows, data_sha256, progress)
    else:
        from trainer.training import train

        finished = train(job, rows, data_sha256, progress)
    final: dict[str, Any] = {"version": finished["version"], **finished["metrics"]}
    progress.emit("end", output=job.output, elapsed_s=round(time.monotonic() - started, 3), final=final)
