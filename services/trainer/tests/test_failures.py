"""Jobs that break under way: a sentence, the last good state, and going on from it."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import run
from safetensors.torch import load_file
from trainer.failures import failure_sentence
from trainer.job import Job
from transformers import AutoModelForCausalLM

ACCELERATE = Path(__file__).parents[1] / "accelerate"
SFT = {"method": "sft", "batch_size": 4, "micro_batch_size": 2, "learning_rate": 2e-3, "precision": "fp32", "max_length": 512}


def sft_job(world, tmp_path, **options):
    return SFT | {"model": str(world / "init"), "data": str(world / "sft.jsonl"), "output": str(tmp_path / "out")} | options


def test_a_loss_that_is_no_number_ends_the_job_and_names_the_last_good_state(world, tmp_path):
    job = sft_job(world, tmp_path, learning_rate=1e30, epochs=20, checkpoint_every_s=0, scheduler="linear", warmup_ratio=0.5)
    code, events = run(tmp_path, job)
    assert code == 1
    message = events[-1]["message"]
    assert "lower the learning rate" in message
    assert not (tmp_path / "out").exists()
    if "The last good state" in message:  # it is whole, finite and loadable
        state = next(Path(word.rstrip(":")) for word in message.split() if "checkpoint-" in word)
        model = AutoModelForCausalLM.from_pretrained(state)
        assert all(torch.isfinite(weights).all() for weights in model.parameters())
    else:
        assert len([event for event in events if event["event"] == "step"]) <= 1


def test_memory_that_cannot_be_had_gives_a_sentence_that_says_what_to_lower(world, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    sentence = failure_sentence(caught.value, Job.model_validate(sft_job(world, tmp_path)))
    assert sentence is not None
    assert sentence.startswith("out of memory in a pass of at most 2 examples")
    assert "begins anew" in sentence


def test_a_fault_of_our_own_keeps_its_traceback(world, tmp_path):
    assert failure_sentence(ZeroDivisionError("division by zero"), Job.model_validate(sft_job(world, tmp_path))) is None


def trainer(path, limit=None, launcher=()):
    """Run a job file in a process of its own; no file may grow over limit bytes."""
    before = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None
    command = [sys.executable, *launcher, "-m", "trainer", str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=before, env=environment, timeout=900)
    return done, [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_a_write_that_fails_leaves_the_states_before_and_the_job_goes_on_from_them(world, tmp_path):
    """A file's size is limited, as on a full disk: the weights of a state fit in, the optimiser's (twice as large) do not."""
    size = (world / "init" / "model.safetensors").stat().st_size  # bfloat16; a state's weights are float32
    job = tmp_path / "job.json"
    job.write_text(json.dumps(sft_job(world, tmp_path, epochs=3, checkpoint_every_s=0)))
    done, events = trainer(job, limit=3 * size)
    assert done.returncode == 1, done.stderr
    assert "could not be written" in events[-1]["message"]
    assert not (tmp_path / "out").exists()
    code, events = run(tmp_path, json.loads(job.read_text()))
    assert code == 0, events
    whole = sft_job(world, tmp_path, epochs=3) | {"output": str(tmp_path / "whole")}
    assert run(tmp_path, whole, "whole")[0] == 0
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "whole"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_two_processes_under_accelerate_take_the_steps_of_one(world, tmp_path, method):
    job = sft_job(world, tmp_path, method=method, data=str(world / f"{method}.jsonl"), epochs=2, learning_rate=1e-3)
    code, alone = run(tmp_path, job)
    assert code == 0, alone
    path = tmp_path / "two.json"
    path.write_text(json.dumps(job | {"output": str(tmp_path / "two")}))
    launcher = ("-m", "accelerate.commands.launch", "--config_file", str(ACCELERATE / "cpu-2.yaml"))
    done, together = trainer(path, launcher=launcher)
    assert done.returncode == 0, done.stderr
    one, two = ([e for e in events if e["event"] == "step"] for events in (alone, together))
    assert len(one) == len(two) == 4
    for mine, ours in zip(one, two, strict=True):
        assert ours["loss"] == pytest.approx(mine["loss"], abs=1e-4)
        assert ours["grad_norm"] == pytest.approx(mine["grad_norm"], rel=1e-2)
    assert together[-1]["final"]["tokens"] == alone[-1]["final"]["tokens"]


def test_a_tracker_that_is_not_installed_is_refused_before_anything_starts(world, tmp_path):
    code, events = run(tmp_path, sft_job(world, tmp_path, report_to=["trackio"]))
    assert code == 2
    assert "trackio, not installed here" in events[-1]["message"]


def test_a_job_logs_its_steps_to_tensorboard_where_it_is_told_to(world, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    code, events = run(tmp_path, sft_job(world, tmp_path, report_to=["tensorboard"]))
    assert code == 0, events
    logged = EventAccumulator(events[-1]["output"] + ".tensorboard")
    logged.Reload()
    losses = [event["loss"] for event in events if event["event"] == "step"]
    assert [point.value for point in logged.Scalars("train/loss")] == pytest.approx(losses)
