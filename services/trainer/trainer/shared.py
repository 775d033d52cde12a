"""The beginning that chosen and rejected share is computed once.

A batch of pairs becomes one row without padding: for each pair the shared tokens, the rest of chosen, the rest of rejected. An
attention function of our own lets each rest see its beginning and itself, which is what two rows would compute. It stands for plain
causal attention only, so models with windows or caps keep to two rows (see can_share).
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from trainer.head import head_at
from trainer.losses import target_logps

NAME = "eto_shared_beginning"
#: Families whose attention is plain causal attention with rotary positions (unless their config says otherwise).
FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})


class Lengths(NamedTuple):
    """Tokens of one pair in the row: what is shared, the rest of chosen, the rest of rejected."""

    shared: int
    chosen: int
    rejected: int


def can_share(config: Any) -> bool:
    """Tell whether a model's attention is the one computed here."""
    windowed = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    return config.model_type in FAMILIES and not windowed


def collate_shared(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """Make one row of pairs; targets carry their position in it and the side (all chosen, then all rejected) that they belong to."""
    ids: list[int] = []
    places: list[int] = []
    layout: list[Lengths] = []
    targets: list[tuple[int, int, int]] = []
    for number, example in enumerate(examples):
        chosen, rejected = example["chosen_ids"], example["rejected_ids"]
        # the last token of a side is only a target
        shortest = min(len(chosen), len(rejected)) - 1
        shared = next((i for i in range(shortest) if chosen[i] != rejected[i]), shortest)
        lengths = Lengths(shared, len(chosen) - 1 - shared, len(rejected) - 1 - shared)
        base = len(ids)
        ids += chosen[:-1] + rejected[shared:-1]
        places += [*range(len(chosen) - 1), *range(shared, len(rejected) - 1)]
        layout.append(lengths)
        for side, mask in enumerate((example["chosen_mask"], example["rejected_mask"])):
            tokens = (chosen, rejected)[side]
            for at in (i for i in range(1, len(tokens)) if mask[i]):
                before = at - 1  # the position whose logits speak of this token
                place = base + before + (lengths.chosen if side and before >= shared else 0)
                targets.append((place, tokens[at], number + side * len(examples)))
    at, wanted, rows = torch.tensor(targets).T
    batch = {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([places]),
        "layout": torch.tensor(layout),
        "at": at,
        "wanted": wanted,
        "rows": rows,
        "items": torch.tensor(len(examples)),
        "pairs": torch.tensor(len(examples)),
        "tokens": torch.tensor(sum(len(e["chosen_ids"]) + len(e["rejected_ids"]) for e in examples)),
    }
    for key in ("ref_chosen_logps", "ref_rejected_logps"):
        if key in examples[0]:
            batch[key] = torch.tensor([example[key] for example in examples])
    return batch


def shared_logps(model: nn.Module, head: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each target and its side."""
    layout = [Lengths(*row) for row in inputs["layout"].tolist()]
    with head_at(head, (torch.zeros_like(inputs["at"]), inputs["at"])):
        logits = model(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], use_cache=False, layout=layout).logits
    return target_logps(logits, inputs["wanted"]), inputs["rows"]


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, layout: list[Lengths], **_: Any
) -> tuple[Tensor, None]:
    """Attend within each pair; tensors [1, heads, tokens, width], as transformers' attention functions take them."""
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, 1) if groups > 1 else t for t in (key, value))
    parts = []
    start = 0
    for shared, chosen, rejected in layout:
        middle = start + shared + chosen
        q, k, v = (t[:, :, start:middle] for t in (query, key, value))
        parts.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling))
        end = middle + rejected
        if rejected:
            k, v = (torch.cat([t[:, :, start : start + shared], t[:, :, middle:end]], 2) for t in (key, value))
            mask = torch.ones(rejected, shared + rejected, dtype=torch.bool, device=query.device).tril(shared)
            parts.append(F.scaled_dot_product_attention(query[:, :, middle:end], k, v, attn_mask=mask, scale=scaling))
        start = end
    return torch.cat(parts, 2).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend)
