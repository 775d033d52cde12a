"""How examples become batches: what goes well together stands together, and rows are padded only to the longest of their pass."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler


def ordered(rows: list[dict[str, Any]], shared: bool) -> list[dict[str, Any]]:
    """Give each row its rank within an optimiser step, and sort the rows by it from the longest (the reference reads them in order).

    Padded rows, and pairs, stand by length; conversations that share a row by their tokens: those of one instruction are neighbours.
    """
    by_tokens = shared and rows and "ids" in rows[0]
    ranked = sorted(rows, key=lambda row: row["ids"] if by_tokens else row["length"])
    return [row | {"rank": rank} for rank, row in enumerate(ranked)][::-1]


def batch_order(ranks: Sequence[int], batch_size: int, seed: int, epoch: int, groups: Sequence[int] | None = None) -> list[int]:
    """Return the order of one epoch: optimiser steps are drawn at random, inside a step rows are sorted by rank.

    So a step's examples are those of a plain shuffle, and its forward passes have little padding or much in common. Examples of one
    of `groups` follow each other: groups are drawn, not examples.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    members: dict[int, list[int]] = {}
    for index in range(len(ranks)):
        members.setdefault(index if groups is None else groups[index], []).append(index)
    drawn = list(members.values())
    shuffled = [index for at in torch.randperm(len(drawn), generator=generator).tolist() for index in drawn[at]]
    order: list[int] = []
    for start in range(0, len(shuffled), batch_size):
        order += sorted(shuffled[start : start + batch_size], key=lambda index: (ranks[index], index))
    return order


class BatchOrder(Sampler[int]):
    """The order of batch_order as a sampler; the trainer sets the epoch."""

    def __init__(self, ranks: Sequence[int], batch_size: int, seed: int, groups: Sequence[int] | None = None) -> None:
        self.ranks = ranks
        self.groups = groups
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is yielded."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(batch_order(self.ranks, self.batch_size, self.seed, self.epoch, self.groups))

    def __len__(self) -> int:
        return len(self.ranks)


def fit_micro_batch(batch_size: int, micro_batch_size: int, processes: int) -> int:
    """Return the largest number of examples of a forward pass that divides a process's share of the batch."""
    share = batch_size // processes
    return next(size for size in range(min(share, micro_batch_size), 0, -1) if share % size == 0)


def pad(rows: list[list[int]], masks: list[list[bool]]) -> dict[str, torch.Tensor]:
    """Stack rows, padded on the right; padding has id 0 and no loss: it is known by position, never by value."""
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, (row, row_mask) in enumerate(zip(rows, masks, strict=True)):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = torch.tensor(row_mask)
    return {"input_ids": ids, "loss_mask": mask, "tokens": torch.tensor(sum(len(row) for row in rows))}


def collate_sft(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Make a batch of conversations; items counts what the loss is averaged over."""
    batch = pad([example["ids"] for example in examples], [example["mask"] for example in examples])
    return batch | {"items": batch["loss_mask"].sum()}


def what_samples_earned(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return what the grpo loss needs beside rows; recorded log-probabilities stand one after the other, a sample at a time."""
    recorded = [value for example in examples for value in example["logprobs"]]
    return {
        "recorded": torch.tensor(recorded),
        "advantages": torch.tensor([example["advantage"] for example in examples]),
        "rewards": torch.tensor([example["reward"] for example in examples]),
        "items": torch.tensor(len(recorded)),
    }


def collate_grpo(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Make a batch of samples; items counts the tokens that carry loss."""
    return pad([example["ids"] for example in examples], [example["mask"] for example in examples]) | what_samples_earned(examples)


def collate_dpo(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Make a batch of pairs: all chosen rows, then all rejected rows."""
    batch = pad(
        [example[f"{side}_ids"] for side in ("chosen", "rejected") for example in examples],
        [example[f"{side}_mask"] for side in ("chosen", "rejected") for example in examples],
    )
    batch["items"] = batch["pairs"] = torch.tensor(len(examples))
    for key in ("ref_chosen_logps", "ref_rejected_logps"):
        if key in examples[0]:
            batch[key] = torch.tensor([example[key] for example in examples])
    return batch
