"""GRPO against plain PyTorch written here, its masks, its advantages, and whole jobs."""

import json

import pytest
import torch
import torch.nn.functional as F
from conftest import conversation, run, write_lines
from datasets import Dataset
from safetensors.torch import load_file
from trainer.batches import BatchOrder
from trainer.data import read_samples
from trainer.errors import JobError
from trainer.examples import NO_TURN, TURNS_NOT_SHOWN, grpo_examples
from trainer.grpo import GrpoTrainer
from trainer.job import Job
from trainer.losses import group_advantages
from trainer.progress import Progress
from trainer.training import _build_trainer
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer

#: Three tasks: one with four rewards, one with two, one whose samples all earned the same.
REWARDS = {"mug": [1.0, 0.0, 0.25, 0.0], "apple": [0.0, 1.0], "plate": [0.5, 0.5, 0.5]}


def episode(tokenizer, task, sample, reward):
    """As a rollout records it: the second turn was cut by the limit of tokens, so its last token does not close it."""
    messages = [
        *conversation(sample, task, "go to shelf" if reward > 0.4 else "dance with it"),
        {"role": "user", "content": "Observation: you have it."},
    ]
    steps = []
    for index in (3, 5):
        ids = tokenizer(messages[index]["content"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] * (index == 3)
        steps.append({"action": "", "token_ids": ids, "logprobs": [-5.5 - 0.1 * ((i + sample) % 7) for i in range(len(ids))]})
    return {"task_id": task, "sample": sample, "messages": messages, "prompt_messages": 3, "steps": steps, "reward": reward}


def episodes(tokenizer):
    return [episode(tokenizer, task, n, reward) for task, rewards in REWARDS.items() for n, reward in enumerate(rewards)]


def grpo_job(world, folder, **options):
    """A job in float32 whose step takes the nine samples in three passes."""
    common = {"method": "grpo", "model": str(world / "init"), "data": str(folder / "grpo.jsonl"), "output": str(folder / "grpo")}
    return common | {"batch_size": 9, "micro_batch_size": 3, "max_length": 512, "precision": "fp32", "learning_rate": 1e-3} | options


def test_advantages_are_rewards_less_the_groups_mean_over_its_deviation():
    """Golden: [1, 0, 0.25, 0] has mean 0.3125 and deviation sqrt(0.671875 / 3); [0, 1] has 0.5 and sqrt(0.5)."""
    rewards, groups = [1.0, 0.0, 0.25, 0.0, 0.0, 1.0, 0.5, 0.5, 0.5, 0.7], [0, 0, 0, 0, 1, 1, 2, 2, 2, 3]
    first, second = 0.4732424, 0.7071068
    expected = [x / (first + 1e-4) for x in (0.6875, -0.3125, -0.0625, -0.3125)] + [x / (second + 1e-4) for x in (-0.5, 0.5)] + [0.0] * 4
    assert group_advantages(rewards, groups, "group") == pytest.approx(expected, abs=1e-6)
    assert group_advantages(rewards, groups, "none") == pytest.approx([0.6875, -0.3125, -0.0625, -0.3125, -0.5, 0.5, 0, 0, 0, 0])


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_are_those_of_trls_own_trainer(tokenizer, model, tmp_path, scale):
    """TRL's trainer scores the same rewards; only its generation is left out."""
    rewards = [1.0, 0.0, 0.25, 0.0, 0.0, 1.0, 1.0, 0.3]
    args = GRPOConfig(
        str(tmp_path), scale_rewards=scale, num_generations=4, per_device_train_batch_size=8, use_cpu=True, bf16=False, report_to="none"
    )
    trl = GRPOTrainer(model, lambda **_: rewards, args, Dataset.from_list([{"prompt": "a"}] * 8), processing_class=tokenizer)
    trl._generate = lambda prompts: ([[1]] * 8, [[2]] * 8, None, ["x"] * 8, None, {}, None, None)
    trl.model.train()
    found = trl._generate_and_score_completions([{"prompt": "a"}] * 8)["advantages"]
    assert group_advantages(rewards, [0] * 4 + [1] * 4, scale) == pytest.approx(found.tolist(), abs=1e-5)


def drawn_tokens(tokenizer, record):
    """Ids and mask as a server meets them: the prompt of each turn is rendered and tokenized, what was drawn is appended."""
    ids, mask, rendered = [], [], ""
    for number, step in enumerate(record["steps"]):
        prompt = tokenizer.apply_chat_template(record["messages"][: 3 + 2 * number], tokenize=False, add_generation_prompt=True)
        piece = tokenizer(prompt[len(rendered) :], add_special_tokens=False)["input_ids"]
        ids += piece + step["token_ids"]
        mask += [False] * len(piece) + [True] * len(step["token_ids"])
        rendered = prompt + tokenizer.decode(step["token_ids"])
    return ids, mask


def record_logprobs(model, tokenizer, records, off=0.0):
    """Put the model's own log-probabilities into the records, every third one so much too low, every third too high."""
    for record in records:
        ids, mask = drawn_tokens(tokenizer, record)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
        own = F.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0][torch.tensor(mask[1:])].tolist()
        for step in record["steps"]:
            step["logprobs"] = [own.pop(0) + off * (i % 3 - 1) for i in range(len(step["logprobs"]))]


