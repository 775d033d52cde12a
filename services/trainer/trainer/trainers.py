"""TRL's trainers with ETO's masks: the loop, accelerate and resuming are theirs; batches, loss and report are ours."""

import math
import time
from collections import defaultdict
from contextlib import nullcontext
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_trainer import SFTTrainer

from trainer.batches import BatchOrder
from trainer.errors import TrainingError
from trainer.head import logps_at_targets
from trainer.job import LossOptions
from trainer.losses import Sides, dpo_loss, sft_loss, sums_by_row
from trainer.progress import Progress
from trainer.shared import shared_logps


class AgentTrainer(Trainer):
    """What all methods share: order of examples, counting, progress lines."""

    progress: Progress
    loss_is_scaled_for_ga = True

    def start_reporting(self, progress: Progress) -> None:
        """Send step events to progress from now on."""
        self.progress = progress
        self.started = self.last_report = time.monotonic()
        self.total_tokens = 0
        self.last_terms: dict[str, float] = {}
        self.sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.accelerator.device))

    def count(self, **values: Tensor) -> None:
        """Add to the sums of the step that is being computed."""
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value.detach().float()

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int]:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        groups = rows["group"] if "group" in rows.column_names else None
        return BatchOrder(rows["rank"], batch_size, self.args.seed, groups)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> Tensor:
        """Count what the loss of one optimiser step is averaged over, in all passes and processes."""
        items = sum((batch["items"] for batch in batch_samples), torch.tensor(0)).to(device)
        return self.accelerator.gather(items).sum()  # type: ignore[no-any-return]

    def _logps(self, model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        plain = self.accelerator.unwrap_model(self.model)
        if "layout" in inputs:
            return shared_logps(model, plain, inputs)
        return logps_at_targets(model, plain.get_output_embeddings(), inputs["input_ids"], inputs["loss_mask"])

    def _without_adapters(self) -> Any:
        model = self.accelerator.unwrap_model(self.model)
        return model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()

    def _step_terms(self, sums: dict[str, float]) -> dict[str, float]:
        """Return what a step event tells beside the loss, from the step's sums."""
        return {}

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        Trainer._save_checkpoint(self, model, trial)  # TRL would write a model card beside every state

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write a step event; every process takes part in summing up."""
        if "loss" in logs:
            sums = {name: float(self.accelerator.gather(value).sum()) for name, value in self.sums.items()}
            self.sums.clear()
            for name in ("loss", "grad_norm"):  # gradients go first: the weights of this step are lost, those of a state before are not
                if not math.isfinite(logs.get(name, 0.0)):
                    raise TrainingError(
                        f"step {self.state.global_step}: {name} is {logs[name]}, so these weights were not saved: lower the learning "
                        "rate or use precision fp32"
                    )
            now = time.monotonic()
            self.last_terms = self._step_terms(sums)
            self.total_tokens += int(sums["tokens"])
            event = {
                "step": self.state.global_step,
                "steps": self.state.max_steps,
                "epoch": round(float(self.state.epoch or 0), 4),
                "loss": logs["loss"],
                "learning_rate": logs["learning_rate"],
                "grad_norm": logs.get("grad_norm", 0.0),
                **self.last_terms,
                "tokens_per_s": round(sums["tokens"] / (now - self.last_report), 1),
                "elapsed_s": round(now - self.started, 3),
            }
            self.last_report = now
            self.progress.emit("step", **event)
            logs = {**logs, **self.last_terms, "tokens_per_s": event["tokens_per_s"]}
        Trainer.log(self, logs, start_time)


class SftTrainer(AgentTrainer, SFTTrainer):  # type: ignore[misc]
    """Behavioural cloning: the mean negative log-likelihood of assistant tokens."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return the loss of one pass; processes' gradients are averaged, hence the factor."""
        logps, _ = self._logps(model, inputs)
        total = inputs["items"] if num_items_in_batch is None else num_items_in_batch
        self.count(tokens=inputs["tokens"])
        loss: Tensor = sft_loss(logps, total) * self.accelerator.num_processes
        return loss


class DpoTrainer(AgentTrainer, DPOTrainer):  # type: ignore[misc]
    """Preference optimisation over the assistant tokens of completions, in policy and reference alike."""

    loss_options: LossOptions

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return the loss of one pass, a mean over the pairs of the optimiser step."""
        policy, targets = self._sides(model, inputs)
        reference = Sides(inputs["ref_chosen_logps"], inputs["ref_rejected_logps"])
        terms = dpo_loss(policy, reference, targets, self.loss_options)
        margins = terms.reward_chosen - terms.reward_rejected
        self.count(
            tokens=inputs["tokens"],
            pairs=inputs["items"],
            reward_chosen=terms.reward_chosen.sum(),
            reward_rejected=terms.reward_rejected.sum(),
            accuracy=(margins > 0).sum(),
            logp_chosen=policy.chosen.sum(),
            logp_rejected=policy.rejected.sum(),
            chosen_fall=((reference.chosen - policy.chosen) / targets.chosen).sum(),
        )
        total = inputs["items"] if num_items_in_batch is None else num_items_in_batch
        loss: Tensor = terms.loss.sum() / total * self.accelerator.num_processes
        return loss

    def compute_ref_log_probs(self, model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the reference's sums, once, before training; TRL calls this for every batch of the data."""
        with torch.no_grad(), self._without_adapters(), self.accelerator.autocast():
            sides, _ = self._sides(model, inputs)
        return sides.chosen.float(), sides.rejected.float()

    def _sides(self, model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Sides, Sides]:
        """Return the sum of each side's log-probabilities, and over how many targets it goes."""
        logps, rows = self._logps(model, inputs)
        count = 2 * int(inputs["pairs"])
        return Sides(*sums_by_row(logps, rows, count).chunk(2)), Sides(*torch.bincount(rows, minlength=count).chunk(2))

    def _prepare_dataset(self, dataset: Dataset, *_args: Any, **_kwargs: Any) -> Dataset:
        return dataset

    def _step_terms(self, sums: dict[str, float]) -> dict[str, float]:
        names = ("reward_chosen", "reward_rejected", "accuracy", "logp_chosen", "logp_rejected", "chosen_fall")
        terms = {name: sums[name] / sums["pairs"] for name in names}
        return terms | {"margin": terms["reward_chosen"] - terms["reward_rejected"]}
