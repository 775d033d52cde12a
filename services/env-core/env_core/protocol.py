"""The wire protocol: what requests and replies hold. Unknown fields are refused."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

API_VERSION = "1.0.0"  # of this protocol; OpenEnv's validator takes its profile from the first part
MAX_BODY_BYTES = 1024 * 1024
MAX_ACTION_CHARS = 8192
MAX_STEPS = 1000
MAX_BATCH = 256

Name = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Action = Annotated[str, StringConstraints(max_length=MAX_ACTION_CHARS, pattern=r"\S")]
Include = Literal["valid_actions"]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ResetRequest(_Closed):
    """Begin an episode: `task_id`, or `split` and `index`. Once for each `request_id`."""

    task_id: Name | None = None
    split: Name | None = None
    index: int | None = None
    seed: int = Field(default=0, ge=0, lt=2**63)
    episode_id: Name | None = None
    session_id: Name | None = None
    request_id: Name | None = None
    max_steps: int | None = Field(default=None, ge=1, le=MAX_STEPS)
    include: list[Include] = Field(default=[], max_length=8)


class ActionObject(_Closed):
    """An action as an object."""

    action: Action


class StepRequest(_Closed):
    """Take one action."""

    session_id: Name
    action: ActionObject | Action
    request_id: Name | None = None
    timeout_s: float | None = Field(default=None, gt=0, le=600, allow_inf_nan=False)
    include: list[Include] = Field(default=[], max_length=8)


class ForkRequest(_Closed):
    """Open a new session in the same state."""

    episode_id: Name | None = None


class BatchStepRequest(_Closed):
    """Many steps at once, each in a session of its own."""

    steps: list[StepRequest] = Field(min_length=1, max_length=MAX_BATCH)


class BatchResetRequest(_Closed):
    """Many resets at once."""

    resets: list[ResetRequest] = Field(min_length=1, max_length=MAX_BATCH)


class SplitRequest(_Closed):
    """Names a split."""

    split: Name


class TaskRequest(SplitRequest):
    """Names a task by its place in a split."""

    index: int


class TaskRangeRequest(SplitRequest):
    """Names tasks by their places in a split: from `start` up to, not including, `stop`."""

    start: int | None = Field(default=None, ge=0)
    stop: int | None = Field(default=None, ge=0)


class Observation(_Closed):
    """What the agent sees."""

    text: str


class Metadata(_Closed):
    """Where the episode stands. `score` is absolute, in 0..1."""

    session_id: str
    episode_id: str | None
    task_id: str
    seed: int
    step: int
    max_steps: int
    score: float
    success: bool
    terminated: bool
    truncated: bool
    info: dict[str, Any]
    valid_actions: list[str] | None = None


class Reply(_Closed):
    """The answer to reset and step. `reward` is the change of the score."""

    observation: Observation
    reward: float
    done: bool
    metadata: Metadata


class BatchResult(_Closed):
    """One item's answer: a reply where `status` is 200, else an error."""

    status: int
    reply: Reply | None = None
    error: dict[str, str] | None = None


class BatchReply(_Closed):
    """The answers, in the order of the items."""

    results: list[BatchResult]


class State(_Closed):
    """The answer to /state."""

    session_id: str
    episode_id: str | None
    task_id: str
    seed: int
    step_count: int
    max_steps: int
    score: float
    success: bool
    terminated: bool
    truncated: bool
    done: bool
