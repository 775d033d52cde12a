"""Resumable states of a training under way, in OUTPUT.partial; a killed job goes on from the last whole one."""

import json
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.checkpoint import empty_directory

IDENTITY = "identity.json"
COMPLETE = "complete"


def open_partial(partial: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Return the identity of the work in partial, if it is the same job's; else start it anew with identity."""
    try:
        found: dict[str, Any] = json.loads((partial / IDENTITY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    if any(found.get(key) != identity[key] for key in ("job", "data_sha256", "base_version", "processes")):
        empty_directory(partial)
        (partial / IDENTITY).write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
        return identity
    return found


def state_steps(partial: Path) -> dict[int, Path]:
    """Return the states that were written to their end, by their step."""
    return {int(path.parent.name.split("-")[1]): path.parent for path in partial.glob(f"checkpoint-*/{COMPLETE}")}


def last_state(partial: Path) -> Path | None:
    """Return the newest state that was written to its end."""
    whole = state_steps(partial)
    return whole[max(whole)] if whole else None


class SaveNowAndThen(TrainerCallback):
    """Ask for a state when the last one is older than every_s seconds; mark states that are whole."""

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s
        self.last = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        """Decide after every optimiser step; the last one needs no state."""
        if time.monotonic() - self.last >= self.every_s and state.global_step < state.max_steps:
            control.should_save = True
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Mark the state that was just written."""
        self.last = time.monotonic()
        if state.is_world_process_zero and args.output_dir is not None:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()
