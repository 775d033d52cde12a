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
    if query.device.type == "cpu":
        return _attend_on_cpu(query, key, value, scaling, layout), None
    outputs = []
    for part in layout:
        q, k, v = (t[:, :, part.start : part.start + part.tokens] for t in (query, key, value))
        if not part.shared:
            outputs.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling))
            continue
        before = slice(part.beginning, part.beginning + part.shared)
        mask = torch.ones(part.tokens, part.shared + part.tokens, dtype=torch.bool, device=q.device).tril(part.shared)
        k, v = torch.cat([key[:, :, before], k], 2), torch.cat([value[:, :, before], v], 2)
        outputs.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling))
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None


class _OnCpu(torch.autograd.Function):
    """All parts in one node of the graph: as slices, each part's gradients would be laid into tensors of the whole row and added up."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, layout: list[Part]) -> Tensor:
        out = q.new_empty(1, q.shape[2], q.shape[1], q.shape[3]).transpose(1, 2)
        sums = q.new_empty(q.shape[:3], dtype=torch.float32)
        for part in layout:
            own, before = _places(part)
            here, logsumexp = _flash(q[:, :, own], k[:, :, own], v[:, :, own], 0.0, True, scale=scale)
            if part.shared:
                whole, whole_sum = _flash(q[:, :, own], k[:, :, before], v[:, :, before], 0.0, False, scale=scale)
                joint = torch.logaddexp(logsumexp, whole_sum)
                share = (logsumexp - joint).exp_()[..., None]
                here, logsumexp = torch.lerp(whole.float(), here.float(), share), joint
            out[:, :, own], sums[:, :, own] = here, logsumexp
        ctx.save_for_backward(q, k, v, out, sums)
        ctx.scale, ctx.layout = scale, layout
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, sums = ctx.saved_tensors
        gradient = gradients[0].transpose(1, 2)
        dq, dk, dv = (torch.zeros(t.shape, dtype=torch.float32) for t in (q, k, v))
        for part in ctx.layout:
            own, before = _places(part)
            # with the joint output and log-sum-exp each half's gradients are those of the whole
            for keys, causal in ((own, True), (before, False))[: 2 if part.shared else 1]:
                taken = (gradient[:, :, own], q[:, :, own], k[:, :, keys], v[:, :, keys], out[:, :, own], sums[:, :, own])
                found = _flash_backward(*taken, 0.0, causal, scale=ctx.scale)
                dq[:, :, own] += found[0]
                dk[:, :, keys] += found[1]
                dv[:, :, keys] += found[2]
        return dq.to(q.dtype), dk.to(q.dtype), dv.to(q.dtype), None, None


def _places(part: Part) -> tuple[slice, slice]:
    """Where a part's own tokens and those of its beginning stand in the row."""
    return slice(part.start, part.start + part.tokens), slice(part.beginning, part.beginning + part.shared)


_attend_on_cpu: Any = _OnCpu.apply
AttentionInterface.register(NAME, attend)
