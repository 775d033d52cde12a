"""Examples ready for training: cut to the maximum length, counted, with reasons for what was left out."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from trainer.data import Conversation, Pair, Sample
from trainer.losses import group_advantages
from trainer.spans import Tokens, tokenize_conversation, tokenize_sampled

PROMPT_TOO_LONG = "prompt_longer_than_max_length"
FIRST_TURN_CUT = "first_turn_longer_than_max_length"
#: What the policy answered in sight of less than its episode (rollout.on_overflow: drop-oldest) is no answer to the whole.
TURNS_NOT_SHOWN = "oldest_turns_were_not_shown"
NO_TURN = "no_turn"


@dataclass
class Examples:
    """Rows for the trainer, and what happened on the way. `drifted`: turns of grpo's samples that were answered to other tokens."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    drifted: int = 0

    @property
    def tokens(self) -> int:
        """Count the tokens of one pass over the data."""
        return sum(row["length"] for row in self.rows)

    @property
    def loss_tokens(self) -> int:
        """Count the tokens that carry loss in one pass over the data."""
        return sum(sum(mask) for row in self.rows for key, mask in row.items() if key.endswith("mask"))


def cut(tokens: Tokens, max_length: int) -> tuple[Tokens, bool]:
    """Cut to max_length; a turn that loses its end loses all its loss; what follows the last target is left away."""
    turns = list(tokens.turns)
    truncated = False
    if len(turns) > max_length:
        first_cut = turns[max_length]
        truncated = any(turn >= 0 for turn in turns[max_length:])
        turns = turns[:max_length]
        if first_cut >= 0:
            turns = [-1 if turn == first_cut else turn for turn in turns]
    end = max((position + 1 for position, turn in enumerate(turns) if turn >= 0), default=0)
    return Tokens(tokens.ids[:end], turns[:end]), truncated


def sft_examples(tokenizer: Any, conversations: list[Conversation], max_length: int) -> Examples:
    """Tokenize conversations for sft."""
    examples = Examples()
    for conversation in conversations:
        whole = tokenize_conversation(tokenizer, conversation.messages, conversation.where)
        tokens, truncated = cut(whole, max_length)
        if not tokens.ids:
            examples.dropped[_reason(whole, max_length)] += 1
            continue
        examples.truncated += truncated
        examples.rows.append({"ids": tokens.ids, "mask": tokens.mask, "length": len(tokens.ids)})
    return examples


def dpo_examples(tokenizer: Any, pairs: list[Pair], max_length: int) -> Examples:
    """Tokenize pairs for dpo; a pair goes if one side has no whole turn left."""
    examples = Examples()
    for pair in pairs:
        row: dict[str, Any] = {"length": 0}
        cut_here = False
        for side, messages in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            whole = tokenize_conversation(tokenizer, pair.prompt + messages, f"{pair.where} {side}", len(pair.prompt))
            tokens, truncated = cut(whole, max_length)
            if not tokens.ids:
                examples.dropped[_reason(whole, max_length)] += 1
                break
            cut_here |= truncated
            row |= {f"{side}_ids": tokens.ids, f"{side}_mask": tokens.mask, "length": row["length"] + len(tokens.ids)}
        else:
            examples.truncated += cut_here
            examples.rows.append(row)
    return examples


def grpo_examples(tokenizer: Any, samples: list[Sample], max_length: int, scale: str) -> Examples:
    """Tokenize episodes for grpo, each with its advantage over the others of its task (those left out below count there too)."""
    examples = Examples()
    tasks = {task: number for number, task in enumerate(dict.fromkeys(sample.task for sample in samples))}
    groups = [tasks[sample.task] for sample in samples]
    advantages = group_advantages([sample.reward for sample in samples], groups, scale)
    for sample, group, advantage in zip(samples, groups, advantages, strict=True):
        if not sample.whole:
            examples.dropped[TURNS_NOT_SHOWN] += 1
            continue
        if not sample.token_ids:
            examples.dropped[NO_TURN] += 1
            continue
        whole = tokenize_sampled(tokenizer, sample.messages, sample.prompt_messages, sample.token_ids, sample.where)
        examples.drifted += len(sample.token_ids) - 1 - max(whole.turns)
        tokens, truncated = cut(whole, max_length)
        if not tokens.ids:
            examples.dropped[_reason(whole, max_length)] += 1
            continue
        examples.truncated += truncated
        recorded = [value for turn in sample.logprobs for value in turn]
        row = {"ids": tokens.ids, "mask": tokens.mask, "length": len(tokens.ids), "logprobs": recorded[: sum(tokens.mask)]}
        examples.rows.append({**row, "advantage": advantage, "reward": sample.reward, "group": group})
    return examples


def _reason(whole: Tokens, max_length: int) -> str:
    first = next(position for position, turn in enumerate(whole.turns) if turn >= 0)
    return PROMPT_TOO_LONG if first >= max_length else FIRST_TURN_CUT
