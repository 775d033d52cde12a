"""The same on a CPU, where torch's kernels leave much to gain: one node of the graph for a whole row, and a backward in matrix products.

The two halves of a part (all of its beginning; itself, causally) go through torch's flash kernel and are joined by their log-sum-exp: a
mask over both would cost the kernel its causal shortcut, which was measured to be worth more than the sharing. As slices of the graph,
each part's gradients would be laid into tensors of the whole row and added up.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
#: Queries (of all heads that share their keys) and keys of a block: what was fastest of those that leave it in a core's cache.
QUERIES, KEYS = 384, 1024


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
        found = (_in_blocks if q.dtype == torch.bfloat16 else _by_flash)(
            gradients[0].transpose(1, 2), q, k, v, out, sums, ctx.scale, ctx.layout
        )
        return *(gradient.to(q.dtype) for gradient in found), None, None


def _for_each_query_head(q: Tensor, *keys: Tensor) -> tuple[Tensor, ...]:
    groups = q.shape[1] // keys[0].shape[1]
    return keys if groups == 1 else tuple(t.repeat_interleave(groups, 1) for t in keys)


def _by_flash(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor, scale: float, layout: list[Part]
) -> tuple[Tensor, ...]:
    """Gradients by torch's kernel. With the joint output and log-sum-exp each half's are those of the whole."""
    every_k, every_v = _for_each_query_head(q, k, v)
    dq, dk, dv = (torch.zeros(t.shape, dtype=torch.float32) for t in (q, every_k, every_v))
    for part in layout:
        own = part.own
        for keys, causal in part.seen():
            taken = (gradient[:, :, own], q[:, :, own], every_k[:, :, keys], every_v[:, :, keys], out[:, :, own], sums[:, :, own])
            found = _flash_backward(*taken, 0.0, causal, scale=scale)
            dq[:, :, own] += found[0]
            dk[:, :, keys] += found[1]
            dv[:, :, keys] += found[2]
    return dq, *(t.view(*k.shape[:2], -1, *k.shape[2:]).sum(2) for t in (dk, dv))


def _in_blocks(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor, scale: float, layout: list[Part]
) -> tuple[Tensor, ...]:
    """Gradients in bfloat16, by matrix products of blocks (Dao et al. 2022, arXiv 2205.14135, algorithm 4, keys in rows).

    Products are rounded to bfloat16, so what is subtracted from them goes into them, as three columns more: the logarithm of a probability
    near 1 comes out near 0 and exact, and so does a gradient less its mean.
    """
    heads, tokens, width = k.shape[1], q.shape[2], q.shape[3]
    groups = q.shape[1] // heads
    exact = 2.0 ** math.floor(math.log2(scale))  # a power of two scales without an error
    rest = scale / exact
    delta = (gradient.float() * out.float()).sum(-1)
    ones = k.new_ones(heads, tokens, 3)
    keys, values = torch.cat([k[0], ones], 2), torch.cat([v[0], ones], 2)
    queries = torch.cat([q * exact, _in_three(-sums / rest)], 3)[0].view(heads, groups, tokens, width + 3)
    wanted = torch.cat([gradient, _in_three(-delta)], 3)[0].view(heads, groups, tokens, width + 3)
    dq = torch.empty(heads, groups, tokens, width)
    dk, dv = torch.zeros(heads, tokens, width), torch.zeros(heads, tokens, width)
    size = max(32, QUERIES // groups)
    later = torch.zeros(size, 1, size, dtype=q.dtype).masked_fill_(torch.ones(size, size, dtype=torch.bool).tril(-1)[:, None], -torch.inf)
    for part in layout:
        for first in range(part.start, part.start + part.tokens, size):
            last = min(first + size, part.start + part.tokens)
            count = last - first
            query, want = (t[:, :, first:last].reshape(heads, groups * count, width + 3) for t in (queries, wanted))
            sought: Tensor | float = 0.0
            for seen, causal in part.seen():
                for start in range(seen.start, last if causal else seen.stop, KEYS):
                    stop = min(start + KEYS, last if causal else seen.stop)
                    p = torch.bmm(keys[:, start:stop], query.transpose(1, 2))
                    if causal and stop > first:
                        begin = max(first, start)
                        hidden = later[begin - first : stop - first, :, :count]
                        p[:, begin - start :].view(heads, stop - begin, groups, count).add_(hidden)
                    p = (p if rest == 1 else p.mul_(rest)).exp_()
                    dv[:, start:stop] += torch.bmm(p, want[..., :width])
                    ds = torch.bmm(values[:, start:stop], want.transpose(1, 2)).mul_(p)
                    dk[:, start:stop] += torch.bmm(ds, query[..., :width])
                    sought = sought + torch.bmm(ds.transpose(1, 2), k[0, :, start:stop]).float()
            dq[:, :, first:last] = sought.view(heads, groups, count, width)  # type: ignore[union-attr]
    return dq.view(q.shape).mul_(scale), dk[None].mul_(rest), dv[None]


def _in_three(exact: Tensor) -> Tensor:
    """Float32 as three numbers in bfloat16 that add up to it, in a last dimension."""
    high = exact.bfloat16()
    middle = (exact - high.float()).bfloat16()
    return torch.stack([high, middle, (exact - high.float() - middle.float()).bfloat16()], -1)


attend_on_cpu: Any = _OnCpu.apply
