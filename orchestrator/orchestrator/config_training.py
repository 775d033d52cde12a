"""What is trained on what, by which loss, and where its jobs run."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from orchestrator.config_section import Section


class LoraSection(Section):
    """Train low-rank adapters instead of all weights."""

    r: int = Field(16, ge=1, description="rank")
    alpha: int = Field(32, ge=1, description="scale: the adapters' output is multiplied by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1)


class PairsSection(Section):
    """How much of a losing trajectory DPO learns to avoid."""

    cut: Literal["reference", "refused", "diverging"] = Field(
        "reference",
        description="reference: the expert's length and 10 messages more (ALFWorld: whole); refused: no further than the first action that "
        "the environment refused; diverging: no further than the first action that the expert did not take",
    )


class SourceSection(Section):
    """One source of a mixture of training data."""

    source: Literal["experts", "own", "pairs"] | None = Field(
        None, description="what the run has made: experts (sft), own, the agent's chosen successes (sft, method rft), or pairs (dpo)"
    )
    file: Path | None = Field(None, description="or JSON lines of your own: conversations with `messages` (sft), or pairs (dpo)")
    weight: float = Field(1.0, gt=0, description="its share of the examples, against the other sources' weights")

    @model_validator(mode="after")
    def _one_of_both(self) -> "SourceSection":
        if (self.source is None) == (self.file is None):
            raise ValueError("name either a source of the run or a file")
        if self.file is not None and not self.file.is_file():
            raise ValueError(f"there is no file {self.file}; give JSON lines that exist before the run starts")
        return self


class JobSection(Section):
    """Settings that every training job has; what is null stays at ETO's value for the method (docs/formats.md, "Training job")."""

    epochs: float | None = Field(None, gt=0)
    learning_rate: float | None = Field(None, gt=0)
    batch_size: int | None = Field(None, ge=1, description="examples per optimiser step, over all processes")
    micro_batch_size: int | None = Field(None, ge=1, description="examples per forward pass")
    max_length: int | None = Field(None, ge=8, description="tokens of a conversation")
    warmup_ratio: float | None = Field(None, ge=0, le=1)
    scheduler: Literal["cosine", "linear", "constant"] | None = None
    optimizer: Literal["adamw", "muon"] | None = Field(None, description="muon: for models taught from nothing; ETO: adamw")
    max_steps: int | None = Field(None, ge=1)
    precision: Literal["auto", "bf16", "fp32"] | None = None
    gradient_checkpointing: bool | None = None
    lora: LoraSection | None = Field(None, description="adapters, merged into the weights at the end; null: all weights are trained")

    @model_validator(mode="after")
    def _muon_has_whole_matrices(self) -> "JobSection":
        if self.optimizer == "muon" and self.lora is not None:
            raise ValueError("optimizer muon is for whole matrices, not for adapters: choose adamw, or leave lora out")
        return self


class TrainSection(JobSection):
    """Settings of a training job; what is null stays at ETO's value for the method (docs/formats.md, "Training job")."""

    data: list[SourceSection] | None = Field(
        None, description="a mixture of sources by weight (docs/training.md); null: experts and own alike, or pairs"
    )
    beta: float | None = Field(None, gt=0, description="DPO's beta; ETO: 0.1 in iteration 1, 0.5 later")
    loss_type: Literal["sigmoid", "hinge", "ipo"] | None = Field(None, description="DPO's loss, as TRL names it; ETO: sigmoid")
    label_smoothing: float | None = Field(None, ge=0, lt=0.5, description="share of pairs taken to be labelled wrongly; ETO: 0")
    length_normalization: bool | None = Field(None, description="DPO on means over a side's tokens; ETO: on sums")
    rpo_alpha: float | None = Field(None, ge=0, description="weight of an SFT term on the chosen side; ETO: 0")
    collapse_bound: float | None = Field(
        None, ge=0, description="DPO stops when the chosen side has lost more nats a token than this; 0: never; null: 0.5"
    )


