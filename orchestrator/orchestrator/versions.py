"""Checkpoints as versions of the policy, and the proof that a server answers with one."""

import hashlib
import json
from pathlib import Path, PurePath
from typing import Any

from pydantic import BaseModel, ConfigDict

from orchestrator.endpoints import Endpoint
from orchestrator.http import Refused
from orchestrator.jsonl import DataFileError
from orchestrator.policy_client import PolicyClient, SwapFailed, reload

#: Mean |difference| of log-probabilities between the trainer's and the server's answer that bf16 arithmetic explains.
PROBE_TOLERANCE = 0.1


class Probe(BaseModel):
    """What the weights answer to a fixed prompt; the first token has no log-probability."""

    prompt_token_ids: list[int]
    logprobs: list[float | None]


class Checkpoint(BaseModel):
    """The manifest of a checkpoint directory (docs/formats.md), as far as serving needs it."""

    model_config = ConfigDict(extra="ignore")
    version: str
    method: str
    probe: Probe | None = None
    metrics: dict[str, Any] = {}


def read_checkpoint(directory: Path) -> Checkpoint | None:
    """The manifest, or None where there is none (a hub id, a directory from elsewhere). Raises DataFileError if it is damaged."""
    file = directory / "manifest.json"
    try:
        return Checkpoint.model_validate(json.loads(file.read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise DataFileError(f"{file} is no manifest of a checkpoint ({reason}); give a complete checkpoint or remove it.") from error


def weights_version(directory: Path) -> str | None:
    """12 hex digits of the SHA-256 of a directory's safetensors in the order of their names (docs/formats.md), None without any."""
    digest, files = hashlib.sha256(), sorted(directory.glob("*.safetensors"))
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:12] if files else None


def distance(expected: Probe, answered: list[float]) -> float:
    """Mean |difference| between the expected and the answered log-probabilities, in nats."""
    wanted = [x for x in expected.logprobs[1:] if x is not None]
    return sum(abs(a - b) for a, b in zip(wanted, answered, strict=True)) / len(wanted)


async def swap(client: PolicyClient, endpoint: Endpoint, checkpoint: Path, replaced: str | None, inside: PurePath | None = None) -> float:
    """Load a checkpoint into a running server and prove it; returns the probe's distance in nats. Raises SwapFailed.

    `replaced` is the version served until now, if that is known; `inside` is where the server sees the checkpoint, if that is elsewhere.
    """
    manifest = read_checkpoint(checkpoint)
    if manifest is None or manifest.probe is None:
        raise SwapFailed(f"{checkpoint} has no manifest with a probe, so a swap could not be proved; start the server on it instead.")
    try:
        before = await client.probe(endpoint, manifest.probe.prompt_token_ids)
        await reload(endpoint, inside or checkpoint)
        after = await client.probe(endpoint, manifest.probe.prompt_token_ids)
    except Refused as error:
        raise SwapFailed(
            f"{endpoint.url} does not take weights: {error.message} Only vLLM with its development endpoints does (docs/formats.md, "
            "Policy server). A server that keeps its model can play: name it in `model` and `policy.served_name`, or use `eto rollout`."
        ) from error
    far = distance(manifest.probe, after)
    # A step of DPO moves log-probabilities by less than bf16 noise, so being close is not enough. A server's answer to the same
    # weights is the same to the last bit (services/policy/README.md), so other weights must have changed it.
    stale = before == after and replaced is not None and replaced != manifest.version
    if far > PROBE_TOLERANCE or stale:
        raise SwapFailed(
            f"after the swap to {checkpoint} (version {manifest.version}) the server's probe is {far:.4f} nats from the "
            f"checkpoint's (allowed {PROBE_TOLERANCE}){', and unchanged' if stale else ''}. Restart the policy server on it."
        )
    return far
