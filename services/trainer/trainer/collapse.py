"""Stops dpo when the policy collapses: DPO's own accuracy stands at 100 % while the chosen side's log-probability is lost as well.

What is watched is how far the chosen side's log-probability has fallen since the start, in nats a token, as the steps' own passes
see it: at step n of the weights after n - 1 updates. Beyond the bound in two steps in a row training ends, and the newest state from
before is kept. States are written at each quarter of the bound that is passed for the first time, so that there is one.
"""

import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.states import state_steps

#: One batch of odd pairs is no collapse.
STEPS_IN_A_ROW = 2
QUARTERS = 4


class StopOnCollapse(TrainerCallback):
    """Watch the chosen side; bound in nats a token."""

    def __init__(self, bound: float) -> None:
        self.bound = bound
        self.quarter = 0
        self.beyond = 0
        self.fall = 0.0
        self.good_updates = 0  # the weights after so many updates were seen to be within the bound
        self.stopped_at: int | None = None

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **_: Any
    ) -> TrainerControl:
        """Judge a step; every process sees the same sums, so all decide alike."""
        if logs is None or "chosen_fall" not in logs:
            return control
        self.fall = logs["chosen_fall"]
        if self.fall > self.bound:
            self.beyond += 1
            control.should_save = False  # it would push a good state out
            if self.beyond == STEPS_IN_A_ROW:
                self.stopped_at = state.global_step
                control.should_training_stop = True
            return control
        self.beyond = 0
        self.good_updates = state.global_step - 1
        quarter = int(QUARTERS * self.fall / self.bound)
        if quarter > self.quarter:
            self.quarter = quarter
            control.should_save = True
        return control

    def good_state(self, partial: Path) -> Path | None:
        """Return the newest whole state whose weights were seen to be within the bound."""
        good = {step: path for step, path in state_steps(partial).items() if step <= self.good_updates}
        return good[max(good)] if good else None

    def drop_states(self, partial: Path) -> None:
        """Remove what a job would go on from into the same collapse."""
        for path in state_steps(partial).values():
            shutil.rmtree(path)

    def sentence(self) -> str:
        """What happened, and what to change."""
        return (
            f"the policy collapsed: at step {self.stopped_at} the chosen side's log-probability has fallen by {self.fall:.2f} nats a "
            f"token, more than collapse_bound {self.bound:g}. Lower the learning rate or the epochs, or set rpo_alpha"
        )
