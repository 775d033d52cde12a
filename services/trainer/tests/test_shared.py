"""Chosen and rejected in one row, their common beginning computed once: the same numbers as two rows."""

import pytest
import torch
from conftest import conversation, dpo_records
from trainer.batches import collate_dpo
from trainer.data import Pair
from trainer.examples import dpo_examples
from trainer.head import logps_at_targets
from trainer.losses import sums_by_row
from trainer.shared import NAME, can_share, collate_shared, shared_logps
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config


def rows(tokenizer, records):
    return dpo_examples(tokenizer, [Pair(r["prompt"], r["chosen"], r["rejected"], "") for r in records], 4096).rows


def one_is_the_others_beginning():
    talk = conversation(1, "mug")
    return {"prompt": talk[:3], "chosen": talk[3:], "rejected": talk[3:4]}


def same_first_turn():
    talk, other = conversation(1, "mug"), conversation(1, "mug")
    other[5] = {"role": "assistant", "content": "Thought: hm.\nAction: leave"}
    return {"prompt": talk[:3], "chosen": talk[3:], "rejected": other[3:]}


def different_prompts_do_not_happen_but_the_first_token_may_differ(tokenizer):
    chosen, rejected = ([5, 6, 7], [False, True, True]), ([8, 6, 9, 7], [False, True, True, True])
    return {"chosen_ids": chosen[0], "chosen_mask": chosen[1], "rejected_ids": rejected[0], "rejected_mask": rejected[1]}


def sums(model, batch, function, pairs):
    logps, at = function(batch)
    model.zero_grad()
    total = sums_by_row(logps, at, 2 * pairs)
    (total * torch.linspace(-1, 2, 2 * pairs)).sum().backward()
    return total.detach(), torch.cat([p.grad.flatten().clone() for p in model.parameters()])


def test_sums_and_gradients_are_those_of_two_rows(world, model, tokenizer):
    records = [*dpo_records(), one_is_the_others_beginning(), same_first_turn()]
    examples = [*rows(tokenizer, records), different_prompts_do_not_happen_but_the_first_token_may_differ(tokenizer)]
    n = len(examples)
    head = model.get_output_embeddings()
    batch = collate_dpo(examples)
    plain = sums(model, batch, lambda b: logps_at_targets(model, head, b["input_ids"], b["loss_mask"]), n)
    shared_model = AutoModelForCausalLM.from_pretrained(world / "init", dtype=torch.float32, attn_implementation=NAME).eval()
    one = collate_shared(examples)
    assert one["input_ids"].numel() < sum(len(e["chosen_ids"]) + len(e["rejected_ids"]) for e in examples)
    shared = sums(shared_model, one, lambda b: shared_logps(shared_model, shared_model.get_output_embeddings(), b), n)
    assert torch.allclose(plain[0], shared[0], atol=1e-4)
    assert torch.allclose(plain[1], shared[1], atol=1e-4)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (LlamaConfig(), True),
        (Qwen2Config(use_sliding_window=False), True),
        (MistralConfig(sliding_window=None), True),
        (MistralConfig(sliding_window=4096), False),
        (Qwen2Config(use_sliding_window=True, sliding_window=4096), False),
    ],
)
def test_only_plain_causal_attention_is_shared(config, says):
    assert can_share(config) is says
