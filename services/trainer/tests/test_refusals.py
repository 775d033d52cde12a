"""Jobs that cannot be run: exit code 2, one clear sentence, nothing started."""

import json
import subprocess
import sys
import time

import pytest
from conftest import conversation, run, write_lines
from pydantic import ValidationError
from trainer.batches import batch_order, fit_micro_batch
from trainer.job import Job

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}


def refused(folder, job) -> str:
    code, events = run(folder, job)
    assert code == 2
    assert [event["event"] for event in events] == ["error"]
    assert not any(folder.glob("out*/"))
    return events[0]["message"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{not json", "data.jsonl:2: not a JSON object"),
        ("[]", "data.jsonl:2: not a JSON object but list"),
        (json.dumps({"messages": []}), "data.jsonl:2: messages must be a list"),
        (json.dumps({"messages": [{"role": "robot", "content": ""}]}), "data.jsonl:2: messages[0] needs a role"),
        (json.dumps({"messages": [USER, {"role": "assistant", "content": None}]}), "messages[1] needs a content"),
        (json.dumps({"messages": [USER, ANSWER | {"weight": 0}]}), "data.jsonl:2: no assistant message to train on"),
        (json.dumps({"messages": [USER]}), "data.jsonl:2: no assistant message to train on"),
        (json.dumps({"messages": [USER, ANSWER | {"weight": 0.5}]}), "only 0 and 1 are known"),
    ],
)
def test_a_bad_line_is_named(world, tmp_path, line, says):
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"messages": [USER, ANSWER]}) + "\n" + line + "\n")
    job = {"method": "sft", "model": str(world / "init"), "data": str(data), "output": str(tmp_path / "out")}
    assert says in refused(tmp_path, job)


def test_a_pair_that_ends_on_an_observation_is_named(world, tmp_path):
    data = write_lines(tmp_path / "d.jsonl", [{"prompt": [USER], "chosen": [ANSWER, USER], "rejected": [ANSWER]}])
    job = {"method": "dpo", "model": str(world / "init"), "data": data, "output": str(tmp_path / "out")}
    assert "d.jsonl:1: chosen must start and end with an assistant message" in refused(tmp_path, job)


def test_empty_data_and_missing_files_are_refused(world, tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    job = {"method": "sft", "model": str(world / "init"), "data": str(tmp_path / "empty.jsonl"), "output": str(tmp_path / "out")}
    assert "holds no examples" in refused(tmp_path, job)
    assert "cannot be read" in refused(tmp_path, job | {"data": str(tmp_path / "none.jsonl")})
    data = write_lines(tmp_path / "d.jsonl", [{"messages": [USER, ANSWER]}])
    assert "cannot be loaded" in refused(tmp_path, job | {"data": data, "model": str(tmp_path / "nowhere")})


def test_data_of_which_nothing_fits_is_refused_and_says_how_much(world, tmp_path):
    data = write_lines(tmp_path / "d.jsonl", [{"messages": conversation(1, "mug")}])
    job = {"method": "sft", "model": str(world / "init"), "data": data, "output": str(tmp_path / "out"), "max_length": 8}
    assert "'prompt_longer_than_max_length': 1" in refused(tmp_path, job)


def test_a_prompt_longer_than_max_length_is_counted(world, tmp_path):
    long = [{"role": "user", "content": "word " * 300}, ANSWER]
    data = write_lines(tmp_path / "d.jsonl", [{"messages": long}, {"messages": [USER, ANSWER]}])
    job = {"method": "sft", "model": str(world / "init"), "data": data, "output": str(tmp_path / "out"), "max_length": 64}
    code, events = run(tmp_path, job | {"epochs": 1, "precision": "fp32"})
    assert code == 0, events
    assert events[0]["dropped"] == {"prompt_longer_than_max_length": 1}
    assert events[0]["examples"] == 1


def test_an_output_that_is_something_else_is_not_touched(world, tmp_path):
    data = write_lines(tmp_path / "d.jsonl", [{"messages": [USER, ANSWER]}])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    job = {"method": "sft", "model": str(world / "init"), "data": data, "output": str(tmp_path / "mine")}
    assert "no finished checkpoint" in refused(tmp_path, job)
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 3},
        {"method": "ppo"},
        {"batch_size": 0},
        {"lora": {"rank": 3}},
        {"model": None},
        {"init": {"heads": 7}},
        {"loss": {"type": "ppo"}},
        {"loss": {"type": "ipo", "label_smoothing": 0.1}},
    ],
)
def test_a_wrong_option_is_refused(tmp_path, change):
    job = {"method": "sft", "model": "m", "data": "d", "output": str(tmp_path / "out")} | change
    with pytest.raises(ValidationError):
        Job.model_validate(job)
    refused(tmp_path, job)


def test_defaults_are_etos_for_the_method():
    sft = Job(method="sft", model="m", data="d", output="o")
    dpo = Job(method="dpo", model="m", data="d", output="o")
    assert (sft.learning_rate, sft.batch_size, sft.warmup_ratio, sft.scheduler) == (2e-5, 64, 0.03, "cosine")
    assert (dpo.learning_rate, dpo.batch_size, dpo.warmup_ratio, dpo.scheduler) == (1e-6, 32, 0.1, "constant")
    loss = {"type": "sigmoid", "beta": 0.1, "label_smoothing": 0, "length_normalization": False, "rpo_alpha": 0}
    assert dpo.loss.model_dump() == loss
    assert (sft.epochs, dpo.epochs, dpo.loss.beta, sft.max_length) == (3, 3, 0.1, 4096)


def test_every_option_is_described():
    schema = Job.model_json_schema()
    for section in (schema, *schema["$defs"].values()):
        assert all("description" in option for option in section["properties"].values())


def test_help_is_instant_and_a_bad_job_gives_code_two(tmp_path):
    started = time.process_time()
    text = subprocess.run([sys.executable, "-m", "trainer", "--help"], capture_output=True, text=True, check=True).stdout
    assert "JOB.json" in text
    assert time.process_time() - started < 0.5
    (tmp_path / "job.json").write_text("{}")
    result = subprocess.run([sys.executable, "-m", "trainer", str(tmp_path / "job.json")], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert json.loads(result.stdout)["event"] == "error"


def test_an_epoch_has_every_example_once_and_sorts_within_a_step_only():
    lengths = [(7 * index) % 23 for index in range(50)]
    order = batch_order(lengths, 8, seed=3, epoch=1)
    assert sorted(order) == list(range(50))
    for start in range(0, 50, 8):
        step = [lengths[index] for index in order[start : start + 8]]
        assert step == sorted(step)
    assert order != batch_order(lengths, 8, seed=3, epoch=2)


def test_a_pass_never_holds_more_than_asked_and_divides_the_batch():
    assert fit_micro_batch(64, 8, 1) == 8
    assert fit_micro_batch(20, 8, 1) == 5
    assert fit_micro_batch(32, 8, 8) == 4
    assert fit_micro_batch(7, 4, 1) == 1