def draw_oddly(tokenizer, record, turn):
    """Replace a turn's tokens by others of the same text."""
    step, text = record["steps"][turn], record["messages"][3 + 2 * turn]["content"]
    odd = [i for c in text for i in tokenizer(c, add_special_tokens=False)["input_ids"]]
    assert odd != tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = odd + [tokenizer.eos_token_id] * (step["token_ids"][-1] == tokenizer.eos_token_id)
    step |= {"token_ids": ids, "logprobs": [-1.0] * len(ids)}


def test_only_the_tokens_that_were_drawn_carry_loss_as_they_were_drawn(tokenizer, tmp_path):
    """Also where their text would be tokenized otherwise."""
    record = episode(tokenizer, "mug", 1, 1.0)
    draw_oddly(tokenizer, record, 1)
    found = grpo_examples(tokenizer, read_samples(write_lines(tmp_path / "one.jsonl", [record, record])), 512, "group")
    row, (ids, mask) = found.rows[0], drawn_tokens(tokenizer, record)
    assert (row["ids"], row["mask"], found.drifted) == (ids, mask, 0)
    assert len(row["logprobs"]) == sum(mask)


def test_turns_that_were_answered_to_other_tokens_than_were_drawn_are_left_out(tokenizer, tmp_path):
    """A server is sent text: it tokenizes the first turn anew, so what it recorded of the second belongs to another prompt."""
    record = episode(tokenizer, "mug", 1, 1.0)
    draw_oddly(tokenizer, record, 0)
    found = grpo_examples(tokenizer, read_samples(write_lines(tmp_path / "one.jsonl", [record, record])), 512, "group")
    row, drawn = found.rows[0], record["steps"][0]["token_ids"]
    assert found.drifted == 2  # a turn of each
    assert row["ids"][-len(drawn) :] == drawn
    assert sum(row["mask"]) == len(row["logprobs"]) == len(drawn)


def plain_loss(model, reference, records, tokenizer, options):
    """The papers' formulas, a sample at a time, without padding: DeepSeekMath's equation 3 with the averages of each type."""
    low, high, kind = (
        options.get("epsilon", 0.2),
        options.get("epsilon_high", options.get("epsilon", 0.2)),
        options.get("loss_type", "dapo"),
    )
    samples = []
    for record in records:
        ids, mask = drawn_tokens(tokenizer, record)
        targets = torch.tensor(ids[1:])[torch.tensor(mask[1:])]
        logps, before = (
            F.log_softmax(m(input_ids=torch.tensor([ids])).logits[0, :-1][torch.tensor(mask[1:])], -1).gather(1, targets[:, None])[:, 0]
            for m in (model, reference)
        )
        old = torch.tensor([x for step in record["steps"] for x in step["logprobs"]])
        group = torch.tensor([r["reward"] for r in records if r["task_id"] == record["task_id"]])
        advantage = (record["reward"] - group.mean()) / (group.std() + 1e-4)
        ratio = (logps - old).exp()
        if options.get("importance_sampling_level") == "sequence":
            ratio = (logps - old).mean().exp().expand_as(logps)
        if kind == "cispo":
            terms = -ratio.clamp(max=high).detach() * advantage * logps
        else:
            terms = -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
        if options.get("beta"):
            away = before.detach() - logps
            terms = terms + options["beta"] * (away.exp() - away - 1) * ratio  # the ratio: DeepSeek-V3.2's correction, TRL's default
        samples.append(terms)
    if kind == "grpo":
        return torch.stack([terms.mean() for terms in samples]).mean()
    if kind == "dr_grpo":
        return torch.cat(samples).sum() / (len(samples) * 512)
    return torch.cat(samples).mean()


