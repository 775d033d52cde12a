"""Muon: updates of the layers' matrices are made orthogonal, so that no direction of a matrix is left behind (optimizer: muon).

From Keller Jordan's description (kellerjordan.github.io/posts/muon), scaled to the size of AdamW's updates as in Moonlight (arXiv
2502.16982), so that both take one learning rate. torch.optim.Muon (2.13) multiplies in bfloat16, which a CPU without AVX-512
emulates: the study's model took more than 8 s a step there instead of 1.4.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

#: Coefficients of the Newton-Schulz iteration, and how often it is done (Jordan's).
A, B, C = 3.4445, -4.7750, 2.0315
ROUNDS = 5
MOMENTUM = 0.95
#: The root mean square of AdamW's updates (Moonlight, section 2.2).
ADAMW_RMS = 0.2


class Muon(torch.optim.AdamW):
    """Muon for the matrices of a model's layers, AdamW for all else (embeddings, head, norms, biases)."""

    def __init__(self, model: PreTrainedModel, lr: float, weight_decay: float) -> None:
        ends = (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore[no-untyped-call]
        outer = {id(p) for end in ends for p in end.parameters()}
        matrices: list[Tensor] = []
        embeddings: list[Tensor] = []
        vectors: list[Tensor] = []
        for p in model.parameters():
            if p.requires_grad:
                (vectors if p.ndim != 2 else embeddings if id(p) in outer else matrices).append(p)
        groups = [
            {"params": matrices, "orthogonal": True},
            {"params": embeddings, "orthogonal": False},
            {"params": vectors, "orthogonal": False, "weight_decay": 0.0},
        ]
        super().__init__(groups, lr=lr, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update all weights."""
        groups = self.param_groups
        try:
            self.param_groups = [g for g in groups if not g["orthogonal"]]
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["orthogonal"]:
                self._step_matrices(group["params"], group["lr"], group["weight_decay"])
        return loss

    def _step_matrices(self, matrices: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        for matrix in matrices:
            if matrix.grad is None:
                continue
            state = self.state[matrix]
            if not state:
                state.update(step=torch.zeros(()), momentum=torch.zeros_like(matrix))  # AdamW looks for a step when it loads states
            momentum = state["momentum"]
            momentum.lerp_(matrix.grad, 1 - MOMENTUM)
            update = orthogonal(matrix.grad.lerp(momentum, MOMENTUM))
            matrix.mul_(1 - lr * weight_decay)
            matrix.add_(update, alpha=-lr * ADAMW_RMS * max(matrix.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix with its singular values brought near 1 (within 0.5 to 1.3), in its own precision."""
    wide = matrix.T if matrix.size(0) > matrix.size(1) else matrix
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(ROUNDS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=B, alpha=C), wide, beta=A)
    return wide.T if matrix.size(0) > matrix.size(1) else wide
