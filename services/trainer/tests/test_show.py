"""python -m trainer --show: what training would see of a file."""

import io
import json
import subprocess
import sys

import pytest
from conftest import dpo_records, sft_records, write_lines
from trainer.show import LOSS, PLAIN, show


def shown(path, world, max_length=4096, examples=1, colour=False):
    out = io.StringIO()
    show(path, str(world / "init"), max_length, examples, out, colour)
    head, _, rest = out.getvalue().partition("\n")
    return json.loads(head), rest


def test_the_words_that_carry_loss_are_marked_and_nothing_else(world, tmp_path):
    counts, text = shown(write_lines(tmp_path / "d.jsonl", sft_records()), world)
    assert counts["examples"] == 8
    assert counts["length"]["max"] < 4096
    assert "[[OK<|im_end|>]]\n<|im_start|>user\nYour task is to: find the mug.<|im_end|>" in text
    assert text.count("[[") == 3


def test_colour_is_put_around_the_same_words(world, tmp_path):
    path = write_lines(tmp_path / "d.jsonl", sft_records())
    assert shown(path, world, colour=True)[1] == shown(path, world)[1].replace("[[", LOSS).replace("]]", PLAIN)


def test_pairs_are_shown_side_by_side_and_what_is_too_long_is_counted(world, tmp_path):
    path = write_lines(tmp_path / "d.jsonl", dpo_records())
    counts, text = shown(path, world)
    assert "example 0 chosen" in text
    assert "example 0 rejected" in text
    assert "[[OK" not in text  # the prompt's own answer is not trained
    short, _ = shown(path, world, max_length=counts["length"]["min"] - 1)
    assert short["truncated"] + sum(short["dropped"].values()) == 8


@pytest.mark.parametrize("model", ["init", "no-model"])  # what is wrong with the file is said before a model is looked for
def test_a_file_that_is_none_ends_with_a_sentence_and_code_two(world, tmp_path, model):
    command = [sys.executable, "-m", "trainer", "--show", str(tmp_path / "none.jsonl"), "--model", str(world / model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "none.jsonl" in done.stderr
    assert "Traceback" not in done.stderr
