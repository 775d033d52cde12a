"""What a report says: the numbers of a run, from which the page and the terminal's table are drawn."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.statistics import Interval, PairedDifference


class Provenance(BaseModel):
    """What was run, on what, with which code. None where the run directory does not tell."""

    name: str
    run_id: str | None
    created_at: str | None
    code_version: str | None
    config_sha256: str | None
    env: str | None
    model: str | None
    splits: list[str]
    experts: int = Field(description="expert episodes")
    begun_from: str | None = Field(None, description="RUN:STAGE of another run that this one went on from")
    versions: dict[str, str] = Field(description="library versions, as the trainer reports them")


class PolicyRow(BaseModel):
    """One policy on one split. Scores are 0..1, rates are fractions; `tokens` are sums over the episodes."""

    stage: str
    policy: str
    split: str
    finished: bool
    model_version: str | None
    n: int
    tasks: int
    samples: int = Field(1, description="episodes a task")
    score: Interval
    success: Interval
    best_of: Interval | None = Field(None, description="mean over tasks of the best sample's score, where there are several")
    success_at: Interval | None = Field(None, description="share of the tasks that some sample solved, where there are several")
    successes: int
    mean_steps: float
    steps: int
    invalid_steps: int
    invalid_rate: float
    terminate_reasons: dict[str, int]
    prompt_tokens: int
    completion_tokens: int
    best_score_by_step: list[float] = Field(description="mean best score after 0, 1, 2, ... steps")


class DevRow(BaseModel):
    """A policy on the tasks that choose the best one. `checkpoint` is within the run directory, None for the base model."""

    policy: str
    split: str
    n: int
    score: Interval
    success: Interval
    best: bool
    checkpoint: str | None


class Difference(BaseModel):
    """A policy against the one evaluated before it, on the same (task, sample) of a split."""

    policy: str
    previous: str
    split: str
    paired: PairedDifference


class TypeCell(BaseModel):
    """A policy on the tasks of one type."""

    n: int
    score: float
    success_rate: float


class TypeRow(BaseModel):
    """One task type of a split; `cells` is keyed by policy."""

    split: str
    task_type: str
    cells: dict[str, TypeCell]


class PairsRow(BaseModel):
    """How the explored episodes of an iteration fared against the experts, and what became a pair."""

    stage: str
    win: int
    tie: int
    lose: int
    pairs: int
    dropped: dict[str, int]


class Curve(BaseModel):
    """A training stage's progress: `series` holds one value per entry of `steps`, None where it was not finite."""

    stage: str
    method: str
    steps: list[int]
    series: dict[str, list[float | None]]
    examples: int | None
    total_steps: int | None
    elapsed_s: float | None
    error: str | None


class Turn(BaseModel):
    """One turn of a trajectory. `output` is the whole answer, where no action could be read from it."""

    thought: str | None
    action: str | None
    output: str | None
    observation: str | None
    reward: float | None
    score: float | None
    valid: bool | None


class Side(BaseModel):
    """One of two trajectories of the same task."""

    policy: str
    score: float
    success: bool | None
    terminate_reason: str | None
    turns: list[Turn]


class Comparison(BaseModel):
    """Two trajectories side by side. `diverges_at` is the first turn (from 1) that differs, None if none does."""

    kind: Literal["evaluation", "pair"]
    where: str = Field(description="split of an evaluation, stage of a pair")
    task_id: str
    task_type: str | None
    task: str
    left: Side
    right: Side
    diverges_at: int | None


class StageRow(BaseModel):
    """A stage of the run. An unfinished one has neither time nor summary."""

    name: str
    kind: str
    finished: bool
    started_at: str | None
    duration_s: float | None
    taken_from: str | None = Field(None, description="the run that carried it out, where it was another; its time counts there")
    episodes: int
    summary: dict[str, Any]
    inputs: dict[str, str] = Field(description="path -> sha256")
    outputs: dict[str, str] = Field(description="path -> sha256")


class Totals(BaseModel):
    """Sums over the run's own work; `duration_s` over its finished stages. What was taken from another run counts there."""

    duration_s: float
    training_s: float
    episodes: int
    steps: int
    prompt_tokens: int
    completion_tokens: int


class Report(BaseModel):
    """A run in numbers. The same run directory gives the same report, byte for byte."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: Annotated[Literal["eto.report/1"], Field(alias="schema")] = "eto.report/1"
    run: Provenance
    policies: list[PolicyRow]
    dev: list[DevRow] = Field([], description="empty where no dev tasks were set")
    differences: list[Difference]
    task_types: list[TypeRow]
    curves: list[Curve]
    pairs: list[PairsRow]
    comparisons: list[Comparison]
    stages: list[StageRow]
    totals: Totals
    config: dict[str, Any]
    config_text: str
    notes: list[str] = Field(description="what was missing or unreadable in the run directory, and why the run or a stage ended early")

    def to_json(self) -> str:
        """Indented JSON; numbers that are not finite become null."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"

    @property
    def best(self) -> DevRow | None:
        """The best policy by the dev tasks, None without any."""
        return next((row for row in self.dev if row.best), None)

    def difference_for(self, row: PolicyRow) -> Difference | None:
        """The row's difference to the policy before it, if they share tasks."""
        return next((d for d in self.differences if (d.policy, d.split) == (row.policy, row.split)), None)
