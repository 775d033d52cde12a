"""Whole jobs: exit codes, progress, checkpoints, resuming."""

import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest
import torch
from conftest import conversation, run, sft_records, write_lines
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

SFT = {"method": "sft", "batch_size": 4, "micro_batch_size": 2, "learning_rate": 2e-3, "precision": "fp32", "max_length": 512}
DPO = SFT | {"method": "dpo", "learning_rate": 2e-4}


@pytest.fixture(scope="session")
def trained(world):
    """An sft model that knows the toy data by heart."""
    job = SFT | {"model": str(world / "init"), "data": str(world / "sft.jsonl"), "output": str(world / "sft"), "epochs": 250}
    code, events = run(world, job | {"batch_size": 8, "warmup_ratio": 0.1, "learning_rate": 5e-3}, "sft")
    assert code == 0, events
    return events


def test_a_fresh_checkpoint_is_complete_and_any_text_survives_its_tokenizer(world, tokenizer):
    manifest = json.loads((world / "init" / "manifest.json").read_text())
    assert manifest["schema"] == "eto.checkpoint/1"
    assert manifest["method"] == "init"
    assert len(manifest["version"]) == 12
    for text in ("naïve 東京 \x00\t\r\n  x ", " don't  stop\n\n", "🙂" * 3):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_sft_learns_the_toy_data_by_heart(world, trained):
    steps = [event for event in trained if event["event"] == "step"]
    assert steps[0]["loss"] > 4
    assert steps[-1]["loss"] < 0.2
    model = AutoModelForCausalLM.from_pretrained(world / "sft")
    tokenizer = AutoTokenizer.from_pretrained(world / "sft")
    messages = conversation(2, "knife")
    ids = tokenizer.apply_chat_template(messages[:5], add_generation_prompt=True, return_tensors="pt")["input_ids"]
    answer = model.generate(ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(answer) == "Thought: there it is.\nAction: take knife<|im_end|>"


def test_progress_has_the_fields_of_the_format_and_is_kept_in_a_file(world, trained):
    assert [event["event"] for event in trained] == ["start", *["step"] * 250, "end"]
    assert {"method", "examples", "dropped", "tokens", "loss_tokens", "steps", "versions"} <= trained[0].keys()
    wanted = {"step", "steps", "epoch", "loss", "learning_rate", "grad_norm", "tokens_per_s", "elapsed_s"}
    assert wanted <= trained[1].keys()
    kept = [json.loads(line) for line in (world / "sft.progress.jsonl").read_text().splitlines()]
    assert kept[: len(trained)] == trained


def test_a_checkpoint_is_readable_by_everyone_and_its_probe_is_what_the_weights_say(world, trained):
    output = world / "sft"
    assert {stat.S_IMODE(path.stat().st_mode) for path in output.iterdir()} == {0o644}
    assert not (world / "sft.partial").exists()
    manifest = json.loads((output / "manifest.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(output, dtype="auto")
    assert model.dtype == torch.bfloat16
    ids = manifest["probe"]["prompt_token_ids"]
    with torch.no_grad():
        logps = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
    assert len(ids) == len(manifest["probe"]["logprobs"]) == 48
    assert manifest["probe"]["logprobs"][0] is None
    for position in range(1, 48):
        assert manifest["probe"]["logprobs"][position] == pytest.approx(logps[position - 1, ids[position]].item(), abs=1e-3)
    base = json.loads((world / "init" / "manifest.json").read_text())
    assert manifest["base_version"] == base["version"] != manifest["version"]


def test_a_job_that_is_done_ends_at_once_and_another_job_does_not_overwrite_it(world, trained):
    done = json.loads((world / "sft.json").read_text())
    code, events = run(world, done, "again")
    assert (code, [event["event"] for event in events]) == (0, ["end"])
    code, events = run(world, done | {"seed": 1}, "other")
    assert code == 2
    assert "another job" in events[-1]["message"]


def test_dpo_starts_at_log_two_and_widens_the_margin(world, trained):
    job = DPO | {"model": str(world / "sft"), "data": str(world / "dpo.jsonl"), "output": str(world / "dpo"), "epochs": 6}
    code, events = run(world, job, "dpo")
    assert code == 0, events
    steps = [event for event in events if event["event"] == "step"]
    assert steps[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert steps[0]["margin"] == pytest.approx(0, abs=1e-3)
    assert steps[-1]["margin"] > 0.5
    assert steps[-1]["accuracy"] == 1.0
    assert {"reward_chosen", "reward_rejected", "logp_chosen", "logp_rejected"} <= steps[0].keys()


def test_a_policy_that_collapses_is_stopped_and_the_weights_before_are_kept(world, trained, tmp_path):
    """A rate that is too high: the chosen side's log-probability is lost step by step, while DPO's loss is all the better."""
    job = DPO | {"model": str(world / "sft"), "data": str(world / "dpo.jsonl"), "output": str(tmp_path / "out"), "epochs": 60}
    job |= {"learning_rate": 3e-3, "warmup_ratio": 0, "loss": {"beta": 0.02}}
    code, events = run(tmp_path, job)
    assert code == 0, events
    steps = [event for event in events if event["event"] == "step"]
    assert len(steps) < 120
    assert [event["chosen_fall"] > 0.5 for event in steps][-2:] == [True, True]
    (collapse,) = [event for event in events if event["event"] == "collapse"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["metrics"]["stopped"] == collapse["message"]
    kept = collapse["kept_step"]
    assert manifest["metrics"]["steps"] == kept < collapse["step"] == steps[-1]["step"]
    assert steps[kept]["chosen_fall"] <= 0.5  # what the step after it saw
    # the weights kept are those that a job of so many steps ends with
    code, _ = run(tmp_path, job | {"output": str(tmp_path / "whole"), "max_steps": kept}, "whole")
    assert code == 0
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "whole"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_collapse_before_any_state_fails_with_a_sentence_and_zero_turns_the_watch_off(world, trained, tmp_path):
    job = DPO | {"model": str(world / "sft"), "data": str(world / "dpo.jsonl"), "output": str(tmp_path / "out"), "max_steps": 6}
    job |= {"learning_rate": 5e-2, "warmup_ratio": 0}
    code, events = run(tmp_path, job)
    assert code == 1
    assert "the policy collapsed: at step" in events[-1]["message"]
    assert "collapse_bound 0.5" in events[-1]["message"]
    assert not (tmp_path / "out").exists()
    code, events = run(tmp_path, job | {"collapse_bound": 0})
    assert code == 0, events
    assert events[-1]["final"]["steps"] == 6


@pytest.mark.parametrize(
    ("loss", "first"),
    [
        ({"type": "hinge"}, 1.0),
        ({"type": "ipo", "beta": 0.5}, 1.0),
        ({"label_smoothing": 0.2}, 0.6931),
        ({"length_normalization": True}, 0.6931),
        ({"rpo_alpha": 1.0}, None),
    ],
)
def test_every_loss_starts_where_its_formula_says_and_trains(world, trained, tmp_path, loss, first):
    job = DPO | {"model": str(world / "sft"), "data": str(world / "dpo.jsonl"), "output": str(tmp_path / "out"), "loss": loss}
    code, events = run(tmp_path, job | {"epochs": 3})
    assert code == 0, events
    steps = [event for event in events if event["event"] == "step"]
    if first is None:  # log 2 and a small likelihood term: the model knows the chosen side by heart
        assert 0.6931 < steps[0]["loss"] < 1
    else:
        assert steps[0]["loss"] == pytest.approx(first, abs=1e-3)
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert steps[-1]["margin"] > 0


def test_a_checkpoint_of_an_older_release_whose_job_lacks_new_options_is_still_this_jobs(world, trained):
    manifest = world / "sft" / "manifest.json"
    text = manifest.read_text()
    old = json.loads(text)
    old["job"]["loss"] = {"beta": 0.1}
    manifest.write_text(json.dumps(old))
    try:
        code, events = run(world, json.loads((world / "sft.json").read_text()), "older")
    finally:
        manifest.write_text(text)
    assert (code, [event["event"] for event in events]) == (0, ["end"])


def test_sharing_the_beginning_of_pairs_changes_no_step(world, trained, tmp_path):
    seen = []
    for share in (True, False):
        job = DPO | {"model": str(world / "sft"), "data": str(world / "dpo.jsonl"), "output": str(tmp_path / f"out{share}")}
        code, events = run(tmp_path, job | {"share_beginning": share, "epochs": 2})
        assert code == 0, events
        seen.append([event for event in events if event["event"] == "step"])
    for one, two in zip(*seen, strict=True):
        for name in ("loss", "logp_chosen", "logp_rejected"):
            assert one[name] == pytest.approx(two[name], abs=1e-3 if name != "loss" else 1e-4)


def test_micro_batches_do_not_change_the_step(world, tmp_path):
    """Uneven passes: 8 conversations of unlike length in passes of 8, 2 and 1."""
    records = [{"messages": r["messages"][: 2 + 2 * (i % 3)]} for i, r in enumerate(sft_records())]
    data = write_lines(tmp_path / "data.jsonl", records)
    seen = []
    for size in (8, 2, 1):
        job = SFT | {"model": str(world / "init"), "data": data, "output": str(tmp_path / f"out{size}"), "batch_size": 8}
        code, events = run(tmp_path, job | {"micro_batch_size": size, "max_steps": 1})
        assert code == 0, events
        seen.append((events[1]["loss"], events[1]["grad_norm"]))
    for loss, norm in seen[1:]:
        assert loss == pytest.approx(seen[0][0], abs=1e-4)
        assert norm == pytest.approx(seen[0][1], rel=1e-3)


def test_lora_is_merged_into_plain_weights(world, tmp_path):
    job = SFT | {"model": str(world / "init"), "data": str(world / "sft.jsonl"), "output": str(tmp_path / "lora")}
    code, events = run(tmp_path, job | {"lora": {"r": 4}, "epochs": 2})
    assert code == 0, events
    assert not (tmp_path / "lora" / "adapter_config.json").exists()
    before, after = load_file(world / "init" / "model.safetensors"), load_file(tmp_path / "lora" / "model.safetensors")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("method", "optimizer"), [("sft", "adamw"), ("sft", "muon"), ("dpo", "adamw")])
def test_a_killed_job_goes_on_and_ends_with_the_very_same_weights(world, tmp_path, method, optimizer):
    common = (SFT if method == "sft" else DPO) | {"model": str(world / "init"), "data": str(world / f"{method}.jsonl")}
    common |= {"optimizer": optimizer, "epochs": 4, "checkpoint_every_s": 0}
    code, events = run(tmp_path, common | {"output": str(tmp_path / "whole")}, "whole")
    assert code == 0, events
    path = tmp_path / "killed.json"
    path.write_text(json.dumps(common | {"output": str(tmp_path / "killed"), "epochs": 4}))
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", str(path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed.partial" / "checkpoint-3" / "complete").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed").exists()
    code, events = run(tmp_path, json.loads(path.read_text()), "killed")
    assert code == 0, events
    assert events[0]["resumed_step"] >= 3
    whole, killed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
