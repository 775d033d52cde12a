"""GRPO over episodes that the policy played before: TRL's loss, fed with what the rollouts recorded.

TRL's GRPOTrainer generates inside its training step, from a rollout function too, and then asks for rewards. Here an agent's
episodes, their tokens and rewards are a file before the job begins, as other methods' data are. So what is overridden is what would
generate, and where logits are computed (TRL's way is every position after the first prompt, on a CPU, observations too); the loss,
its clipping, its types and its averaging are TRL's own `_compute_loss`. Rows are packed before: it sees the recorded tokens only, a
sample in each row of a table.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from trainer.errors import TrainingError
from trainer.head import logps_at_targets
from trainer.job import Job
from trainer.losses import by_row, target_logps_and_entropies
from trainer.shared import shared_logps
from trainer.trainers import AgentTrainer


def grpo_config(job: Job, options: dict[str, Any]) -> GRPOConfig:
    """Return TRL's settings for a job; `options` are those that every method has."""
    plain = {name: value for name, value in options.items() if name != "max_length"}
    return GRPOConfig(
        **plain,
        **job.grpo.model_dump(exclude={"scale_rewards"}),  # advantages are computed before
        num_generations=job.batch_size,  # TRL's check of whole groups in a batch: groups are compared before, and may be of any size
        max_completion_length=job.max_length,  # what dr_grpo divides by
    )


def rewards_are_recorded(**_: Any) -> list[float | None]:
    """Stand where TRL wants a function of rewards; it is never called, since nothing is generated."""
    raise TrainingError("a grpo job was asked for rewards: they are in its data")


def _rows(inputs: dict[str, Tensor]) -> Tensor:
    """Return the sample that each recorded token belongs to."""
    return inputs["rows"] if "layout" in inputs else torch.nonzero(inputs["loss_mask"][:, 1:])[:, 0]


class GrpoTrainer(AgentTrainer, GRPOTrainer):  # type: ignore[misc]
    """Group-relative policy optimisation over the tokens that the policy drew."""

    args: GRPOConfig

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return batches of one pass each; TRL's would be prompts for several steps."""
        return Trainer.get_train_dataloader(self)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return Trainer._prepare_inputs(self, inputs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return TRL's loss of one pass. The ratio is taken to the log-probabilities that the rollout recorded."""
        self.given, count = inputs, len(inputs["advantages"])
        rows = _rows(inputs)
        recorded = by_row(inputs["recorded"], rows, count)
        # TRL counts over the steps of a generation, which are one here, also where the last step has fewer passes
        share = (self.args.steps_per_generation or 1) / self.current_gradient_accumulation_steps
        served = {
            "prompt_ids": recorded.new_zeros(count, 0, dtype=torch.long),
            "prompt_mask": recorded.new_zeros(count, 0, dtype=torch.long),
            "completion_ids": torch.zeros_like(recorded, dtype=torch.long),  # the scores come from `given`
            "completion_mask": by_row(torch.ones_like(rows), rows, count),
            "advantages": inputs["advantages"],
            "old_per_token_logps": recorded,
            "num_items_in_batch": share * (inputs["items"] if num_items_in_batch is None else num_items_in_batch),
        }
        if self.beta:
            with torch.no_grad(), self._without_adapters():
                served["ref_per_token_logps"] = by_row(self._scores(self.ref_model or model)[0], rows, count)
        self.count(tokens=inputs["tokens"], samples=torch.tensor(count), targets=inputs["items"], reward=inputs["rewards"].sum())
        loss: Tensor = self._compute_loss(model, served)  # type: ignore[no-untyped-call]
        return loss

    def _scores(self, model: nn.Module) -> Tensor:
        """Return the log-probability of each recorded token and the entropy at its place, [2, tokens]."""
        plain = self.accelerator.unwrap_model(model)
        with self.accelerator.autocast():
            if "layout" in self.given:
                return shared_logps(model, plain, self.given, target_logps_and_entropies)[0]
            ids, mask = self.given["input_ids"], self.given["loss_mask"]
            return logps_at_targets(model, plain.get_output_embeddings(), ids, mask, target_logps_and_entropies)[0]

    def _get_per_token_logps_and_entropies(self, model: nn.Module, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor, None]:
        logps, entropies = self._scores(model)
        self.count(gap=(logps - self.given["recorded"]).abs().sum())
        rows, count = _rows(self.given), len(self.given["advantages"])
        return by_row(logps, rows, count), by_row(entropies, rows, count), None

    def _step_terms(self, sums: dict[str, float]) -> dict[str, float]:
        """Return the step's means; TRL's own are taken over passes."""
        found = {name: sum(values) / len(values) for name, values in self._metrics["train"].items()}
        self._metrics["train"].clear()
        names = {"entropy": "entropy", "kl": "kl", "clip_ratio/region_mean": "clipped", "cispo_clip_ratio": "clipped"}
        terms = {ours: found[name] for name, ours in names.items() if name in found}
        return {"reward": sums["reward"] / sums["samples"], "gap": sums["gap"] / sums["targets"], **terms}
