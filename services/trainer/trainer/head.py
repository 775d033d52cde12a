"""Logits only where there is loss, and of the last layer only what they need.

With a vocabulary of 49k the head costs more than a small backbone, and four of five tokens of an agent's trajectory
carry no loss. A hook on the head picks the positions before it runs, so the model's own forward is used as it is
(under FSDP, DDP and adapters alike). Rows are padded on the right: under causal attention the padding cannot reach
a real token, so no attention mask is needed and attention takes its fast path.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainer.losses import target_logps

#: What is made of the logits of targets, [n, vocabulary], and the targets, [n]: something with n entries.
Score = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def head_at(head: nn.Module, keep: Tensor | tuple[Tensor, Tensor], read: Callable[[Tensor], Tensor] | None = None) -> Iterator[None]:
    """Let the head see only the positions of keep, a mask [rows, positions] or their indices; its output becomes [n, vocabulary].

    `read` makes the output of these logits, for models that do nothing more to them: what a model returns, accelerate copies to float32.
    """

    def pick(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][keep], *args[1:])

    with ExitStack() as hooks:
        hooks.callback(head.register_forward_pre_hook(pick).remove)
        if read:
            hooks.callback(head.register_forward_hook(lambda _module, _args, logits: read(logits)).remove)
        yield


@contextmanager
def only_at(module: nn.Module, keep: Tensor, positions: int) -> Iterator[None]:
    """Let a module that computes each position by itself see only those of keep, [n], of so many; elsewhere its output is zero."""

    def pick(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][:, keep], *args[1:])

    def put_back(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output.new_zeros(output.shape[0], positions, output.shape[2]).index_copy(1, keep, output)

    with ExitStack() as hooks:
        hooks.callback(module.register_forward_pre_hook(pick).remove)
        hooks.callback(module.register_forward_hook(put_back).remove)
        yield


def logps_at_targets(model: nn.Module, head: nn.Module, ids: Tensor, mask: Tensor, score: Score = target_logps) -> tuple[Tensor, Tensor]:
    """Return the log-probability (or other score) of each target and its row; ids and mask [rows, positions], padded on the right."""
    keep = mask[:, 1:]
    with head_at(head, keep):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    rows = torch.nonzero(keep)[:, 0]
    return score(logits, ids[:, 1:][keep]), rows
