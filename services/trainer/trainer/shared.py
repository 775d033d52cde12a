"""The beginning that examples share is computed once: chosen and rejected of a pair, or conversations under the same instruction.

A pass becomes one row without padding: the shared tokens, then what each example has beyond them. Attention (trainer/attention.py) lets
each rest see its beginning and itself, which is what rows of their own would compute.
"""

from contextlib import ExitStack
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainer.attention_cpu import Part
from trainer.batches import what_samples_earned
from trainer.head import Score, head_at, only_at
from trainer.losses import target_logps

#: A shorter beginning is computed again: it would keep those who share a longer one apart.
WORTH_SHARING_TOKENS = 64


class Row(NamedTuple):
    """Token ids, which of them carry loss, and the number under which their log-probabilities are summed."""

    ids: list[int]
    mask: list[bool]
    number: int


def shared_length(rows: list[Row]) -> int:
    """Count the tokens that all rows begin with; the last token of a row is only a target."""
    shortest = min(len(row.ids) for row in rows) - 1
    first = rows[0].ids
    return next((i for i in range(shortest) if any(row.ids[i] != first[i] for row in rows)), shortest)


def group(rows: list[Row], worth: int = WORTH_SHARING_TOKENS) -> list[list[Row]]:
    """Put neighbours together as long as a newcomer has at least half of the group's beginning in common."""
    groups: list[list[Row]] = []
    shared = 0
    for row in rows:
        common = shared_length([groups[-1][0], row]) if groups else 0
        if common >= max(worth, shared / 2):
            groups[-1].append(row)
            shared = min(shared, common) if shared else common
        else:
            groups.append([row])
            shared = 0
    return groups


def computed_tokens(groups: list[list[Row]]) -> int:
    """Count the tokens that the model sees of groups."""
    return sum(sum(len(row.ids) - 1 for row in rows) - (len(rows) - 1) * shared_length(rows) for rows in groups)


def padding(tokens: int) -> int:
    """Count what is added so that sizes come again: at most a sixteenth (or 7 tokens), the same for all lengths in between.

    A CPU's matrix kernels are made anew for each size of theirs (oneDNN), and memory that was given back fits the same size only:
    with rows of any length a model of 3 million weights learnt more slowly and took more memory (docs/training.md).
    """
    return -tokens % max(8, 1 << max(0, tokens.bit_length() - 5))


def lay_out(groups: list[list[Row]]) -> dict[str, Any]:
    """Make one row of groups; targets carry the position whose logits speak of them, and their row's number.

    Each part, and the row, is padded at its end, where no real token sees it.
    """
    ids: list[int] = []
    places: list[int] = []
    layout: list[Part] = []
    targets: list[tuple[int, int, int]] = []

    def add(tokens: list[int], more: int, place: int = 0, beginning: int = 0, known: int = 0) -> None:
        size = len(tokens) + more
        if size:
            layout.append(Part(beginning, known, len(ids), size))
        ids.extend([*tokens, *[0] * more])
        places.extend(range(place, place + size))

    for rows in groups:
        beginning, shared = len(ids), shared_length(rows) if len(rows) > 1 else 0
        for index, row in enumerate(rows):
            known = shared if index else 0
            start, own = len(ids), row.ids[known:-1]
            add(own, padding(len(own)), known, beginning, known)
            for at in (i for i in range(1, len(row.ids)) if row.mask[i]):
                place = beginning + at - 1 if at - 1 < known else start + at - 1 - known
                targets.append((place, row.ids[at], row.number))
    add([], padding(len(ids)))
    at, wanted, numbers = torch.tensor(targets).T
    needed = set(at.tolist())  # and some others, so that their number comes again too
    others = (place for place in range(len(ids)) if place not in needed)
    needed.update(islice(others, padding(len(needed))))
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([places]),
        "layout": torch.tensor(layout),
        "at": at,
        "needed": torch.tensor(sorted(needed)),
        "wanted": wanted,
        "rows": numbers,
        "tokens": torch.tensor(sum(len(row.ids) for rows in groups for row in rows)),
    }


def collate_shared_sft(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """Make one row of conversations; items counts what the loss is averaged over."""
    batch = lay_out(group([Row(example["ids"], example["mask"], number) for number, example in enumerate(examples)]))
    return batch | {"items": torch.tensor(len(batch["at"]))}


def collate_shared_grpo(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """Make one row of samples, those of a task under their common prompt."""
    rows = [Row(example["ids"], example["mask"], number) for number, example in enumerate(examples)]
    return lay_out(group(rows)) | what_samples_earned(examples)


def collate_shared_dpo(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """Make one row of pairs; log-probabilities are summed over all chosen, then all rejected sides."""
    sides = [(side, place * len(examples)) for place, side in enumerate(("chosen", "rejected"))]
    pairs = [
        [Row(example[f"{side}_ids"], example[f"{side}_mask"], number + first) for side, first in sides]
        for number, example in enumerate(examples)
    ]
    # sides of a pair have more in common, but those of all pairs under one instruction have it once less often
    alike = group(sorted((row for rows in pairs for row in rows), key=lambda row: row.ids))
    groups = min(pairs, alike, key=computed_tokens)
    batch = lay_out(groups) | {"items": torch.tensor(len(examples)), "pairs": torch.tensor(len(examples))}
    for key in ("ref_chosen_logps", "ref_rejected_logps"):
        if key in examples[0]:
            batch[key] = torch.tensor([example[key] for example in examples])
    return batch


def shared_logps(model: nn.Module, plain: Any, inputs: dict[str, Tensor], score: Score = target_logps) -> tuple[Tensor, Tensor]:
    """Return the log-probability (or other score) of each target and its row's number. `plain`: the model without what wraps it."""
    layout = [Part(*part) for part in inputs["layout"].tolist()]
    with ExitStack() as hooks:
        places = torch.zeros_like(inputs["at"]), inputs["at"]
        hooks.enter_context(head_at(plain.get_output_embeddings(), places, lambda logits: score(logits, inputs["wanted"])))
        if not plain.is_activation_checkpointing:  # which computes layers once more, when the hooks are gone
            last = plain.get_decoder().layers[-1]
            for module in (last.self_attn.o_proj, last.mlp):
                hooks.enter_context(only_at(module, inputs["needed"], inputs["input_ids"].shape[1]))
        scores = model(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], use_cache=False, layout=layout).logits
    return scores, inputs["rows"]
