"""A run's configuration: every setting, its default, its bounds and what it does."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from orchestrator.config_section import Section
from orchestrator.config_services import EnvSection, PolicySection
from orchestrator.config_training import CollapseSection, GrpoSection, JobSection, PairsSection, TrainerSection, TrainSection

DEFAULT_MODEL = "smollm2-135m-instruct"
NAMED, FRESH = "a name", "a fresh model"  # tags of the two kinds of `model`
HEAD_SIZES = (32, 64, 96, 128, 192, 256)


class ConfigError(ValueError):
    """The configuration cannot be used; the message lists every fault."""


class ScratchModel(Section):
    """A small Llama-shaped model with its own tokenizer, trained from nothing on the expert trajectories: for demonstrations and tests."""

    vocab_size: int = Field(2048, ge=320, description="tokens of the byte-level BPE tokenizer")
    hidden_size: int = Field(256, ge=32)
    layers: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)

    @model_validator(mode="after")
    def _head_size_can_be_served(self) -> "ScratchModel":
        # the trainer's rule (services/trainer/trainer/job.py), said before experts are made
        if self.hidden_size % self.heads or self.hidden_size // self.heads not in HEAD_SIZES:
            raise ValueError(f"hidden_size / heads must be one of {', '.join(map(str, HEAD_SIZES))}, the widths that vLLM serves")
        return self


def _kind_of_model(value: Any) -> str:
    return FRESH if isinstance(value, dict | ScratchModel) else NAMED


#: Told apart by their shape, so that a fault in one is not reported as not being the other.
Model = Annotated[Annotated[str, Tag(NAMED)] | Annotated[ScratchModel, Tag(FRESH)], Discriminator(_kind_of_model)]


class TaskSet(Section):
    """Some tasks of a split: all of its types or some, all tasks or the first so many of each type."""

    split: str
    types: list[str] | None = Field(None, description="task types; null: all")
    per_type: int | None = Field(
        None, ge=1, description="at most so many tasks of each type, evenly spread over the split's order; null: all"
    )


class EvaluateSet(TaskSet):
    """Held-out tasks; several samples of each tell what the best of them would reach."""

    samples: int = Field(1, ge=1, description="episodes per task; more than 1: best of N and success at N are reported too")
    temperature: float | None = Field(None, ge=0, le=2, description="null: rollout.temperature")


class DevSection(Section):
    """Tasks that choose the best policy, so that the evaluated ones need not: a split, or training tasks held out."""

    split: str | None = Field(None, description="its name in the environment; null: held_out")
    types: list[str] | None = Field(None, description="of the split: task types; null: all")
    per_type: int | None = Field(None, ge=1, description="of the split: at most so many tasks of each type; null: all")
    held_out: int | None = Field(None, ge=1, description="so many training tasks of each type, which are then not trained on")

    @model_validator(mode="after")
    def _one_of_the_two(self) -> "DevSection":
        if (self.split is None) == (self.held_out is None):
            raise ValueError("give a split, or held_out (training tasks of each type), and not both")
        if self.held_out is not None and (self.types is not None or self.per_type is not None):
            raise ValueError("types and per_type choose from a split; held_out takes so many of every type of the training tasks")
        return self


class EarlyStopSection(Section):
    """When further iterations are left out."""

    patience: int = Field(ge=1, description="stop after so many iterations without a better dev score")


class RaySection(Section):
    """Episodes played on a Ray cluster (docs/scale.md), by several processes on its nodes."""

    address: str = Field("auto", description="the cluster's, such as 10.0.0.1:6379; auto: the one that this machine is part of")
    shards: int | None = Field(None, ge=1, description="processes that play; null: one on each node")


class RolloutSection(Section):
    """How episodes are played, in evaluation and exploration alike."""

    concurrency: int = Field(8, ge=1, description="episodes at a time")
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(512, ge=8, description="new tokens per turn")
    stop: list[str] = Field(default_factory=list, description="strings that end a turn")
    example: bool = Field(True, description="show the prompt's worked example (ETO's one-shot)")
    max_steps: int | None = Field(None, ge=1, description="step limit; null: the task's own")
    on_overflow: Literal["end", "drop-oldest"] = Field("end", description="a full context ends the episode, or hides its oldest turns")
    record_tokens: Literal["logprobs", "ids"] | None = Field(
        None, description="keep each generated token's log-probability, and with ids (vLLM) its id too; null: neither"
    )
    turn_timeout_s: float = Field(300.0, gt=0)
    episode_deadline_s: float = Field(1800.0, gt=0)
    patience_s: float = Field(600.0, gt=0, description="how long a service may be away before the run stops")
    ray: RaySection | None = Field(None, description="play on a Ray cluster; null: in this process")


class ExploreSection(Section):
    """Exploration's own sampling."""

    tasks: int | None = Field(None, ge=1, description="explore so many of the training tasks, evenly spaced; null: all")
    samples: int = Field(1, ge=1, description="episodes per training task")
    temperature: float = Field(0.0, ge=0, le=2)


