"""A client of an OpenAI-compatible policy server, and the swap of its weights."""

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import BaseModel

from orchestrator.http import LATER, Refused, request
from orchestrator.records import Message

#: vLLM answers 500 while it shuts down; 502 and 504 come from proxies before a server that restarts.
POLICY_LATER = LATER | {500, 502, 504}


#: vLLM 0.32's words for a prompt over the limit, and for one that fills it exactly.
OVERFLOW = ("context length", "max_tokens must be at least 1, got 0")


class ContextOverflow(RuntimeError):
    """The conversation no longer fits into the model's context."""


class SwapFailed(RuntimeError):
    """The server does not answer as the new weights must."""


class Sampling(BaseModel):
    """How a turn is sampled. `max_tokens` per turn; temperature 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    stop: list[str] = []


@dataclass(frozen=True)
class Completion:
    """A model's answer to one turn."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


class PolicyClient:
    """Chat completions of one served model. The bearer token, if any, comes from ETO_POLICY_TOKEN."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        patience_s: float = 600.0,
        turn_timeout_s: float = 300.0,
        unreachable: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        token = os.environ.get("ETO_POLICY_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
        self.model = model
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=turn_timeout_s, limits=limits)
        self._patience_s = patience_s
        self._unreachable = unreachable

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._http.aclose()

    async def _call(self, path: str, body: Any = None, later: frozenset[int] = POLICY_LATER) -> Any:
        response = await request(
            self._http,
            "POST",
            path,
            json=body,
            patience_s=self._patience_s,
            unreachable=self._unreachable,
            later=later,
        )
        return response.json() if response.content else None

    async def chat(self, messages: list[Message], sampling: Sampling, seed: int, task_id: str) -> Completion:
        """One assistant turn. Raises ContextOverflow."""
        started = time.monotonic()
        body = {
            "model": self.model,
            "messages": [m.model_dump() for m in messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": seed,
            **({"stop": sampling.stop} if sampling.stop else {}),
        }
        try:
            reply = await self._call("/v1/chat/completions", body)
        except Refused as error:
            if error.status == 400 and any(sign in error.message for sign in OVERFLOW):
                raise ContextOverflow(error.message) from error
            raise
        usage = reply.get("usage") or {}
        return Completion(
            text=reply["choices"][0]["message"]["content"] or "",
            prompt_tokens=usage.get("prompt_tokens", 0),
            completion_tokens=usage.get("completion_tokens", 0),
            seconds=time.monotonic() - started,
        )

    async def probe(self, token_ids: list[int]) -> list[float]:
        """Log-probabilities that the server's weights give to each token after its predecessors; the first has none."""
        body = {"model": self.model, "prompt": token_ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        reply = await self._call("/v1/completions", body)
        answers = reply["choices"][0]["prompt_logprobs"]
        return [answers[i][str(token)]["logprob"] for i, token in enumerate(token_ids) if i > 0]

    async def reload(self, checkpoint: Path) -> None:
        """Replace the server's weights in place. No request may be running. Raises SwapFailed if the server refuses them."""
        try:
            # a 500 is the server's refusal here, never "later"
            await self._call("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(checkpoint)}}, LATER)
        except Refused as error:
            raise SwapFailed(f"the policy server refused {checkpoint}: {error.message}") from error
        if not (await self._call("/reset_prefix_cache") or {"success": True})["success"]:
            raise SwapFailed("requests ran during the swap: the server's prefix cache still holds the old weights' work.")
