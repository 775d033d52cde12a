"""Small real models and a running server, shared by the tests."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest


def make_tiny_llama(directory: Path, seed: int, tied: bool = True) -> Path:
    """A random Llama of well under a million parameters with a byte-level tokenizer of its own, without chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["open the door to the kitchen"], trainer)
    ends = {"eos_token": special[1], "pad_token": special[1]}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends).save_pretrained(directory)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,  # large, so that two seeds differ far beyond bf16 noise
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    (directory / "chat_template.jinja").unlink(missing_ok=True)
    return directory


class Server:
    """`python -m policy serve` in a process group of its own."""

    def __init__(self, model: Path, log: Path, options: tuple[str, ...] = ()) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = log
        command = [sys.executable, "-m", "policy", "serve", "--model", str(model), "--port", str(self.port)]
        command += [*options, "--kv-cache-gib", "0.25", "--max-num-seqs", "8"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "ETO_"))}
        with log.open("w") as stream:
            self.process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment, start_new_session=True)

    def post(self, path: str, body: object = None) -> tuple[int, dict]:
        """The status and the JSON answer of a request."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=b"" if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method="POST",
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}")

    def wait_until_healthy(self, timeout_s: float = 300) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as reply:
                    if reply.status == 200:
                        return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(f"not healthy after {timeout_s} s: {self.log.read_text()[-3000:]}")

    def group_members(self) -> list[int]:
        """The processes of the server's group that still run."""
        members = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == self.process.pid and fields[0] != "Z":
                members.append(int(stat.parent.name))
        return members

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


@pytest.fixture(scope="session")
def tiny_llamas(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("models")
    return make_tiny_llama(root / "one", seed=1), make_tiny_llama(root / "two", seed=2)


@pytest.fixture
def server(tiny_llamas: tuple[Path, Path], tmp_path: Path) -> Iterator[Server]:
    running = Server(tiny_llamas[0], tmp_path / "server.log")
    try:
        yield running
    finally:
        running.kill()
