"""Attention of rows that share a beginning, laid out one after the other: each part sees its beginning and itself.

It stands for plain causal attention only, so models with windows or caps keep to padded rows (see can_share). On a CPU the two halves
of a part (all of its beginning; itself, causally) go through torch's flash kernels and are joined by their log-sum-exp: a mask over both
would cost the kernels their causal shortcut, which was measured to be worth more than the sharing.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

NAME = "eto_shared_beginning"
#: Families whose attention is plain causal attention with rotary positions (unless their config says otherwise).
FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Part(NamedTuple):
    """`tokens` tokens of the row from `start` on, which also see the `shared` tokens from `beginning` on (none: 0)."""

    beginning: int
    shared: int
    start: int
    tokens: int


def can_share(config: Any) -> bool:
    """Tell whether a model's attention is the one computed here."""
    windowed = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    return config.model_type in FAMILIES and not windowed


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, layout: list[Part], **_: Any
) -> tuple[Tensor, None]:
    """Attend within each part; tensors [1, heads, tokens, width], as transformers' attention functions take them."""
    if torch.is_autocast_enabled(query.device.type):  # as it does for torch's own attention
        query, key, value = (t.to(torch.get_autocast_dtype(query.device.type)) for t in (query, key, value))
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, 1) if groups > 1 else t for t in (key, value))
    outputs = []
    for part in layout:
        q, k, v = (t[:, :, part.start : part.start + part.tokens] for t in (query, key, value))
        if not part.shared:
            outputs.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling))
            continue
        before = slice(part.beginning, part.beginning + part.shared)
        if q.device.type == "cpu":
            outputs.append(_after_beginning(q, k, v, key[:, :, before], value[:, :, before], scaling))
        else:
            mask = torch.ones(part.tokens, part.shared + part.tokens, dtype=torch.bool, device=q.device).tril(part.shared)
            k, v = torch.cat([key[:, :, before], k], 2), torch.cat([value[:, :, before], v], 2)
            outputs.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling))
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None


class _AfterBeginning(torch.autograd.Function):
    """Attention to a whole beginning and, causally, to the queries' own keys."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, k_before: Tensor, v_before: Tensor, scale: float) -> Tensor:
        own, own_sum = _flash(q, k, v, 0.0, True, scale=scale)
        before, before_sum = _flash(q, k_before, v_before, 0.0, False, scale=scale)
        logsumexp = torch.logaddexp(own_sum, before_sum)
        share = (own_sum - logsumexp).exp_()[..., None]
        out = torch.lerp(before.float(), own.float(), share).to(q.dtype)
        ctx.save_for_backward(q, k, v, k_before, v_before, out, logsumexp)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, k_before, v_before, out, logsumexp = ctx.saved_tensors
        # with the joint output and log-sum-exp each half's gradients are those of the whole
        dq, dk, dv = _flash_backward(gradients[0], q, k, v, out, logsumexp, 0.0, True, scale=ctx.scale)
        dq_before, dk_before, dv_before = _flash_backward(gradients[0], q, k_before, v_before, out, logsumexp, 0.0, False, scale=ctx.scale)
        return dq + dq_before, dk, dv, dk_before, dv_before, None


_after_beginning: Any = _AfterBeginning.apply
AttentionInterface.register(NAME, attend)
