"""A small world shared by the tests: toy conversations, toy pairs, a fresh model."""

import io
import json
import os
from pathlib import Path
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from templates import FAMILIES
from trainer.progress import Progress
from trainer.run import run_job_file

torch.set_num_threads(1)

THINGS = ["mug", "apple", "knife", "plate"]
SMALL = {"vocab_size": 400, "hidden_size": 64, "layers": 2, "heads": 2}


def conversation(index: int, thing: str, action: str = "go to shelf") -> list[dict]:
    return [
        {"role": "user", "content": "Act in a household. Answer with an action."},
        {"role": "assistant", "content": "OK"},
        {"role": "user", "content": f"Your task is to: find the {thing}."},
        {"role": "assistant", "content": f"Thought: where is it?\nAction: {action} {index}"},
        {"role": "user", "content": f"Observation: On the shelf {index}, you see a {thing}."},
        {"role": "assistant", "content": f"Thought: there it is.\nAction: take {thing}"},
    ]


def write_lines(path: Path, records: list[dict]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def sft_records() -> list[dict]:
    return [{"messages": conversation(index, THINGS[index % 4])} for index in range(8)]


def dpo_records() -> list[dict]:
    records = []
    for index in range(8):
        good = conversation(index, THINGS[index % 4])
        bad = conversation(index, THINGS[index % 4], "dance")
        records.append({"prompt": good[:3], "chosen": good[3:], "rejected": bad[3:4] if index % 2 else bad[3:]})
    return records


def run(folder: Path, job: dict, name: str = "job") -> tuple[int, list[dict]]:
    """Run a job in this process; return the exit code and the progress events."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    stream = io.StringIO()
    with mock.patch.dict(os.environ):  # a job has a process of its own, and may set its variables
        code = run_job_file(str(path), stream)
    return code, [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A folder with data and a fresh model in init/."""
    folder = tmp_path_factory.mktemp("world")
    write_lines(folder / "sft.jsonl", sft_records())
    write_lines(folder / "dpo.jsonl", dpo_records())
    job = {"method": "init", "data": str(folder / "sft.jsonl"), "output": str(folder / "init"), "init": SMALL}
    code, events = run(folder, job)
    assert code == 0, events
    return folder


@pytest.fixture(scope="session")
def tokenizer(world):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(world / "init")


@pytest.fixture
def model(world):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(world / "init", dtype=torch.float32).eval()


@pytest.fixture
def silent():
    return Progress(None)


@pytest.fixture(scope="session", params=FAMILIES)
def family(request):
    """A tokenizer of each template family, trained on the toy data; what the server's tokens are called is the family's own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    template, special, bos, eos, _, _ = FAMILIES[request.param]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words = trainers.BpeTrainer(vocab_size=400, special_tokens=["<pad>"], initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator((m["content"] for record in sft_records() for m in record["messages"]), words)
    extra = [token for token in special if token != bos]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=bos, eos_token=eos, pad_token=eos, additional_special_tokens=extra, chat_template=template
    )
    tokenizer.family = request.param
    return tokenizer


@pytest.fixture
def family_model(family):
    """A small model with random weights for the family's tokenizer."""
    from trainer.fresh import fresh_model
    from trainer.job import InitOptions

    return fresh_model(InitOptions(vocab_size=400, hidden_size=64, layers=2, heads=2), family, seed=1).float().eval()
