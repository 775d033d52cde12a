"""The trainers' losses against plain PyTorch written here."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import conversation, dpo_records, sft_records
from templates import FAMILIES
from trainer.batches import collate_dpo, collate_sft
from trainer.data import Conversation, Pair
from trainer.examples import dpo_examples, sft_examples
from trainer.head import logps_at_targets
from trainer.job import LossOptions
from trainer.losses import Sides, dpo_loss, sft_loss, sums_by_row
from trainer.spans import tokenize_conversation


def plain_logps(model, ids, mask):
    """One row, no padding, every logit; the sum over the targets."""
    logits = model(input_ids=torch.tensor([ids])).logits[0]
    logps = F.log_softmax(logits[:-1], -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    return logps[torch.tensor(mask[1:])]


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten().clone() for p in model.parameters()])


def answers(tokenizer, messages, prompt_messages=0):
    """Ids and mask found turn by turn, as a server meets them: what stands before an answer is prompt, the answer is target."""
    _, _, _, _, lead, tail = FAMILIES[tokenizer.family]
    ids, mask, rendered = [], [], ""

    def add(text, target):
        piece = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids.extend(piece)
        mask.extend([target] * len(piece))

    for index, message in enumerate(messages):
        if message["role"] != "assistant" or index < prompt_messages:
            continue
        prompt = tokenizer.apply_chat_template(messages[:index], tokenize=False, add_generation_prompt=True)
        last = tokenizer.family == "qwen" and index == len(messages) - 1
        add(prompt[len(rendered) :] + ("<think>\n\n</think>\n\n" if last else ""), False)
        answer = lead + message["content"] + tail
        add(answer, True)
        rendered = prompt + answer
    return ids, mask


def test_assistant_spans_are_what_a_server_would_generate(family):
    for record in sft_records():
        ids, mask = answers(family, record["messages"])
        tokens = tokenize_conversation(family, record["messages"], "here")
        assert (tokens.ids[: len(ids)], tokens.mask[: len(ids)]) == (ids, mask)
        assert not any(tokens.mask[len(ids) :])


def test_the_sft_loss_is_the_plain_mean_over_assistant_tokens(family, family_model):
    conversations = [Conversation(r["messages"][: 2 + 2 * (i % 3)], "") for i, r in enumerate(sft_records())]
    batch = collate_sft(sft_examples(family, conversations, 4096).rows)
    logps, _ = logps_at_targets(family_model, family_model.get_output_embeddings(), batch["input_ids"], batch["loss_mask"])
    ours = sft_loss(logps, batch["items"])
    plain = -torch.cat([plain_logps(family_model, *answers(family, c.messages)) for c in conversations]).mean()
    assert ours.item() == pytest.approx(plain.item(), abs=1e-4)
    assert torch.allclose(gradients(family_model, ours), gradients(family_model, plain), atol=1e-5)


def plain_loss(kind, margin, mean_margin, beta):
    """The formulas of the papers, for one pair."""
    return {
        "sigmoid": lambda: torch.log(1 + torch.exp(-beta * margin)),
        "smoothed": lambda: 0.8 * torch.log(1 + torch.exp(-beta * margin)) + 0.2 * torch.log(1 + torch.exp(beta * margin)),
        "normalized": lambda: torch.log(1 + torch.exp(-beta * mean_margin)),
        "hinge": lambda: (1 - beta * margin).clamp(min=0),
        "ipo": lambda: (mean_margin - 1 / (2 * beta)).pow(2),
        "rpo": lambda: torch.log(1 + torch.exp(-beta * margin)),
    }[kind]()


OPTIONS = {
    "sigmoid": LossOptions(),
    "smoothed": LossOptions(label_smoothing=0.2),
    "normalized": LossOptions(length_normalization=True, beta=2.0),
    "hinge": LossOptions(type="hinge", beta=0.01),
    "ipo": LossOptions(type="ipo", beta=0.3),
    "rpo": LossOptions(rpo_alpha=0.7),
}


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "live"])
@pytest.mark.parametrize("kind", OPTIONS)
def test_the_dpo_loss_and_its_gradients_are_the_plain_ones(family, family_model, kind, cached):
    """Ours: two padded passes over a batch. Plain: pair by pair, row by row, a second model for the reference."""
    options = OPTIONS[kind]
    records = [{**r, "chosen": r["chosen"][: 1 + 2 * (i % 2)]} for i, r in enumerate(dpo_records())]
    reference = copy.deepcopy(family_model)
    with torch.no_grad():
        for weights in family_model.parameters():
            weights.add_(torch.randn(weights.shape, generator=torch.Generator().manual_seed(weights.numel())) * 0.02)
    terms = []
    for record in records:
        sides = {}
        for side in ("chosen", "rejected"):
            row = answers(family, record["prompt"] + record[side], len(record["prompt"]))
            with torch.no_grad():
                before = plain_logps(reference, *row)
            sides[side] = (plain_logps(family_model, *row), before)
        (won, won_before), (lost, lost_before) = sides["chosen"], sides["rejected"]
        margin = (won - won_before).sum() - (lost - lost_before).sum()
        term = plain_loss(kind, margin, (won - won_before).mean() - (lost - lost_before).mean(), options.beta)
        terms.append(term - (0.7 * won.mean() if kind == "rpo" else 0))
    plain = torch.stack(terms).mean()

    rows = dpo_examples(family, [Pair(r["prompt"], r["chosen"], r["rejected"], "") for r in records], 4096).rows

    def sides_of(model, batch):
        logps, at = logps_at_targets(model, model.get_output_embeddings(), batch["input_ids"], batch["loss_mask"])
        return Sides(*sums_by_row(logps, at, len(batch["input_ids"])).chunk(2))

    if cached:  # read in another order and in other passes than training does
        with torch.no_grad():
            for row in reversed(rows):
                sides = sides_of(reference, collate_dpo([row]))
                row |= {"ref_chosen_logps": sides.chosen.item(), "ref_rejected_logps": sides.rejected.item()}
    batch = collate_dpo(rows)
    with torch.no_grad():
        before = Sides(batch["ref_chosen_logps"], batch["ref_rejected_logps"]) if cached else sides_of(reference, batch)
    targets = Sides(*batch["loss_mask"][:, 1:].sum(1).chunk(2))
    ours = dpo_loss(sides_of(family_model, batch), before, targets, options).loss.mean()
    assert ours.item() == pytest.approx(plain.item(), abs=1e-4)
    assert torch.allclose(gradients(family_model, ours), gradients(family_model, plain), atol=1e-4)


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
