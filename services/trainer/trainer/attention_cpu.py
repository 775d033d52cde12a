"""The same on a CPU: one node of the graph for a whole row.

The two halves of a part (all of its beginning; itself, causally) go through torch's flash kernel and are joined by their log-sum-exp: a
mask over both would cost the kernel its causal shortcut, which was measured to be worth more than the sharing. As slices of the graph,
each part's gradients would be laid into tensors of the whole row and added up.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Part(NamedTuple):
    """`tokens` tokens of the row from `start` on, which also see the `shared` tokens from `beginning` on (none: 0)."""

    beginning: int
    shared: int
    start: int
    tokens: int

    @property
    def own(self) -> slice:
        """Where its tokens stand."""
        return slice(self.start, self.start + self.tokens)

    @property
    def before(self) -> slice:
        """Where those of its beginning stand."""
        return slice(self.beginning, self.beginning + self.shared)

    def seen(self) -> Iterator[tuple[slice, bool]]:
        """Yield the tokens that it sees, and whether causally."""
        yield self.own, True
        if self.shared:
            yield self.before, False


class _OnCpu(torch.autograd.Function):
    """Attention of all parts; queries, keys, values [1, heads, tokens, width] to [1, tokens, heads, width]; keys may have fewer heads."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, layout: list[Part]) -> Tensor:
        ctx.scale, ctx.layout = scale, layout
        out = q.new_empty(1, q.shape[2], q.shape[1], q.shape[3]).transpose(1, 2)
        sums = q.new_empty(q.shape[:3], dtype=torch.float32)
        every_k, every_v = _for_each_query_head(q, k, v)
        for part in layout:
            mine = q[:, :, part.own]
            here, logsumexp = _flash(mine, every_k[:, :, part.own], every_v[:, :, part.own], 0.0, True, scale=scale)
            if part.shared:
                whole, whole_sum = _flash(mine, every_k[:, :, part.before], every_v[:, :, part.before], 0.0, False, scale=scale)
                joint = torch.logaddexp(logsumexp, whole_sum)
                share = (logsumexp - joint).exp_()[..., None]
                here, logsumexp = torch.lerp(whole.float(), here.float(), share), joint
            out[:, :, part.own], sums[:, :, part.own] = here, logsumexp
        ctx.save_for_backward(q, k, v, out, sums)
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, sums = ctx.saved_tensors
        gradient = gradients[0].transpose(1, 2)
        every_k, every_v = _for_each_query_head(q, k, v)
        dq, dk, dv = (torch.zeros(t.shape, dtype=torch.float32) for t in (q, every_k, every_v))
        for part in ctx.layout:
            own = part.own
            # with the joint output and log-sum-exp each half's gradients are those of the whole
            for keys, causal in part.seen():
                taken = (gradient[:, :, own], q[:, :, own], every_k[:, :, keys], every_v[:, :, keys], out[:, :, own], sums[:, :, own])
                found = _flash_backward(*taken, 0.0, causal, scale=ctx.scale)
                dq[:, :, own] += found[0]
                dk[:, :, keys] += found[1]
                dv[:, :, keys] += found[2]
        dk, dv = (t.view(*k.shape[:2], -1, *k.shape[2:]).sum(2) for t in (dk, dv))
        return dq.to(q.dtype), dk.to(q.dtype), dv.to(q.dtype), None, None


def _for_each_query_head(q: Tensor, *keys: Tensor) -> tuple[Tensor, ...]:
    groups = q.shape[1] // keys[0].shape[1]
    return keys if groups == 1 else tuple(t.repeat_interleave(groups, 1) for t in keys)


attend_on_cpu: Any = _OnCpu.apply