OPTIONS = {
    "dapo": {},
    "grpo": {"loss_type": "grpo", "beta": 0.3},
    "wide": {"epsilon": 0.1, "epsilon_high": 0.5, "beta": 0.04},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.05},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
}


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "padded"])
@pytest.mark.parametrize("kind", OPTIONS)
def test_the_loss_and_its_gradients_are_the_plain_ones(world, tokenizer, tmp_path, kind, shared):
    records = episodes(tokenizer)
    write_lines(tmp_path / "grpo.jsonl", records)
    job = Job(**grpo_job(world, tmp_path, grpo=OPTIONS[kind], share_beginning=shared))
    examples = grpo_examples(tokenizer, read_samples(job.data), job.max_length, job.grpo.scale_rewards)
    trainer = _build_trainer(job, examples, 1, "fp32", tmp_path, tokenizer)
    trainer.start_reporting(Progress(None))
    theirs, model, reference = trainer.model.train(), *(AutoModelForCausalLM.from_pretrained(job.base, dtype=torch.float32) for _ in "ab")
    with torch.no_grad():
        for weights, same in zip(model.parameters(), theirs.parameters(), strict=True):
            weights.add_(torch.randn(weights.shape, generator=torch.Generator().manual_seed(weights.numel())) * 0.01)
            same.copy_(weights)
    record_logprobs(model, tokenizer, records, 0.3)  # so that some ratios are within the bounds and some are not
    write_lines(tmp_path / "grpo.jsonl", records)
    rows = grpo_examples(tokenizer, read_samples(job.data), job.max_length, job.grpo.scale_rewards).rows

    trainer.current_gradient_accumulation_steps = 3
    batches = [trainer.data_collator(rows[start : start + 3]) for start in (0, 3, 6)]
    total = sum(batch["items"] for batch in batches)
    ours = sum(trainer.compute_loss(theirs, batch, num_items_in_batch=total) for batch in batches)
    ours_gradients = torch.cat([g.flatten() for g in torch.autograd.grad(ours, list(theirs.parameters()))])
    plain = plain_loss(model, reference, records, tokenizer, OPTIONS[kind])
    gradients = torch.cat([g.flatten() for g in torch.autograd.grad(plain, list(model.parameters()))])
    assert ours.item() == pytest.approx(plain.item(), abs=1e-4)
    assert torch.allclose(ours_gradients, gradients, atol=1e-4)
    assert gradients.abs().max() > 1e-3


