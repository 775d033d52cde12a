#!.venv/bin/python
"""The other methods end to end with real parts, and a run that stops because its training was made to break the policy.

    make soak ONLY=methods, or benchmarks/soak/methods.py

The first run makes the model and clones the experts; the others start from that checkpoint, on services that it left running.
It is a pytest module that takes some minutes, and prints what pytest prints.
"""

# ruff: noqa: D103 - tests are named as sentences

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from orchestrator.records import Episode, Pair

from orchestrator import jsonl, process

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
#: Several samples of a warm policy: some differ in reward, so that there are pairs.
SAMPLES = {"samples": 4, "temperature": 1.0}
#: The smallest run's model never solves a task, whatever is sampled. This one knows its eight experts by heart (SFT's loss ends below
#: 0.1) and has room for whole turns, so that it solves some training tasks.
CAPABLE: dict[str, dict[str, Any]] = {
    "model": {"vocab_size": 1024, "hidden_size": 128, "layers": 2, "heads": 4},
    "policy": {"max_model_len": 2048},
    "rollout": {"max_tokens": 64},
    "sft": {"epochs": 40, "learning_rate": 3e-3, "max_length": 2048},
    "dpo": {"max_length": 2048},
}

#: Nats a token by which trainer (float32) and server (bfloat16) may differ on the same weights; other tokens, or another prompt, differ
#: by more.
LARGEST_GAP = 0.05


