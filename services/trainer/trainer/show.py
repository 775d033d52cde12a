"""What training would see of a data file: lengths, what is cut or dropped, and which tokens carry loss, in colour."""

import json
from math import ceil
from statistics import median
from typing import Any, TextIO

from transformers import AutoTokenizer

from trainer.data import Conversation, Pair, read_conversations, read_pairs
from trainer.errors import JobError
from trainer.examples import Examples, dpo_examples, sft_examples

LOSS, PLAIN = "\x1b[30;42m", "\x1b[0m"


def show(path: str, model: str, max_length: int, examples: int, out: TextIO, colour: bool) -> None:
    """Write one JSON line of counts, then so many examples; tokens with loss are green, or stand in [[ ]] without colour."""
    rows = _read(path)  # first: asking a hub in vain takes most of a minute
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise JobError(f"tokenizer of {model} cannot be loaded ({error}): name a checkpoint directory or a hub id") from error
    if not tokenizer.chat_template:
        raise JobError(f"the tokenizer of {model} has no chat template, so conversations cannot be rendered: choose a chat model")
    found = _tokenize(tokenizer, rows, max_length)
    lengths = sorted(len(row[key]) for row in found.rows for key in row if key.endswith("ids"))
    counts = {
        "examples": len(found.rows),
        "dropped": dict(found.dropped),
        "truncated": found.truncated,
        "tokens": found.tokens,
        "loss_tokens": found.loss_tokens,
        "length": {"min": lengths[0], "median": median(lengths), "p95": lengths[ceil(0.95 * len(lengths)) - 1], "max": lengths[-1]}
        if lengths
        else None,
        "max_length": max_length,
    }
    out.write(json.dumps(counts) + "\n")
    for number, row in enumerate(found.rows[:examples]):
        for key in (key for key in row if key.endswith("ids")):
            side = key.removesuffix("ids").removesuffix("_")
            out.write(f"\n--- example {number}{' ' + side if side else ''}, {len(row[key])} tokens\n")
            out.write(painted(tokenizer, row[key], row[key.removesuffix("ids") + "mask"], colour) + "\n")


def painted(tokenizer: Any, ids: list[int], mask: list[bool], colour: bool) -> str:
    """Return the text of tokens; those that carry loss are marked."""
    begin, end = (LOSS, PLAIN) if colour else ("[[", "]]")
    text, start = "", 0
    while start < len(ids):
        stop = start
        while stop < len(ids) and mask[stop] == mask[start]:
            stop += 1
        piece = tokenizer.decode(ids[start:stop], clean_up_tokenization_spaces=False)
        text += begin + piece + end if mask[start] else piece
        start = stop
    return text


def _tokenize(tokenizer: Any, rows: list[Pair] | list[Conversation], max_length: int) -> Examples:
    pairs = [row for row in rows if isinstance(row, Pair)]
    return (
        dpo_examples(tokenizer, pairs, max_length)
        if pairs
        else sft_examples(tokenizer, [row for row in rows if isinstance(row, Conversation)], max_length)
    )


def _read(path: str) -> list[Pair] | list[Conversation]:
    with open(path, encoding="utf-8") as file:
        first = next((line for line in file if line.strip()), "")
    return read_pairs(path) if '"chosen"' in first else read_conversations(path)
