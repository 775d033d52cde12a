"""Attention of rows that share a beginning, laid out one after the other: each part sees its beginning and itself.

It stands for plain causal attention only, so models with windows or caps keep to padded rows (see can_share).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from trainer.attention_cpu import Part, attend_on_cpu

NAME = "eto_shared_beginning"
#: Families whose attention is plain causal attention with rotary positions (unless their config says otherwise).
FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})


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
    if query.device.type == "cpu":
        return attend_on_cpu(query, key, value, scaling, layout), None
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, 1) if groups > 1 else t for t in (key, value))
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


AttentionInterface.register(NAME, attend)