class Place:
    """Runs on the same services: each a file of settings, over those of the smallest run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        from tiny_run import Run

        smallest: dict[str, Any] = yaml.safe_load(Run(folder).config.read_text())
        self.settings = smallest | {name: {**smallest[name], **over} for name, over in CAPABLE.items()}

    def run(self, name: str, **settings: Any) -> tuple[Path, str]:
        """Carry a run out; returns its stages' folder and what it printed."""
        dpo = {**self.settings["dpo"], **settings.pop("dpo", {})}
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**self.settings, "name": name, "dpo": dpo, **settings}))
        command = [str(Path(sys.executable).with_name("eto")), "run", str(file), "--runs", str(self.folder / "runs"), "--keep-services"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return self.folder / "runs" / name / "stages", done.stdout


def summary(stages: Path, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((stages / stage / "done.json").read_text())["summary"]
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("methods")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ETO_STATE", str(folder / "state"))
        yield Place(folder)
        for running in process.find_all():
            process.stop(running)


@pytest.fixture(scope="module")
def step(place: Place) -> Path:
    return place.run("step", method="step")[0]


def test_step_wise_contrast_begins_where_the_sides_part_and_goes_through_the_loop(step: Path) -> None:
    pairs = list(jsonl.read(step / "pairs-1" / "pairs.jsonl", Pair))
    assert pairs
    for pair in pairs:
        assert len(pair.prompt) % 2 == 1
        assert pair.chosen[0].content != pair.rejected[0].content
    assert summary(step, "dpo-1")["version"] != summary(step, "sft")["version"]
    assert summary(step, "evaluate-step-1")["episodes"] == 6
    assert "stopped" not in summary(step, "check-1")


def test_self_play_learns_from_its_own_samples_without_an_expert(place: Place, step: Path) -> None:
    model = str(step / "sft" / "checkpoint")
    stages, _ = place.run("self-play", method="self-play", model=model, explore=SAMPLES)
    assert not (stages / "experts").exists()
    assert summary(stages, "explore-1")["episodes"] == 32
    pairs = list(jsonl.read(stages / "pairs-1" / "pairs.jsonl", Pair))
    assert pairs
    assert all(pair.chosen_policy == pair.rejected_policy == "base" for pair in pairs)
    assert all(pair.chosen_reward > pair.rejected_reward for pair in pairs)
    assert summary(stages, "dpo-1")["version"] != summary(step, "sft")["version"]
    assert summary(stages, "evaluate-self-play-1")["episodes"] == 6


def test_grpo_learns_from_the_tokens_that_were_drawn_and_explores_anew(place: Place, step: Path) -> None:
    """Its SFT is short and of a mixture, and its jobs log to TensorBoard: both need a whole run."""
    chats = place.folder / "chats.jsonl"
    talk = [{"role": "user", "content": "Say hello."}, {"role": "assistant", "content": "Hello."}]
    chats.write_text("\n".join(json.dumps({"messages": talk}) for _ in range(9)))
    mixture = [{"source": "experts", "weight": 4}, {"file": str(chats), "weight": 1}]
    sft = {**place.settings["sft"], "epochs": 1, "learning_rate": 1e-5, "data": mixture}
    grpo = {"learning_rate": 1e-4, "batch_size": 16, "micro_batch_size": 4, "max_length": 2048, "precision": "fp32", "beta": 0.02}
    settings = {"model": str(step / "sft" / "checkpoint"), "explore": SAMPLES, "sft": sft, "grpo": grpo, "iterations": 2}
    stages, _ = place.run("grpo", method="grpo", trainer={"report_to": ["tensorboard"]}, **settings)
    sources = [json.loads(line)["source"] for line in (stages / "sft" / "data.jsonl").read_text().splitlines()]
    assert sources == ["experts"] * 8 + [str(chats)] * 2
    for iteration in (1, 2):
        explored = list(jsonl.read(stages / f"explore-{iteration}" / "episodes.jsonl", Episode))
        turns = [turn for episode in explored for turn in episode.steps]
        assert len(explored) == 32
        assert {episode.sample for episode in explored} == set(range(4 * (iteration - 1), 4 * iteration))
        assert all(turn.token_ids and turn.logprobs and len(turn.token_ids) == len(turn.logprobs) for turn in turns)
        found = summary(stages, f"grpo-{iteration}")
        assert found["mixed"] > 0
        events = [json.loads(line) for line in (stages / f"grpo-{iteration}" / "checkpoint.progress.jsonl").read_text().splitlines()]
        first = next(event for event in events if event["event"] == "step")
        assert first["gap"] < LARGEST_GAP, "what was trained is not what was played"
        assert list((stages / f"grpo-{iteration}" / "checkpoint.tensorboard").glob("events.*"))
        print(f"grpo-{iteration}: {found['mixed']} of 8 tasks mixed, {len(turns)} turns, first step {first}")
    assert summary(stages, "grpo-2")["version"] != summary(stages, "grpo-1")["version"] != summary(stages, "sft")["version"]
    assert summary(stages, "evaluate-grpo-2")["episodes"] == 6


def test_a_run_whose_policy_was_broken_by_training_ends_before_it_is_evaluated_and_names_the_good_one(place: Place, step: Path) -> None:
    """A learning rate far too high, with the trainer's own watch off: what is left says nothing the environment understands."""
    model = str(step / "sft" / "checkpoint")
    settings = {"method": "self-play", "model": model, "explore": SAMPLES, "collapse": {"tasks": 4, "invalid_rise": 0.2}, "iterations": 2}
    stages, said = place.run("broken", dpo={"learning_rate": 0.05, "collapse_bound": 0, "epochs": 3}, **settings)
    found = summary(stages, "check-1")
    assert found["invalid"] - found["invalid_before"] > 0.2
    assert found["good"] == model
    assert "self-play-1 has collapsed: invalid turns rose from" in said
    assert f"the last good checkpoint is {model}" in said
    assert not (stages / "evaluate-self-play-1").exists()
    assert not (stages / "explore-2").exists()
    again = place.run("broken", dpo={"learning_rate": 0.05, "collapse_bound": 0, "epochs": 3}, **settings)[1]
    assert "has collapsed" in again
    assert not (stages / "evaluate-self-play-1").exists()


def test_a_collapse_that_the_trainer_sees_ends_the_run_with_its_sentence(place: Place, step: Path) -> None:
    model = str(step / "sft" / "checkpoint")
    with pytest.raises(AssertionError, match="the policy collapsed: at step"):
        place.run("seen", method="self-play", model=model, explore=SAMPLES, dpo={"learning_rate": 0.05, "epochs": 5})


if __name__ == "__main__":
    sys.exit(pytest.main(["-q", "-s", __file__]))
