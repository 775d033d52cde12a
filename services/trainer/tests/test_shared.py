"""Examples in one row, their common beginning computed once: the same numbers as rows of their own."""

import pytest
import torch
import torch.nn.functional as F
from conftest import conversation, dpo_records, sft_records
from hypothesis import given
from hypothesis import strategies as st
from trainer.attention import NAME, can_share
from trainer.attention_cpu import Part, attend_on_cpu
from trainer.batches import collate_dpo, collate_sft, ordered
from trainer.data import Conversation, Pair
from trainer.examples import dpo_examples, sft_examples
from trainer.head import logps_at_targets
from trainer.losses import sums_by_row
from trainer.shared import Row, collate_shared_dpo, group, lay_out, padding, shared_length, shared_logps
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
    one = collate_shared_dpo(examples)
    assert one["input_ids"].numel() < sum(len(e["chosen_ids"]) + len(e["rejected_ids"]) for e in examples)
    shared = sums(shared_model, one, lambda b: shared_logps(shared_model, shared_model, b), n)
    assert torch.allclose(plain[0], shared[0], atol=1e-4)
    assert torch.allclose(plain[1], shared[1], atol=1e-4)


def test_pairs_of_other_tasks_share_their_instruction_where_that_is_less(world, model, tokenizer):
    """One task's sides have little beyond the instruction in common: it is computed once for both pairs, not once a pair."""
    records = [dict(record, prompt=[dict(record["prompt"][0]), *record["prompt"][1:]]) for record in dpo_records()[:3]]
    for record in records:
        record["prompt"][0]["content"] *= 40
    examples = rows(tokenizer, records)
    one, alone = collate_shared_dpo(examples), [collate_shared_dpo([example]) for example in examples]
    assert one["input_ids"].numel() < 0.6 * sum(batch["input_ids"].numel() for batch in alone)
    head = model.get_output_embeddings()
    plain = sums(model, collate_dpo(examples), lambda b: logps_at_targets(model, head, b["input_ids"], b["loss_mask"]), 3)
    shared_model = AutoModelForCausalLM.from_pretrained(world / "init", dtype=torch.float32, attn_implementation=NAME).eval()
    shared = sums(shared_model, one, lambda b: shared_logps(shared_model, shared_model, b), 3)
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


def test_conversations_under_one_instruction_give_the_sums_and_gradients_of_rows_of_their_own(world, model, tokenizer):
    """Two instructions of five and three conversations: two beginnings in one row."""
    records = [r["messages"] for r in sft_records()]
    other = {"role": "user", "content": "Shop for things."}
    talks = [*records[:5], *([other, *messages[1:]] for messages in records[5:])]
    examples = sft_examples(tokenizer, [Conversation(talk, "") for talk in talks], 4096)
    rows = ordered(examples.rows, shared=True)
    groups = group([Row(r["ids"], r["mask"], number) for number, r in enumerate(rows)], worth=8)
    assert sorted(len(g) for g in groups) == [3, 5]
    one = lay_out(groups)
    assert one["input_ids"].numel() < 0.8 * examples.tokens
    assert len(one["at"]) == examples.loss_tokens  # a target of the beginning counts once for each conversation
    head = model.get_output_embeddings()
    plain = sums(model, collate_sft(rows), lambda b: logps_at_targets(model, head, b["input_ids"], b["loss_mask"]), 4)
    shared_model = AutoModelForCausalLM.from_pretrained(world / "init", dtype=torch.float32, attn_implementation=NAME).eval()
    shared = sums(shared_model, one, lambda b: shared_logps(shared_model, shared_model, b), 4)
    assert torch.allclose(plain[0], shared[0], atol=1e-4)
    assert torch.allclose(plain[1], shared[1], atol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_last_layer_at_targets_alone_gives_the_sums_and_gradients_of_all_of_it(world, tokenizer, checkpointing):
    """With checkpointing, layers are computed once more in the backward pass, whole."""
    examples = rows(tokenizer, dpo_records())
    n, batch = len(examples), collate_shared_dpo(examples)
    shared_model = AutoModelForCausalLM.from_pretrained(world / "init", dtype=torch.float32, attn_implementation=NAME)
    if checkpointing:
        shared_model.gradient_checkpointing_enable({"use_reentrant": False})
    seen = []
    shared_model.get_decoder().layers[-1].mlp.gate_proj.register_forward_hook(lambda _module, args, _output: seen.append(args[0].shape[1]))
    some = sums(shared_model.train(), batch, lambda b: shared_logps(shared_model, shared_model, b), n)
    batch["needed"] = torch.arange(batch["input_ids"].shape[1])
    whole = sums(shared_model, batch, lambda b: shared_logps(shared_model, shared_model, b), n)
    assert all(torch.allclose(one, two, atol=1e-4) for one, two in zip(some, whole, strict=True))
    assert seen[0] == batch["input_ids"].shape[1] if checkpointing else seen[0] < seen[-1] / 2


@given(st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=12), min_size=1, max_size=8))
def test_every_row_can_be_read_back_from_its_parts(texts):
    """Parts cover the row one after the other; a row's beginning and rest are its tokens, at their own positions, then padding."""
    rows = [Row(ids, [False] + [True] * (len(ids) - 1), number) for number, ids in enumerate(sorted(texts))]
    groups = group(rows, worth=1)
    assert [row for rows in groups for row in rows] == rows
    batch = lay_out(groups)
    ids, places = batch["input_ids"][0].tolist(), batch["position_ids"][0].tolist()
    end, parts = 0, []
    for beginning, shared, start, tokens in batch["layout"].tolist():
        assert start == end
        end = start + tokens
        seen = [*range(beginning, beginning + shared), *range(start, end)]
        assert [places[at] for at in seen] == list(range(len(seen)))
        parts.append([ids[at] for at in seen])
    assert end == len(ids)
    for members in groups:
        for row in members:
            known = row.ids[:-1]
            whole = any(part[: len(known)] == known and set(part[len(known) :]) <= {0} and len(part) - len(known) < 8 for part in parts)
            assert whole or len(known) == shared_length(members)  # else it is the beginning of another row
    for place, wanted, number in zip(batch["at"].tolist(), batch["wanted"].tolist(), batch["rows"].tolist(), strict=True):
        assert wanted == rows[number].ids[places[place] + 1]


