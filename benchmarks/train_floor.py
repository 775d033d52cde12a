"""What no trainer is faster than: the products of a pass's matrices alone, as torch does them. A part of benchmarks/train.py, no script."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from trainer.examples import Examples
from trainer.shared import Row, computed_tokens, group, shared_length
from transformers import AutoConfig, AutoModelForCausalLM

TRIES = 4
#: Scores and their sum of values; for gradients those of values, probabilities, queries and keys.
ATTENTION_PRODUCTS = 6


def rows_of(method: str, examples: Examples) -> list[Row]:
    """Conversations, or both sides of pairs."""
    sides = ("",) if method == "sft" else ("chosen_", "rejected_")
    return [Row(example[f"{side}ids"], example[f"{side}mask"], 0) for example in examples.rows for side in sides]


def products_s(model: Path, method: str, examples: Examples, precision: str) -> float:
    """CPU seconds of the products that all rows need, forward and for gradients: those of linear layers, and of attention's causal half.

    What rows begin with in common is counted once, the head where there is loss. Softmax, norms, gates, casts, anything computed again
    and the optimiser are not counted.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    groups = group(rows_of(method, examples))
    tokens, targets = computed_tokens(groups), sum(sum(row.mask[1:]) for rows in groups for row in rows)
    config = AutoConfig.from_pretrained(model)
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config)
    head = plain.get_output_embeddings()
    shapes = Counter(
        (targets if module is head else tokens, module.in_features, module.out_features)
        for module in plain.modules()
        if isinstance(module, nn.Linear)
    )
    linear = sum(count * _linear_s(*shape, dtype) for shape, count in shapes.items())
    width = config.hidden_size // config.num_attention_heads
    seen_s = config.num_hidden_layers * _seen_s(config.num_attention_heads, width, dtype)
    return linear + ATTENTION_PRODUCTS * seen_s * sum(tokens_seen(rows) for rows in groups)


def tokens_seen(rows: list[Row]) -> float:
    """Count what the tokens of rows under one beginning see, themselves and those before."""
    shared = shared_length(rows) if len(rows) > 1 else 0
    own = [len(row.ids) - 1 - shared for row in rows]
    return shared**2 / 2 + sum(n * (shared + n / 2) for n in own)


def _linear_s(n: int, width: int, out: int, dtype: torch.dtype) -> float:
    """One layer's three products."""
    given, weight, gradient = (torch.randn(shape).to(dtype) for shape in ((n, width), (out, width), (n, out)))
    products = (given, weight.T), (gradient, weight), (gradient.T, given)
    return sum(_best_s(torch.mm, *factors) for factors in products)


def _seen_s(heads: int, width: int, dtype: torch.dtype) -> float:
    """One of attention's products, for one token that sees one other."""
    queries, keys = 256, 1024
    mine, others = torch.randn(heads, queries, width).to(dtype), torch.randn(heads, width, keys).to(dtype)
    return _best_s(torch.bmm, mine, others) / (queries * keys)


def _best_s(product: Callable[..., Tensor], *factors: Tensor) -> float:
    """The best of some tries, into memory that is there already."""
    into = product(*factors)
    times = []
    for _ in range(TRIES):
        started = time.process_time()
        product(*factors, out=into)
        times.append(time.process_time() - started)
    return min(times)
