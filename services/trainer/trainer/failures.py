"""How a job that was under way came to its end: a sentence that says what to change, and what is left to go on from."""

import errno
from pathlib import Path

import torch

from trainer.errors import TrainingError
from trainer.job import Job
from trainer.states import last_state

NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")
#: What torch's writer and safetensors say of a write that failed; an OSError says it by itself.
NO_SPACE = ("no space left", "file too large", "quota exceeded", "pytorchstreamwriter failed", "unexpected pos", "i/o error")
SPACE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def failure_sentence(error: Exception, job: Job) -> str | None:
    """Return what a person needs to know of a failure; None where only its traceback tells."""
    text = str(error).lower()
    if isinstance(error, TrainingError):
        what = str(error)
    elif isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in text for words in NO_MEMORY):
        what = (
            f"out of memory in a pass of at most {job.micro_batch_size} examples of at most {job.max_length} tokens: lower "
            "micro_batch_size (the result stays the same) or max_length, or set gradient_checkpointing"
        )
    elif (isinstance(error, OSError) and error.errno in SPACE_ERRORS) or any(words in text for words in NO_SPACE):
        what = f"a file of {job.output}.partial could not be written ({str(error).splitlines()[0]}): free some space"
    else:
        return None
    return f"{what}. {_left(job)}"


def _left(job: Job) -> str:
    state = last_state(Path(job.output.rstrip("/") + ".partial"))
    if state is None:
        return "No state was written before, so the same job begins anew"
    step = state.name.split("-")[1]
    return f"The last good state is that of step {step}, {state}: a model that can be loaded, and where the same job goes on"
