#!.venv/bin/python
"""Full weights and a LoRA adapter, as the trainer writes them, in vLLM as they are: each answers the probe of its own manifest.

    make soak ONLY=adapter, or benchmarks/soak/adapter.py

A fresh small model and an adapter of it are trained on a few conversations; one server holds both (--enable-lora: slow on a CPU, where runs
merge adapters, but the files are those that a GPU server loads by name). It is a pytest module that takes a minute, and prints what pytest
prints.
"""

# ruff: noqa: D103 - tests are named as sentences

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from orchestrator.versions import PROBE_TOLERANCE, Checkpoint, distance, read_checkpoint

from orchestrator import places

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
START_S = 300.0


def train(folder: Path, name: str, **job: Any) -> Checkpoint:
    """Run a job of the trainer; returns its manifest."""
    file = folder / f"{name}.json"
    file.write_text(json.dumps({"data": str(folder / "talks.jsonl"), "output": str(folder / name), **job}))
    done = subprocess.run(
        [str(places.service_python("trainer")), "-m", "trainer", str(file)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    checkpoint = read_checkpoint(folder / name)
    assert checkpoint is not None
    return checkpoint


def answered(url: str, model: str, checkpoint: Checkpoint) -> list[float]:
    """The log-probabilities that a served model gives to the tokens of a manifest's probe."""
    assert checkpoint.probe is not None
    ids = checkpoint.probe.prompt_token_ids
    body = {"model": model, "prompt": ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    reply = httpx.post(f"{url}/v1/completions", json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    answers = reply.json()["choices"][0]["prompt_logprobs"]
    return [answers[i][str(token)]["logprob"] for i, token in enumerate(ids) if i > 0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Checkpoint, Checkpoint]:
    folder = tmp_path_factory.mktemp("adapter")
    talks = [[{"role": "user", "content": f"Open door {n}."}, {"role": "assistant", "content": f"Action: open door {n}"}] for n in range(8)]
    (folder / "talks.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    base = train(folder, "base", method="init", init={"vocab_size": 512, "hidden_size": 128, "layers": 2, "heads": 4})
    settings = {"learning_rate": 0.02, "batch_size": 8, "epochs": 20, "max_length": 256, "precision": "fp32"}
    lora = {"r": 8, "alpha": 16, "merge": False}
    return folder, base, train(folder, "tuned", method="sft", model=str(folder / "base"), lora=lora, **settings)


@pytest.fixture(scope="module")
def url(trained: tuple[Path, Checkpoint, Checkpoint]) -> Iterator[str]:
    from tiny_run import free_port

    folder, port = trained[0], free_port()
    command = [str(places.service_python("policy")), "-m", "policy", "serve", "--model", str(folder / "base"), "--port", str(port)]
    command += ["--kv-cache-gib", "0.25", "--max-num-seqs", "4", "--max-model-len", "256"]
    command += ["--", "--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"tuned={folder / 'tuned'}"]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        deadline = time.monotonic() + START_S
        while not healthy(f"http://127.0.0.1:{port}"):
            waiting = server.poll() is None and time.monotonic() < deadline
            assert waiting, (folder / "server.log").read_text()[-3000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(20)


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_full_weights_answer_their_probe(url: str, trained: tuple[Path, Checkpoint, Checkpoint]) -> None:
    base = trained[1]
    assert base.probe is not None
    far = distance(base.probe, answered(url, "policy", base))
    print(f"full weights: {far:.4f} nats from their manifest")
    assert far < PROBE_TOLERANCE


def test_an_adapter_answers_its_own_probe_and_not_the_bases(url: str, trained: tuple[Path, Checkpoint, Checkpoint]) -> None:
    folder, base, tuned = trained
    assert (folder / "tuned" / "adapter_config.json").exists()
    assert tuned.probe is not None
    far, from_base = distance(tuned.probe, answered(url, "tuned", tuned)), distance(tuned.probe, answered(url, "policy", base))
    print(f"adapter: {far:.4f} nats from its manifest; the weights without it are {from_base:.4f} away")
    assert far < PROBE_TOLERANCE
    assert from_base > 2 * PROBE_TOLERANCE  # so `eto run` takes neither for the other, whose bound this is


if __name__ == "__main__":
    sys.exit(pytest.main(["-q", "-s", __file__]))