def test_padding_is_little_and_makes_sizes_come_again():
    sizes = [n + padding(n) for n in range(1, 1 << 14)]
    assert all(n <= size <= n + max(7, n / 16) for n, size in enumerate(sizes, 1))
    assert all(len({s for s in sizes if low < s <= 2 * low}) <= 16 for low in (128, 1024, 4096))
    assert lay_out([[Row([1] * 5001, [False] * 5000 + [True], 0)]])["input_ids"].shape == (1, 5120)


def test_in_bfloat16_sharing_rounds_as_rows_of_their_own_do(world, model, tokenizer):
    """Under autocast the attention's inputs are bfloat16, as for torch's own; sums agree within its rounding."""
    examples = rows(tokenizer, dpo_records())
    shared_model = AutoModelForCausalLM.from_pretrained(world / "init", dtype=torch.float32, attn_implementation=NAME).eval()
    with torch.autocast("cpu", torch.bfloat16):
        plain = logps_at_targets(model, model.get_output_embeddings(), *(collate_dpo(examples)[k] for k in ("input_ids", "loss_mask")))
        shared = shared_logps(shared_model, shared_model, collate_shared_dpo(examples))
    one, two = (sums_by_row(logps, at, 2 * len(examples)) for logps, at in (plain, shared))
    assert torch.allclose(one, two, rtol=1e-2)
    two.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in shared_model.parameters() if p.grad is not None)


@pytest.mark.parametrize("width", [16, 24])
def test_attention_and_its_gradients_in_bfloat16_are_those_of_a_mask_in_float32(width):
    """24: a scale that is no power of two. Four heads share the keys of two."""
    layout = [Part(0, 0, 0, 1200), Part(0, 300, 1200, 250), Part(0, 1100, 1450, 7), Part(1457, 0, 1457, 33)]
    tokens = 1490
    torch.manual_seed(0)
    query, key, value, wanted = (torch.randn(1, heads, tokens, width).bfloat16() for heads in (4, 2, 2, 4))
    mask = torch.zeros(tokens, tokens, dtype=torch.bool)
    for part in layout:
        mask[part.own, part.own] = torch.ones(part.tokens, part.tokens, dtype=torch.bool).tril()
        mask[part.own, part.before] = True

    def results(attention, dtype):
        given = [t.to(dtype).requires_grad_() for t in (query, key, value)]
        out = attention(*given)
        out.backward(wanted.to(dtype))
        return [out.detach(), *(t.grad for t in given)]

    def masked(q, k, v):
        k, v = (t.repeat_interleave(2, 1) for t in (k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=width**-0.5)

    expected = results(masked, torch.float32)
    found = results(lambda q, k, v: attend_on_cpu(q, k, v, width**-0.5, layout).transpose(1, 2), torch.bfloat16)
    assert [float((a.float() - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)] == pytest.approx([0] * 4, abs=0.01)
