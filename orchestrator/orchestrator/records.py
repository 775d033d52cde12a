"""The records that travel between stages: episodes and pairs, one JSON object per line (docs/formats.md)."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

Role = Literal["system", "user", "assistant"]


class Message(BaseModel):
    """One chat message in OpenAI's roles."""

    model_config = ConfigDict(extra="forbid")
    role: Role
    content: str


class TerminateReason(StrEnum):
    """Why an episode ended. Failures of a service are no episodes: they are retried, then reported."""

    TERMINATED = "terminated"  # the environment ended it
    STEP_LIMIT = "step_limit"
    CONTEXT_OVERFLOW = "context_overflow"
    DEADLINE = "deadline"


class Step(BaseModel):
    """One assistant turn. `reward` is a delta in score units, `score` the episode's so far (both 0..1).

    `version` names the weights that answered. `dropped_turns` of the oldest were not shown to the model any more.
    `token_ids` and `logprobs` (nats) of the generated tokens, where they were asked for and given.
    """

    action: str | None
    reward: float
    score: float
    valid: bool
    prompt_tokens: int = 0
    completion_tokens: int = 0
    policy_s: float = 0.0
    env_s: float = 0.0
    version: str | None = None
    dropped_turns: int = 0
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None

    @model_serializer(mode="wrap")
    def _without_what_was_not_recorded(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = plain(self)
        return {k: v for k, v in fields.items() if v is not None or k not in ("token_ids", "logprobs")}


class PolicyModel(BaseModel):
    """The model that answered: its served name and the version of its weights, null for experts."""

    name: str | None = None
    version: str | None = None


class Usage(BaseModel):
    """Tokens of all turns of an episode."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Episode(BaseModel):
    """A finished episode. (`task_id`, `sample`) is unique in a file.

    `retries`: requests to the policy that were sent again; `restarts`: how often it began anew because its session was lost.
    """

    schema_: Annotated[Literal["eto.episode/1"], Field(alias="schema")] = "eto.episode/1"
    env: str
    task_id: str
    task_type: str
    split: str | None = None
    sample: int = 0
    seed: int = 0
    policy: str
    model: PolicyModel = PolicyModel()
    messages: list[Message]
    prompt_messages: int = 3
    example: str | None = None
    steps: list[Step]
    reward: float
    score: float
    success: bool
    terminate_reason: TerminateReason
    usage: Usage = Usage()
    retries: int = 0
    restarts: int = 0
    started_at: str
    duration_s: float
    code_version: str

    model_config = ConfigDict(populate_by_name=True)

    @property
    def key(self) -> tuple[str, int]:
        """What makes the episode unique in its file."""
        return (self.task_id, self.sample)

    @property
    def prompt(self) -> list[Message]:
        """Instruction, acknowledgement and task."""
        return self.messages[: self.prompt_messages]

    @property
    def turns(self) -> list[Message]:
        """Everything after the prompt: assistant turns and observations."""
        return self.messages[self.prompt_messages :]


class Pair(BaseModel):
    """A preference pair. Both sides begin and end with an assistant message."""

    schema_: Annotated[Literal["eto.pair/1"], Field(alias="schema")] = "eto.pair/1"
    env: str
    task_id: str
    outcome: Literal["win", "lose"]  # the agent's, against the expert
    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    chosen_reward: float
    rejected_reward: float
    chosen_policy: str
    rejected_policy: str

    model_config = ConfigDict(populate_by_name=True)
