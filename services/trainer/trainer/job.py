"""The job file: every option, its unit and its default; a method's defaults are ETO's own values."""

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trainer.errors import JobError

METHOD_DEFAULTS: dict[str, dict[str, Any]] = {
    "sft": {"learning_rate": 2e-5, "batch_size": 64, "warmup_ratio": 0.03, "scheduler": "cosine"},
    "dpo": {"learning_rate": 1e-6, "batch_size": 32, "warmup_ratio": 0.1, "scheduler": "constant"},
    # a batch of few tasks' samples, at a constant rate, once: TRL's values for GRPO but for the rate's shape
    "grpo": {"learning_rate": 1e-6, "batch_size": 64, "warmup_ratio": 0.0, "scheduler": "constant", "epochs": 1},
    "init": {},
}


class Section(BaseModel):
    """Options of one part of the job; an unknown key is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LoraOptions(Section):
    """Train low-rank adapters on every linear layer but the head, instead of all weights."""

    r: int = Field(16, ge=1, description="rank of the adapters")
    alpha: int = Field(32, ge=1, description="scale of the adapters; their output is multiplied by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of adapter inputs zeroed while training, 0..1")
    merge: bool = Field(True, description="fold the adapters into the weights at the end, so plain weights are saved")


class LossOptions(Section):
    """Options of the dpo loss; the defaults are ETO's."""

    type: Literal["sigmoid", "hinge", "ipo"] = Field("sigmoid", description="sigmoid (DPO), hinge or ipo, as TRL names them")
    beta: float = Field(0.1, gt=0, description="strength of the pull towards the starting policy; ipo: the tau of its paper")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of pairs taken to be labelled the wrong way round (sigmoid only)")
    length_normalization: bool = Field(False, description="means over a side's targets in place of sums; ipo always takes means")
    rpo_alpha: float = Field(0.0, ge=0, description="weight of an sft term: the mean negative log-likelihood of the chosen side's targets")

    @model_validator(mode="after")
    def _smoothing_has_a_meaning(self) -> Self:
        if self.label_smoothing and self.type != "sigmoid":
            raise ValueError(f"label_smoothing is defined for type sigmoid, not for {self.type}: set it to 0 or take sigmoid")
        return self


class GrpoOptions(Section):
    """Options of the grpo loss, named and meant as in TRL's GRPOConfig; the defaults are TRL's."""

    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"] = Field(
        "dapo", description="how tokens are averaged: a sample at a time (grpo), over the step's tokens (dapo), ...; cispo clips weights"
    )
    beta: float = Field(0.0, ge=0, description="weight of the divergence from the starting policy; above 0 a second model is held")
    epsilon: float = Field(0.2, ge=0, lt=1, description="how far a token's probability ratio may fall before it is clipped")
    epsilon_high: float | None = Field(None, ge=0, description="how far it may rise; null: as epsilon; cispo: the largest weight")
    importance_sampling_level: Literal["token", "sequence"] = Field("token", description="a ratio for each token, or one a sample (GSPO)")

    @model_validator(mode="after")
    def _cispo_has_a_largest_weight(self) -> Self:
        if self.loss_type == "cispo" and self.epsilon_high is None:
            raise ValueError("loss_type cispo needs epsilon_high, the largest weight of a token (its paper: 5)")
        return self

    scale_rewards: Literal["group", "batch", "none"] = Field(
        "group", description="advantages are divided by the spread of their task's rewards, of all rewards of the file, or not at all"
    )


class InitOptions(Section):
    """Size of a fresh model (method init)."""

    vocab_size: int = Field(2048, ge=320, description="tokens in the vocabulary at most, special tokens included")
    hidden_size: int = Field(256, ge=32, description="width of the model")
    layers: int = Field(4, ge=1, description="number of transformer blocks")
    heads: int = Field(4, ge=1, description="attention heads; hidden_size / heads must be 32, 64, 96, 128, 192 or 256")

    @model_validator(mode="after")
    def _head_size_can_be_served(self) -> Self:
        if self.hidden_size % self.heads or self.hidden_size // self.heads not in (32, 64, 96, 128, 192, 256):
            raise ValueError(
                f"hidden_size {self.hidden_size} with {self.heads} heads gives heads of a width that servers refuse: "
                "choose hidden_size / heads = 32, 64, 96, 128, 192 or 256"
            )
        return self


