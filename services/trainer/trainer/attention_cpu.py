"""The same on a CPU: one node of the graph for a whole row, as products of matrices in tiles.

A tile is a block of queries of some heads against all keys that they may see, so a part's shared beginning is some more keys and the
causal half that nobody sees is left out but for the block's own triangle. The products run at the speed of the layers' own (oneDNN, in
bfloat16 where the inputs are), which torch's flash kernel for CPUs does not reach (docs/training.md). Gradients compute a tile's
probabilities anew. As slices of the graph, each part's gradients would be laid into tensors of the whole row and added up.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: Queries of a tile: the larger, the longer the rows of its products, but the more of its triangle is computed for nothing.
QUERIES = 128
#: Numbers in a tile, beyond which it takes fewer heads at once (4 MB of float32): larger ones are no faster, smaller ones cost more calls.
TILE = 1 << 20


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

    def seen(self, of: Tensor) -> Tensor:
        """Take what its tokens see of [heads, tokens, width], laid out so that products need no copy."""
        return torch.cat([of[:, self.before], of[:, self.own]], 1) if self.shared else of[:, self.own].contiguous()


class Tile(NamedTuple):
    """The heads of keys, queries of a part, and how many keys the last of these queries sees."""

    heads: slice
    queries: slice
    keys: int


def tiles(part: Part, key_heads: int, groups: int) -> Iterator[Tile]:
    """Yield a part's tiles; `groups` heads of queries share one of keys."""
    for first in range(0, part.tokens, QUERIES):
        size = min(QUERIES, part.tokens - first)
        keys = part.shared + first + size
        heads = max(1, TILE // (groups * size * keys))
        for head in range(0, key_heads, heads):
            yield Tile(slice(head, head + heads), slice(part.start + first, part.start + first + size), keys)


class _Scratch:
    """Memory of a row's tiles, one after the other in the same place.

    What is given back to the system comes again page by page, which may cost as much as what is computed in it (docs/training.md).
    """

    def __init__(self, layout: list[Part], key_heads: int, groups: int, dtype: torch.dtype) -> None:
        size = max(
            groups * len(range(key_heads)[tile.heads]) * (tile.queries.stop - tile.queries.start) * tile.keys
            for part in layout
            for tile in tiles(part, key_heads, groups)
        )
        self._scores = torch.empty(size)
        self._shares, self._gradient = (torch.empty(size, dtype=dtype) for _ in range(2))

    def probabilities(self, queries: Tensor, keys: Tensor, scale: float, groups: int) -> Tensor:
        """Softmax of the scores of queries [heads, groups x block, width], the block being the last of keys [heads, tokens, width]."""
        shape = (*queries.shape[:2], keys.shape[1])
        block = queries.shape[1] // groups
        scores = torch.bmm(queries.float() * scale, keys.float().transpose(1, 2), out=_view(self._scores, shape))
        torch.unflatten(scores, 1, (groups, block))[..., -block:] += torch.full((block, block), -torch.inf).triu_(1)
        return _view(self._shares, shape).copy_(torch.softmax(scores, -1, out=scores))

    def of_scores(self, told: Tensor, values: Tensor, shares: Tensor) -> Tensor:
        """Gradient of the scores whose softmax is `shares`, from that of their sum of values [heads, groups x block, width]."""
        gradient = torch.bmm(told, values.transpose(1, 2), out=_view(self._gradient, shares.shape))
        return torch.ops.aten._softmax_backward_data.out(gradient, shares, -1, shares.dtype, grad_input=gradient)  # type: ignore[no-any-return]


def _view(memory: Tensor, shape: Sequence[int]) -> Tensor:
    """The first numbers of some memory as a tensor."""
    return memory[: math.prod(shape)].view(shape)


@contextmanager
def _products_in(dtype: torch.dtype) -> Iterator[None]:
    """Let products of float32 tensors round their inputs to bfloat16 where that is what was given: scores keep float32's digits."""
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = products.fp32_precision
    products.fp32_precision = "bf16" if dtype == torch.bfloat16 else before
    try:
        yield
    finally:
        products.fp32_precision = before


class _OnCpu(torch.autograd.Function):
    """Attention of all parts; queries, keys, values [1, heads, tokens, width] to [1, tokens, heads, width]; keys may have fewer heads."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, layout: list[Part]) -> Tensor:
        ctx.scale, ctx.layout = scale, layout
        ctx.save_for_backward(q, k, v)
        (heads, tokens, width), key_heads = q.shape[1:], k.shape[1]
        groups = heads // key_heads
        out = q.new_empty(tokens, key_heads, groups, width)
        rows, queries = out.permute(1, 2, 0, 3), torch.unflatten(q[0], 0, (key_heads, groups))
        scratch = _Scratch(layout, key_heads, groups, q.dtype)
        with _products_in(q.dtype):
            for part in layout:
                keys, values = part.seen(k[0]), part.seen(v[0])
                for tile in tiles(part, key_heads, groups):
                    mine = queries[tile.heads, :, tile.queries].flatten(1, 2)
                    shares = scratch.probabilities(mine, keys[tile.heads, : tile.keys], scale, groups)
                    rows[tile.heads, :, tile.queries] = torch.unflatten(torch.bmm(shares, values[tile.heads, : tile.keys]), 1, (groups, -1))
        return out.view(1, tokens, heads, width)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        (heads, tokens, width), key_heads = q.shape[1:], k.shape[1]
        groups = heads // key_heads
        gradient, queries = (torch.unflatten(t, 0, (key_heads, groups)) for t in (gradients[0][0].transpose(0, 1), q[0]))
        dq = torch.empty_like(queries)
        dk, dv = (torch.zeros(key_heads, tokens, width) for _ in range(2))
        scratch = _Scratch(ctx.layout, key_heads, groups, q.dtype)
        with _products_in(q.dtype):
            for part in ctx.layout:
                keys, values = part.seen(k[0]), part.seen(v[0])
                of_keys, of_values = (torch.zeros(t.shape) for t in (keys, values))
                for tile in tiles(part, key_heads, groups):
                    mine, told = (t[tile.heads, :, tile.queries].flatten(1, 2) for t in (queries, gradient))
                    seen = (tile.heads, slice(tile.keys))
                    shares = scratch.probabilities(mine, keys[seen], ctx.scale, groups)
                    of_values[seen] += torch.bmm(shares.transpose(1, 2), told)
                    of_scores = scratch.of_scores(told, values[seen], shares)
                    dq[tile.heads, :, tile.queries] = torch.unflatten(torch.bmm(of_scores, keys[seen]), 1, (groups, -1)) * ctx.scale
                    of_keys[seen] += torch.bmm(of_scores.transpose(1, 2), mine)
                for found, whole in ((of_keys, dk), (of_values, dv)):
                    whole[:, part.before] += found[:, : part.shared]
                    whole[:, part.own] += found[:, part.shared :]
        return dq.view(q.shape), dk.mul_(ctx.scale).to(k.dtype)[None], dv.to(v.dtype)[None], None, None


attend_on_cpu: Any = _OnCpu.apply
