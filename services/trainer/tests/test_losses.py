"""The trainers' losses against plain PyTorch written here."""

import pytest
import torch
import torch.nn.functional as F
from conftest import conversation, dpo_records, sft_records
from trainer.batches import collate_dpo, collate_sft
from trainer.data import Conversation, Pair
from trainer.examples import dpo_examples, sft_examples
from trainer.head import logps_at_targets
from trainer.losses import dpo_loss, sft_loss, sums_by_row


def plain_logps(model, ids, mask):
    """One row, no padding, every logit; the sum over the targets."""
    logits = model(input_ids=torch.tensor([ids])).logits[0]
    logps = F.log_softmax(logits[:-1], -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    return logps[torch.tensor(mask[1:])]


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten().clone() for p in model.parameters()])


def test_the_sft_loss_is_the_plain_mean_over_assistant_tokens(model, tokenizer):
    rows = sft_examples(tokenizer, [Conversation(r["messages"][: 2 + 2 * (i % 3)], "") for i, r in enumerate(sft_records())], 4096).rows
    batch = collate_sft(rows)
    logps, _ = logps_at_targets(model, model.get_output_embeddings(), batch["input_ids"], batch["loss_mask"])
    ours = sft_loss(logps, batch["items"])
    plain = -torch.cat([plain_logps(model, row["ids"], row["mask"]) for row in rows]).mean()
    assert ours.item() == pytest.approx(plain.item(), abs=1e-4)
    assert torch.allclose(gradients(model, ours), gradients(model, plain), atol=1e-5)


def test_the_dpo_loss_is_the_plain_loss_over_assistant_tokens(model, tokenizer):
    pairs = [Pair(r["prompt"], r["chosen"], r["rejected"], "") for r in dpo_records()]
    rows = dpo_examples(tokenizer, pairs, 4096).rows
    reference = torch.linspace(-60, -20, len(rows))
    for index, row in enumerate(rows):
        row |= {"ref_chosen_logps": reference[index].item(), "ref_rejected_logps": reference[-1 - index].item()}
    batch = collate_dpo(rows)
    logps, at = logps_at_targets(model, model.get_output_embeddings(), batch["input_ids"], batch["loss_mask"])
    chosen, rejected = sums_by_row(logps, at, 2 * len(rows)).chunk(2)
    ours = dpo_loss(chosen, rejected, batch["ref_chosen_logps"], batch["ref_rejected_logps"], 0.1).loss.mean()
    terms = []
    for row in rows:
        won = plain_logps(model, row["chosen_ids"], row["chosen_mask"]).sum() - row["ref_chosen_logps"]
        lost = plain_logps(model, row["rejected_ids"], row["rejected_mask"]).sum() - row["ref_rejected_logps"]
        terms.append(-torch.log(torch.sigmoid(0.1 * (won - lost))))
    plain = torch.stack(terms).mean()
    assert ours.item() == pytest.approx(plain.item(), abs=1e-4)
    assert torch.allclose(gradients(model, ours), gradients(model, plain), atol=1e-4)


def test_observations_as_targets_do_not_count(model, tokenizer):
    """The log-probability of an observation's own tokens has no part in the sums: only what follows it may change."""
    messages = conversation(1, "mug")
    other = [dict(m) for m in messages]
    other[4]["content"] = "Observation: nothing at all happens, try something else."
    one, two = (collate_sft(sft_examples(tokenizer, [Conversation(m, "")], 4096).rows) for m in (messages[:5], other[:5]))
    assert torch.equal(one["input_ids"], two["input_ids"])  # the observation after the last target is not even read
    whole = collate_sft(sft_examples(tokenizer, [Conversation(messages, "")], 4096).rows)
    logps, _ = logps_at_targets(model, model.get_output_embeddings(), whole["input_ids"], whole["loss_mask"])
    before = int(one["loss_mask"].sum())
    changed = collate_sft(sft_examples(tokenizer, [Conversation(other, "")], 4096).rows)
    logps_changed, _ = logps_at_targets(model, model.get_output_embeddings(), changed["input_ids"], changed["loss_mask"])
    assert len(logps) == len(logps_changed)
    assert torch.allclose(logps[:before], logps_changed[:before], atol=1e-5)


def test_padding_does_not_reach_a_real_token(model, tokenizer):
    rows = sft_examples(tokenizer, [Conversation(conversation(1, "mug"), ""), Conversation(conversation(1, "mug")[:2], "")], 4096).rows
    batch = collate_sft(rows)
    ids = batch["input_ids"].clone()
    ids[1, len(rows[1]["ids"]) :] = 77
    head = model.get_output_embeddings()
    one, _ = logps_at_targets(model, head, batch["input_ids"], batch["loss_mask"])
    two, _ = logps_at_targets(model, head, ids, batch["loss_mask"])
    assert torch.equal(one, two)
