"""A client of the servers of one policy: chat completions, and the swap of their weights."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import BaseModel

from orchestrator.chat_template import ChatTemplate
from orchestrator.endpoints import Conversation, Endpoint, Endpoints
from orchestrator.http import LATER, Refused
from orchestrator.records import Message

#: Words for a prompt over the limit (vLLM 0.32, SGLang), for one that fills it exactly (vLLM), and in OpenAI's and llama.cpp's codes.
OVERFLOW = ("context length", "max_tokens must be at least 1, got 0", "context_length_exceeded", "exceed_context_size")


class ContextOverflow(RuntimeError):
    """The conversation no longer fits into the model's context."""


class SwapFailed(RuntimeError):
    """The server does not answer as the new weights must."""


class Sampling(BaseModel):
    """How a turn is sampled. `max_tokens` per turn; temperature 0 is greedy. `record`: what is asked of each generated token."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    stop: list[str] = []
    record: Literal["logprobs", "ids"] | None = None


@dataclass(frozen=True)
class Completion:
    """A model's answer to one turn. `version` of the weights that gave it, where it is known; log-probabilities in nats."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    version: str | None = None
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None


class PolicyClient:
    """Chat completions of one model, served at one or several URLs; with a `template` plain completions. Bearer keys: `endpoints.keys`."""

    def __init__(
        self,
        urls: str | Sequence[str],
        model: str,
        *,
        patience_s: float = 600.0,
        turn_timeout_s: float = 300.0,
        unreachable: Callable[[], Awaitable[None]] | None = None,
        template: ChatTemplate | None = None,
    ) -> None:
        self.model = model
        self.template = template
        urls = [urls] if isinstance(urls, str) else urls
        self.endpoints = Endpoints(urls, patience_s=patience_s, timeout_s=turn_timeout_s, unreachable=unreachable)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.endpoints.close()

    async def chat(self, messages: list[Message], sampling: Sampling, seed: int, conversation: Conversation) -> Completion:
        """One assistant turn. Raises ContextOverflow, Refused, Unavailable, Unanswerable."""
        started = time.monotonic()
        body = {
            "model": self.model,
            **({"messages": [m.model_dump() for m in messages]} if self.template is None else {"prompt": self.template.render(messages)}),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": seed,
            **({"stop": sampling.stop} if sampling.stop else {}),
            # of the generated token alone; completions count those beside it
            **({"logprobs": True if self.template is None else 0} if sampling.record is not None else {}),
            **({"return_token_ids": True} if sampling.record == "ids" else {}),  # vLLM's own
        }
        try:
            path, read = ("/v1/chat/completions", _read) if self.template is None else ("/v1/completions", _read_plain)
            answer = await self.endpoints.ask(path, body, read, conversation)
        except Refused as error:
            if error.status == 400 and any(sign in f"{error.code} {error.message}" for sign in OVERFLOW):
                raise ContextOverflow(error.message) from error
            raise
        return Completion(**answer.content, seconds=time.monotonic() - started, version=answer.version)

    async def probe(self, endpoint: Endpoint, token_ids: list[int]) -> list[float]:
        """Log-probabilities that a server's weights give to each token after its predecessors; the first has none."""
        body = {"model": self.model, "prompt": token_ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        reply = await endpoint.call("/v1/completions", body)
        answers = reply["choices"][0]["prompt_logprobs"]
        return [answers[i][str(token)]["logprob"] for i, token in enumerate(token_ids) if i > 0]


async def reload(endpoint: Endpoint, checkpoint: PurePath) -> None:
    """Replace a server's weights in place. No request may be running. Raises SwapFailed if the server refuses them."""
    try:
        # a 500 is the server's refusal here, never "later"
        await endpoint.call("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(checkpoint)}}, LATER)
    except Refused as error:
        raise SwapFailed(f"the policy server refused {checkpoint}: {error.message}") from error
    if not (await endpoint.call("/reset_prefix_cache") or {"success": True})["success"]:
        raise SwapFailed("requests ran during the swap: the server's prefix cache still holds the old weights' work.")


def _read_plain(reply: Any) -> dict[str, Any]:
    """The same of a plain completion."""
    choice, usage = reply["choices"][0], reply.get("usage") or {}
    return {
        "text": choice["text"] or "",
        "prompt_tokens": usage.get("prompt_tokens", 0),
        "completion_tokens": usage.get("completion_tokens", 0),
        "token_ids": choice.get("token_ids"),
        "logprobs": (choice.get("logprobs") or {}).get("token_logprobs"),
    }


def _read(reply: Any) -> dict[str, Any]:
    """The fields of a completion. Raises KeyError, TypeError or IndexError if it is none."""
    choice, usage = reply["choices"][0], reply.get("usage") or {}
    logprobs = (choice.get("logprobs") or {}).get("content")
    return {
        "text": choice["message"]["content"] or "",
        "prompt_tokens": usage.get("prompt_tokens", 0),
        "completion_tokens": usage.get("completion_tokens", 0),
        "token_ids": choice.get("token_ids"),
        "logprobs": [token["logprob"] for token in logprobs] if logprobs is not None else None,
    }
