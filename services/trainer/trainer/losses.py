"""Losses as functions of tensors: the log-probabilities of targets go in, the value to descend comes out."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class PreferenceLoss(NamedTuple):
    """Terms of the dpo loss, one entry a pair."""

    loss: Tensor
    reward_chosen: Tensor
    reward_rejected: Tensor


def target_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the log-probability of each target; logits [n, vocabulary], targets [n]."""
    return -F.cross_entropy(logits.float(), targets, reduction="none")


def sums_by_row(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Add up the values that belong to each of count rows."""
    return torch.zeros(count, dtype=values.dtype, device=values.device).index_add(0, rows, values)


def sft_loss(logps: Tensor, total: Tensor | int) -> Tensor:
    """Return this pass's share of the mean negative log-likelihood over all `total` targets of the batch."""
    return -logps.sum() / total


def dpo_loss(chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float) -> PreferenceLoss:
    """Return Rafailov et al. (2023), equation 7, for each pair; arguments are summed log-probabilities of sides."""
    reward_chosen = beta * (chosen - reference_chosen)
    reward_rejected = beta * (rejected - reference_rejected)
    return PreferenceLoss(-F.logsigmoid(reward_chosen - reward_rejected), reward_chosen, reward_rejected)