class Job(Section):
    """One training job. Rates and sizes left out take ETO's values for the method."""

    method: Literal["sft", "dpo", "grpo", "init"] = Field(description="sft, dpo, grpo, or init (a fresh small model and tokenizer)")
    model: str | None = Field(None, description="checkpoint directory or hub id to start from; not used by init")
    data: str = Field(description="JSON lines: messages for sft and init, pairs for dpo, episodes with recorded tokens for grpo")
    output: str = Field(description="directory of the finished checkpoint; must not exist yet")
    seed: int = Field(0, ge=0, description="seed of the order of examples, of adapters and of fresh weights")
    epochs: float = Field(3, gt=0, description="passes over the data; grpo 1")
    learning_rate: float = Field(2e-5, gt=0, description="peak learning rate; sft 2e-5, dpo and grpo 1e-6")
    batch_size: int = Field(64, ge=1, description="examples (dpo: pairs) per optimiser step, over all processes")
    micro_batch_size: int = Field(8, ge=1, description="examples (dpo: pairs) of one forward pass of one process at most")
    max_length: int = Field(4096, ge=8, description="tokens of an example (dpo: of prompt plus one side) at most")
    warmup_ratio: float = Field(0.03, ge=0, le=1, description="share of the steps with a rising rate; sft 0.03, dpo 0.1")
    scheduler: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="learning rate after warm-up; sft cosine, dpo constant"
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="muon: orthogonal updates of the layers' matrices, AdamW for the rest; for models taught from nothing"
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    max_steps: int | None = Field(None, ge=1, description="stop after so many optimiser steps; null: by epochs")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="arithmetic of forward and backward (weights stay float32); auto: the faster one here"
    )
    gradient_checkpointing: bool = Field(False, description="compute activations twice to save memory")
    share_beginning: bool = Field(
        True,
        description="compute what examples of a pass (dpo: of a pair) have in common once, where the model's attention allows it",
    )
    collapse_bound: float = Field(
        0.5, ge=0, description="dpo: stop, and keep the state before, when the chosen side has lost more nats a token than this; 0: never"
    )
    checkpoint_every_s: float = Field(600.0, ge=0, description="seconds between resumable states; 0: every step")
    report_to: list[Literal["tensorboard", "mlflow", "trackio", "wandb"]] = Field(
        [], description="trackers to log to beside the progress lines; their packages are installed by hand"
    )
    lora: LoraOptions | None = Field(None, description="null: all weights are trained")
    loss: LossOptions = Field(LossOptions(), description="options of the dpo loss")
    grpo: GrpoOptions = Field(GrpoOptions(), description="options of the grpo loss and its advantages")
    init: InitOptions = Field(InitOptions(), description="size of a fresh model (method init)")

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_methods_defaults(cls, given: Any) -> Any:
        if isinstance(given, dict):
            return METHOD_DEFAULTS.get(str(given.get("method")), {}) | given
        return given

    @model_validator(mode="after")
    def _model_is_named(self) -> Self:
        if self.method != "init" and not self.model:
            raise ValueError(f"method {self.method} starts from a model: set model to a directory or a hub id")
        return self

    @model_validator(mode="after")
    def _muon_has_whole_matrices(self) -> Self:
        if self.optimizer == "muon" and self.lora is not None:
            raise ValueError("optimizer muon is for whole matrices, not for adapters: choose adamw, or leave lora out")
        return self

    @model_validator(mode="after")
    def _samples_can_be_compared(self) -> Self:
        if self.method == "grpo" and self.batch_size < 2:
            raise ValueError("grpo compares samples: batch_size must be at least 2")
        return self

    @property
    def base(self) -> str:
        """The model to start from; init has none."""
        return self.model or ""


def load_job(path: str) -> Job:
    """Read and check a job file."""
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise JobError(f"job file {path} cannot be read ({error.strerror}): give the path of a JSON job file") from error
    except ValueError as error:
        raise JobError(f"job file {path} is not JSON ({error}): correct the file") from error
    try:
        return Job.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the job"
        raise JobError(f"job file {path}: {where}: {first['msg']}; python -m trainer --schema lists every option") from error
