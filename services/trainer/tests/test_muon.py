"""Muon against PyTorch's own, and as a job's optimizer."""

import copy
import json

import pytest
import torch
from conftest import run
from test_jobs import SFT
from trainer.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_an_orthogonal_update_keeps_the_directions_and_evens_out_their_sizes(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = u.T @ orthogonal(matrix) @ v.T
    sizes = found.diagonal()
    assert 0.5 < sizes.min() <= sizes.max() < 1.3
    assert (found - sizes.diag()).abs().max() < 1e-4


def test_matrices_go_as_with_torchs_muon_and_the_rest_as_with_adamw(model):
    torch.manual_seed(1)
    ours, theirs = copy.deepcopy(model).float(), copy.deepcopy(model).float()
    optimizer = Muon(ours, lr=1e-2, weight_decay=0.1)
    inner = [p for name, p in theirs.named_parameters() if p.ndim == 2 and "embed" not in name]
    embeddings = [p for name, p in theirs.named_parameters() if "embed" in name]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    assert inner
    assert vectors
    references = [
        torch.optim.Muon(inner, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([{"params": embeddings}, {"params": vectors, "weight_decay": 0.0}], lr=1e-2, weight_decay=0.1),
    ]
    before = {name: p.detach().clone() for name, p in ours.named_parameters()}
    for _ in range(3):
        for mine, yours in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            yours.grad = mine.grad.clone()
        optimizer.step()
        for reference in references:
            reference.step()
    for (name, mine), yours in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        moved = (yours - before[name]).norm()
        apart = (mine - yours).norm() / moved
        assert apart < (0.05 if mine.ndim == 2 and "embed" not in name else 1e-4), name  # torch's multiplies in bfloat16


def test_a_resumed_optimizer_goes_on_with_its_momentum(model):
    torch.manual_seed(2)
    whole, again = copy.deepcopy(model).float(), copy.deepcopy(model).float()
    optimizers = [Muon(m, lr=1e-2, weight_decay=0.0) for m in (whole, again)]

    def step(optimizer, m, gradients):
        for p, g in zip(m.parameters(), gradients, strict=True):
            p.grad = g.clone()
        optimizer.step()

    first, second = ([torch.randn_like(p) for p in whole.parameters()] for _ in range(2))
    step(optimizers[0], whole, first)
    again.load_state_dict(copy.deepcopy(whole.state_dict()))
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    step(optimizers[0], whole, second)
    step(optimizers[1], again, second)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_a_job_learns_with_muon_otherwise_than_with_adamw(world, tmp_path):
    job = SFT | {"model": str(world / "init"), "data": str(world / "sft.jsonl"), "epochs": 25, "scheduler": "constant"}
    losses = {}
    for optimizer in ("adamw", "muon"):
        code, events = run(tmp_path, job | {"optimizer": optimizer, "output": str(tmp_path / optimizer)}, optimizer)
        assert code == 0, events
        losses[optimizer] = [event["loss"] for event in events if event["event"] == "step"]
    assert losses["muon"][0] == losses["adamw"][0]
    assert losses["muon"][-1] < losses["muon"][0] / 2
    assert losses["muon"][-1] != losses["adamw"][-1]


def test_where_matrices_are_not_whole_muon_is_refused(world, tmp_path, monkeypatch):
    job = SFT | {"model": str(world / "init"), "data": str(world / "sft.jsonl"), "output": str(tmp_path / "out"), "optimizer": "muon"}
    code, events = run(tmp_path, job | {"lora": {"r": 4}})
    assert code == 2
    assert "choose adamw, or leave lora out" in json.dumps(events)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    code, events = run(tmp_path, job)
    assert code == 2
    assert "without FSDP and DeepSpeed" in json.dumps(events)