def test_samples_of_a_task_stand_in_one_step_where_they_fit():
    order = list(BatchOrder(list(range(12)), 4, 0, [n // 4 for n in range(12)]))
    assert sorted(order) == list(range(12))
    assert all(len({index // 4 for index in order[at : at + 4]}) == 1 for at in (0, 4, 8))


def test_what_cannot_be_trained_counts_in_the_baseline_and_is_counted_as_dropped(tokenizer, tmp_path):
    records = episodes(tokenizer)[:4]
    records[1]["steps"][1]["dropped_turns"] = 4
    records[2]["messages"], records[2]["steps"] = records[2]["messages"][:3], []
    found = grpo_examples(tokenizer, read_samples(write_lines(tmp_path / "some.jsonl", records)), 512, "none")
    assert found.dropped == {TURNS_NOT_SHOWN: 1, NO_TURN: 1}
    assert [row["advantage"] for row in found.rows] == pytest.approx([0.6875, -0.3125])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": [{}]}, "after the prompt each of the 1 steps"),
        ({"steps": [{"token_ids": [1]}, {}]}, "steps[0] does not hold as many logprobs as token_ids"),
        ({"steps": [{"token_ids": ["a"], "logprobs": [0]}] * 2}, "token_ids must be whole numbers"),
        ({"reward": None}, "a reward, a finite number"),
        ({"prompt_messages": None}, "an episode has prompt_messages"),
    ],
)
def test_a_line_that_is_no_recorded_episode_is_named(tokenizer, tmp_path, change, says):
    path = write_lines(tmp_path / "bad.jsonl", [episode(tokenizer, "mug", 0, 1.0), episode(tokenizer, "mug", 1, 1.0) | change])
    with pytest.raises(JobError) as error:
        read_samples(path)
    assert f"{path}:2" in str(error.value)
    assert says in str(error.value)


def test_a_job_makes_what_earned_more_likelier_and_a_second_run_is_the_same(world, model, tokenizer, tmp_path):
    records = episodes(tokenizer)
    record_logprobs(model, tokenizer, records)
    write_lines(tmp_path / "grpo.jsonl", records)
    versions = []
    for name in ("one", "two"):
        job = grpo_job(world, tmp_path, output=str(tmp_path / name), epochs=3, grpo={"beta": 0.01})
        code, events = run(tmp_path, job, name)
        assert code == 0, events
        steps = [event for event in events if event["event"] == "step"]
        assert [event["reward"] for event in steps] == pytest.approx([3.75 / 9] * 3)
        assert all(event["entropy"] > 0 for event in steps)
        assert [steps[0][name] for name in ("gap", "kl", "clipped")] == pytest.approx([0, 0, 0], abs=1e-3)
        assert steps[2]["gap"] > steps[1]["gap"] > 1e-3
        assert steps[2]["kl"] > steps[1]["kl"] > 1e-6
        versions.append(events[-1]["final"]["version"])
    assert versions[0] == versions[1]
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "one", dtype=torch.float32)

    def gained(record):
        before = [x for step in record["steps"] for x in step["logprobs"]]
        record_logprobs(after, tokenizer, [record])
        now = [x for step in record["steps"] for x in step["logprobs"]]
        return sum(now) / len(now) - sum(before) / len(before)

    found = [gained(record) for record in records]
    assert found[0] > max(found[1:4])
    assert found[5] > found[4]


def test_samples_that_all_earned_the_same_are_refused_with_what_to_do(world, tokenizer, tmp_path):
    write_lines(tmp_path / "grpo.jsonl", episodes(tokenizer)[6:])
    code, events = run(tmp_path, grpo_job(world, tmp_path))
    assert code == 2
    assert "earned the same" in events[-1]["message"]
    assert not (tmp_path / "grpo").exists()


def test_a_line_of_the_episode_format_is_read_as_it_is_written(tokenizer, tmp_path):
    """With fields that training does not need."""
    record = episode(tokenizer, "mug", 0, 0.5) | {"schema": "eto.episode/1", "env": "sciworld", "success": False}
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps(record) + "\n")
    assert read_samples(str(path))[0].reward == 0.5


def test_a_job_that_broke_off_ends_with_the_very_same_weights(world, tokenizer, tmp_path, monkeypatch):
    write_lines(tmp_path / "grpo.jsonl", episodes(tokenizer))
    job = grpo_job(world, tmp_path, epochs=2, batch_size=4, micro_batch_size=2, checkpoint_every_s=0, grpo={"beta": 0.01})
    code, events = run(tmp_path, job | {"output": str(tmp_path / "whole")}, "whole")
    assert code == 0, events
    terms, calls = GrpoTrainer._step_terms, iter(range(3))

    def breaks(self, sums):
        if next(calls) == 2:
            raise RuntimeError("the cable was pulled")
        return terms(self, sums)

    monkeypatch.setattr(GrpoTrainer, "_step_terms", breaks)
    assert run(tmp_path, job, "broken")[0] == 1
    monkeypatch.undo()
    code, events = run(tmp_path, job, "broken")
    assert code == 0, events
    assert events[0]["resumed_step"] == 2
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "grpo"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_adapters_are_trained_against_the_policy_without_them(world, tokenizer, tmp_path):
    write_lines(tmp_path / "grpo.jsonl", episodes(tokenizer))
    lora = {"r": 4, "alpha": 8}
    code, events = run(tmp_path, grpo_job(world, tmp_path, epochs=3, learning_rate=0.01, grpo={"beta": 0.01}, lora=lora))
    assert code == 0, events
    divergences = [event["kl"] for event in events if event["event"] == "step"]
    assert divergences[0] == pytest.approx(0, abs=1e-6)
    assert divergences[2] > divergences[1] > 1e-6
    assert (tmp_path / "grpo" / "model.safetensors").exists()