class GrpoSection(JobSection):
    """GRPO's own settings, as TRL names them; what is null stays at TRL's value."""

    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"] | None = Field(
        None, description="how the loss is averaged over tokens and samples; TRL: dapo"
    )
    beta: float | None = Field(None, ge=0, description="weight of the divergence from the policy that explored; TRL: 0")
    epsilon: float | None = Field(None, ge=0, lt=1, description="clipping of the probability ratio; TRL: 0.2")
    epsilon_high: float | None = Field(None, ge=0, description="its upper bound, if it is another one; cispo needs it")
    importance_sampling_level: Literal["token", "sequence"] | None = Field(None, description="a ratio for each token, or one a sample")
    scale_rewards: Literal["group", "batch", "none"] | None = Field(
        None, description="advantages over the spread of the task's rewards, of all rewards, or as they are; TRL: group"
    )


class CollapseSection(Section):
    """When a run stops by itself because training broke the policy; the trainer's own sign is dpo.collapse_bound."""

    tasks: int = Field(32, ge=0, description="training tasks that a new policy plays before it is evaluated; 0: none, never stop")
    invalid_rise: float = Field(
        0.1, gt=0, le=1, description="stop when the share of invalid turns rises by more than this over the exploration of the same tasks"
    )


class RayJobsSection(Section):
    """Training jobs on a Ray cluster, whose nodes share the run's folder (docs/scale.md)."""

    address: str = Field("http://127.0.0.1:8265", description="the cluster's job server")
    gpus: float = Field(0, ge=0, description="GPUs of a job, all of one node")
    cpus: float = Field(0, ge=0, description="cores of a job")
    resources: dict[str, float] = Field(default_factory=dict, description="resources of your own that its node must have")
    python: str | None = Field(None, description="the trainer's interpreter on the nodes; null: at the place where it is here")


class DockerSection(Section):
    """Training jobs as containers of the trainer's image (docs/containers.md)."""

    engine: str | None = Field(None, description="unix://, tcp:// or ssh://user@host; null: DOCKER_HOST, or this machine's socket")
    image: str = "eto/trainer:cpu"
    gpus: int = Field(0, ge=-1, description="GPUs of a job; -1: all")
    memory: str | None = Field(None, description="limit, such as 12g; null: none")
    mounts: list[Annotated[str, Field(pattern=r"^[^:]+:/[^:]*(:r[ow])?$")]] = Field(
        default_factory=list,
        description="volumes or folders that hold the runs and models under the same paths as here, SOURCE:TARGET[:ro]; none: copied",
    )


def _docker_of_the_system() -> DockerSection | None:
    """As compose.jobs.yml says it to the orchestrator's container."""
    if os.environ.get("ETO_LAUNCHER") != "docker":
        return None
    mounts = [m for m in os.environ.get("ETO_TRAINER_SHARE", "").split(",") if m]
    image = os.environ.get("ETO_TRAINER_IMAGE") or "eto/trainer:cpu"
    return DockerSection(engine=os.environ.get("ETO_ENGINE") or None, image=image, mounts=mounts)


class TrainerSection(Section):
    """How training jobs are launched."""

    docker: DockerSection | None = Field(
        default_factory=_docker_of_the_system, description="as a container; null: on this machine, unless ETO_LAUNCHER says docker"
    )
    ray: RayJobsSection | None = Field(None, description="on a Ray cluster; null: on this machine")
    accelerate: Path | None = Field(None, description="an accelerate config file (services/trainer/accelerate); null: one process")
    retries: int = Field(2, ge=0, description="how often a job that was killed or preempted is started again at once, to resume; ray: 5")
    report_to: list[Literal["tensorboard", "mlflow", "trackio", "wandb"]] = Field(
        default_factory=list, description="trackers that each job logs to as well; their packages stand beside the trainer"
    )

    @model_validator(mode="after")
    def _one_launcher(self) -> "TrainerSection":
        if self.docker is not None and self.accelerate is not None:
            raise ValueError("a job in a container (docker) cannot take an accelerate config yet; leave one of the two out")
        if self.ray is not None and "docker" in self.model_fields_set and self.docker is not None:
            raise ValueError("jobs go to one place: leave out ray or docker")
        return self
