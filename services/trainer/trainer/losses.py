"""Losses as functions of tensors: the log-probabilities of targets go in, the value to descend comes out."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.job import LossOptions

#: What TRL adds to a spread of rewards, so that equal ones can be divided by it.
SPREAD_FLOOR = 1e-4


class Sides(NamedTuple):
    """What pairs are judged by: summed log-probabilities of the chosen and the rejected side, one entry a pair."""

    chosen: Tensor
    rejected: Tensor


class PreferenceLoss(NamedTuple):
    """Terms of the dpo loss, one entry a pair."""

    loss: Tensor
    reward_chosen: Tensor
    reward_rejected: Tensor


def target_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the log-probability of each target; logits [n, vocabulary], targets [n]."""
    return -F.cross_entropy(logits.float(), targets, reduction="none")


def target_logps_and_entropies(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the log-probability of each target and the entropy of its position (nats, without gradient), [2, n]."""
    with torch.no_grad():
        all_logps = logits.float().log_softmax(-1)
        entropies = -(all_logps.exp() * all_logps).sum(-1)
    return torch.stack([target_logps(logits, targets), entropies])


def group_advantages(rewards: list[float], groups: list[int], scale: str) -> list[float]:
    """Return each sample's advantage over the others of its group, as TRL's GRPOTrainer computes it; a lone sample has none.

    Shao et al. 2024 (arXiv 2402.03300), section 4.1.2: the reward less its group's mean, over the group's standard deviation (that
    of a sample, n - 1). `scale`: `group`, `batch` (the deviation of all rewards, Hu et al. 2025, arXiv 2508.08221) or `none` (Liu et
    al. 2025, arXiv 2503.20783).
    """
    values, places = torch.tensor(rewards, dtype=torch.float64), torch.tensor(groups)
    advantages = torch.zeros_like(values)
    for group in sorted(set(groups)):
        here = places == group
        own = values[here]
        if len(own) > 1:
            advantages[here] = own - own.mean()
            if scale != "none":
                advantages[here] /= (own if scale == "group" else values).std() + SPREAD_FLOOR
    return list(map(float, advantages))


def by_row(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Lay values that belong to rows, in ascending order, out as [count, longest], with zeros after the end of a row."""
    lengths = torch.bincount(rows, minlength=count)
    places = torch.arange(len(rows), device=rows.device) - (lengths.cumsum(0) - lengths)[rows]
    table = torch.zeros(count, int(lengths.max()), dtype=values.dtype, device=values.device)
    return table.index_put((rows, places), values)


def sums_by_row(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Add up the values that belong to each of count rows."""
    return torch.zeros(count, dtype=values.dtype, device=values.device).index_add(0, rows, values)


def sft_loss(logps: Tensor, total: Tensor | int) -> Tensor:
    """Return this pass's share of the mean negative log-likelihood over all `total` targets of the batch."""
    return -logps.sum() / total


def dpo_loss(policy: Sides, reference: Sides, targets: Sides, options: LossOptions) -> PreferenceLoss:
    """Return the loss of each pair; targets counts the tokens that each side's sum goes over.

    sigmoid: Rafailov et al. 2023 (arXiv 2305.18290), equation 7, smoothed as in Mitchell 2023, "A note on DPO with noisy preferences",
    equation 3; hinge: Liu et al. 2024 (arXiv 2309.06657), table 1; ipo: Azar et al. 2023 (arXiv 2310.12036), equation 17, on means
    over tokens, as its authors ran it. The sft term is that of Pang et al. 2024 (arXiv 2404.19733), equation 1.
    """
    chosen, rejected = policy.chosen - reference.chosen, policy.rejected - reference.rejected
    if options.length_normalization or options.type == "ipo":
        chosen, rejected = chosen / targets.chosen, rejected / targets.rejected
    reward_chosen, reward_rejected = options.beta * chosen, options.beta * rejected
    margin = reward_chosen - reward_rejected
    if options.type == "ipo":
        loss = (chosen - rejected - 1 / (2 * options.beta)) ** 2
    elif options.type == "hinge":
        loss = torch.relu(1 - margin)
    else:
        loss = -(1 - options.label_smoothing) * F.logsigmoid(margin) - options.label_smoothing * F.logsigmoid(-margin)
    if options.rpo_alpha:
        loss = loss - options.rpo_alpha * policy.chosen / targets.chosen
    return PreferenceLoss(loss, reward_chosen, reward_rejected)
