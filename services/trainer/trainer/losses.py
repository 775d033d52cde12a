"""Losses as functions of tensors: the log-probabilities of targets go in, the value to descend comes out."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.job import LossOptions

#: What TRL adds to a spread of rewards, so that equal ones can be divided by it.
SPREAD_FLOOR = 1e-4
#: So many are worked on together: on a CPU what its cache holds, elsewhere half a gigabyte of float32.
LOGITS_AT_ONCE = {"cpu": 1 << 20, "elsewhere": 1 << 27}


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
    """Return the log-probability of each target in float32; logits [n, vocabulary], targets [n]."""
    found: Tensor = _target_logps(logits, targets)
    return found


class _TargetLogps(torch.autograd.Function):
    """Rows are taken some at a time, in the same memory: no float32 copy of all logits is made, and none of their softmax is kept."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        rows = _rows_at_once(logits)
        memory, logsumexp = _memory(logits, rows), torch.empty(len(logits), device=logits.device)
        for part, into in zip(torch.split(logits, rows), torch.split(logsumexp, rows), strict=True):
            most = part.amax(-1, keepdim=True)
            shares = torch.sub(part, most, out=memory[: len(part)]).exp_()
            into.copy_(shares.sum(-1).log_().add_(most[:, 0]))
        ctx.save_for_backward(logits, targets, logsumexp)
        return logits.gather(1, targets[:, None])[:, 0].float() - logsumexp

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, targets, logsumexp = ctx.saved_tensors
        found, rows = torch.empty_like(logits), _rows_at_once(logits)
        memory = _memory(logits, rows)
        for part, into, sums, target, gradient in zip(
            *(torch.split(t, rows) for t in (logits, found, logsumexp, targets, gradients[0])), strict=True
        ):
            descent = torch.sub(part, sums[:, None], out=memory[: len(part)]).exp_().mul_(-gradient[:, None])
            into.copy_(descent.scatter_add_(1, target[:, None], gradient[:, None]))
        return found, None


def _memory(logits: Tensor, rows: int) -> Tensor:
    return torch.empty(min(rows, len(logits)), logits.shape[1], device=logits.device)


def _rows_at_once(logits: Tensor) -> int:
    at_once = LOGITS_AT_ONCE.get(logits.device.type, LOGITS_AT_ONCE["elsewhere"])
    return max(1, at_once // logits.shape[1])


_target_logps: Any = _TargetLogps.apply


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
