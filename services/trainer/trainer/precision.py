"""Which arithmetic to use where the job leaves it open."""

import time
from typing import Literal

import torch

SIZE = 768
ROUNDS = 5


def choose_precision(wanted: str) -> Literal["bf16", "fp32"]:
    """Return the job's choice; for auto bf16 on a GPU that has it, and on a CPU the faster of both."""
    if wanted != "auto":
        return "fp32" if wanted == "fp32" else "bf16"
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if _matmul_s(torch.bfloat16) < 0.8 * _matmul_s(torch.float32) else "fp32"


def _matmul_s(dtype: torch.dtype) -> float:
    """Return the best time of a product of two matrices, with the cast of one weight that autocast makes."""
    weight, rows = torch.randn(SIZE, SIZE), torch.randn(4 * SIZE, SIZE).to(dtype)
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        torch.mm(rows, weight.to(dtype))
        times.append(time.perf_counter() - started)
    return min(times[1:])
