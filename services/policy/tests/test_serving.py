import signal
import time
from pathlib import Path

import pytest
from conftest import Server

PROBE = [5, 40, 41, 42, 60, 61, 62, 100, 101, 102, 7, 8]


def served_logprobs(server: Server) -> list[float]:
    status, reply = server.post(
        "/v1/completions",
        {"model": "policy", "prompt": PROBE, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0},
    )
    assert status == 200, reply
    answers = reply["choices"][0]["prompt_logprobs"]
    assert answers[0] is None
    return [answers[at][str(token)]["logprob"] for at, token in enumerate(PROBE) if at]


def expected_logprobs(directory: Path) -> list[float]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        logprobs = torch.log_softmax(model(torch.tensor([PROBE])).logits[0], dim=-1)
    return [logprobs[at - 1, token].item() for at, token in enumerate(PROBE) if at]


def mean_difference(left: list[float], right: list[float]) -> float:
    return sum(abs(a - b) for a, b in zip(left, right, strict=True)) / len(left)


@pytest.mark.slow
def test_a_server_answers_swaps_its_weights_survives_a_bad_swap_and_ends_with_sigterm(
    server: Server, tiny_llamas: tuple[Path, Path], tmp_path: Path
) -> None:
    first, second = tiny_llamas
    server.wait_until_healthy()

    status, reply = server.post("/v1/completions", {"model": "policy", "prompt": "a", "max_tokens": 1})
    assert status == 200
    assert reply["usage"]["completion_tokens"] == 1

    message = {"role": "user", "content": "open the door"}
    status, reply = server.post("/v1/chat/completions", {"model": "policy", "messages": [message], "max_tokens": 4})
    assert status == 200, reply  # although the directory has no chat template

    before = served_logprobs(server)
    assert mean_difference(before, expected_logprobs(first)) < 0.1

    swap = {"method": "reload_weights", "kwargs": {"weights_path": str(second)}}
    assert server.post("/collective_rpc", swap) == (200, {"results": [None]})
    assert server.post("/reset_prefix_cache") == (200, {"success": True})
    after = served_logprobs(server)
    assert mean_difference(after, expected_logprobs(second)) < 0.1
    assert mean_difference(after, before) > 1

    for refused, reason in ((tmp_path / "nowhere", "no such directory"), (tmp_path, "config.json is missing")):
        swap = {"method": "reload_weights", "kwargs": {"weights_path": str(refused)}}
        status, reply = server.post("/collective_rpc", swap)
        assert status == 500
        assert reason in reply["error"]["message"]
    assert served_logprobs(server) == after

    server.process.send_signal(signal.SIGTERM)
    server.process.wait(30)
    deadline = time.monotonic() + 10
    while server.group_members() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert server.group_members() == []