class RunConfig(Section):
    """Everything a run depends on."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="the run's folder")
    seed: int = Field(0, ge=0, lt=2**31)
    model: Model = DEFAULT_MODEL
    env: EnvSection = EnvSection()
    policy: PolicySection = PolicySection()
    method: Literal["eto", "step", "self-play", "rft", "grpo", "sft"] = Field(
        "eto",
        description="eto: DPO on the agent against the expert; step: the same from the first diverging step on; self-play: DPO on the "
        "agent's best against its worst samples, without experts; rft: SFT on the experts and the agent's own successes; "
        "grpo: a policy gradient on several samples of each task; sft: more SFT on the experts, the control of the others",
    )
    train_tasks: TaskSet
    evaluate: list[EvaluateSet] = Field(min_length=1)
    dev: DevSection | None = Field(None, description="tasks that choose the best policy: a split, or held_out of the training tasks")
    early_stop: EarlyStopSection | None = Field(None, description="patience: stop after so many iterations without a better dev score")
    rollout: RolloutSection = RolloutSection()
    explore: ExploreSection = ExploreSection()
    sft: TrainSection = TrainSection()
    pairs: PairsSection = PairsSection()
    dpo: list[TrainSection] = Field(
        [TrainSection()], min_length=1, description="one section, or a list of one for each iteration; the last holds for all that follow"
    )
    grpo: GrpoSection = GrpoSection()
    collapse: CollapseSection = CollapseSection()
    skip: list[str] = Field(
        default_factory=list,
        description="evaluations and checks to leave out, by their stages' names, such as evaluate-base; or sft, where `model` names an "
        "SFT checkpoint already",
    )
    iterations: int = Field(1, ge=0, description="rounds of explore, pair, DPO, evaluate; the reference does 3")
    trainer: TrainerSection = TrainerSection()

    @field_validator("dpo", mode="before")
    @classmethod
    def _one_section_is_a_list_of_one(cls, given: Any) -> Any:
        return [given] if isinstance(given, dict | TrainSection) else given

    @model_validator(mode="after")
    def _parts_agree(self) -> "RunConfig":
        jobs: list[tuple[str, JobSection]] = [("sft", self.sft), *(("dpo", section) for section in self.dpo), ("grpo", self.grpo)]
        for name, section in jobs:
            if section.max_length is not None and section.max_length > self.policy.max_model_len:
                raise ValueError(
                    f"{name}.max_length is {section.max_length} but policy.max_model_len is {self.policy.max_model_len}: "
                    "the server could never be asked what was trained"
                )
        if self.method == "self-play":
            if self.explore.samples < 2 or self.explore.temperature == 0:
                raise ValueError(
                    f"method self-play compares samples of a task, but explore has samples {self.explore.samples} and temperature "
                    f"{self.explore.temperature:g}: set at least 2 samples and a temperature above 0"
                )
            if not isinstance(self.model, str):
                raise ValueError("method self-play starts without experts, so a fresh model could not do anything: name a model")
        if self.method == "grpo" and (self.explore.samples < 2 or self.explore.temperature != 1 or self.rollout.top_p != 1):
            raise ValueError(
                f"method grpo compares samples of a task by the model's own probabilities, but explore has samples {self.explore.samples} "
                f"and temperature {self.explore.temperature:g}, and rollout has top_p {self.rollout.top_p:g}: set at least 2 samples, "
                "temperature 1 and top_p 1"
            )
        self._mixtures_can_be_made()
        splits = [t.split for t in self.evaluate]
        if len(set(splits)) != len(splits):
            raise ValueError("evaluate: each split may stand there once")
        for chosen in self.evaluate:
            if chosen.samples > 1 and not (self.rollout.temperature if chosen.temperature is None else chosen.temperature):
                raise ValueError(f"evaluate: {chosen.samples} samples of {chosen.split} at temperature 0 would all be the same: set one")
        if self.dev is not None and self.dev.split in (self.train_tasks.split, *splits):
            raise ValueError(
                f"dev.split {self.dev.split} is trained or evaluated on: what chooses a policy must be neither. Name another split, or "
                "hold out training tasks (dev.held_out)"
            )
        if self.early_stop is not None and self.dev is None:
            raise ValueError("early_stop goes by the dev score: set dev too")
        return self

    def _mixtures_can_be_made(self) -> None:
        known = {"sft": ["experts", "own"] if self.method == "rft" else ["experts"], "dpo": ["pairs"]}
        for name, section in (("sft", self.sft), *(("dpo", section) for section in self.dpo)):
            for source in (s.source for s in section.data or [] if s.source is not None):
                if source not in known[name]:
                    raise ValueError(f"{name}.data: with method {self.method} there is no source {source}; known: {', '.join(known[name])}")

    @property
    def base_model(self) -> str:
        """A name for the model before any training."""
        return self.model if isinstance(self.model, str) else f"scratch-{self.model.hidden_size}x{self.model.layers}"
