"""A run's configuration: every setting, its default, its bounds and what it does."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

DEFAULT_MODEL = "smollm2-135m-instruct"
NAMED, FRESH = "a name", "a fresh model"  # tags of the two kinds of `model`
HEAD_SIZES = (32, 64, 96, 128, 192, 256)


class ConfigError(ValueError):
    """The configuration cannot be used; the message lists every fault."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ScratchModel(_Section):
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


ENV_PORTS = {"webshop": 8001, "sciworld": 8002, "alfworld": 8003}


class EnvSection(_Section):
    """The environment service."""

    name: Literal["sciworld", "webshop", "alfworld"] = "sciworld"
    url: list[str] | None = Field(
        None,
        description="where it runs, or a list of replicas; null: it is started here. Not given: ETO_SCIWORLD_URL and so on, if set",
    )
    port: int | None = Field(None, description="port when started here; null: the environment's own, 8001 to 8003")
    max_engines: int = Field(8, ge=1, description="engines when started here; sessions take turns on them; 250 MB each of ScienceWorld")
    prompt: Path | None = Field(
        None, description="instead of the packaged prompt: a file of your own, or trajectories (.json, .jsonl) that have one"
    )

    @field_validator("url", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    @field_validator("url")
    @classmethod
    def _urls_can_be_asked(cls, given: list[str] | None) -> list[str] | None:
        return server_urls(given) if given is not None else None

    @model_validator(mode="after")
    def _found_in_the_environment(self) -> "EnvSection":
        if "url" not in self.model_fields_set and (known := os.environ.get(f"ETO_{self.name.upper()}_URL")):
            self.url = server_urls(known.split(","))
        return self

    @property
    def local_port(self) -> int:
        """The port of a service started here."""
        return self.port if self.port is not None else ENV_PORTS[self.name]

    @property
    def addresses(self) -> list[str]:
        """Where it is asked, wherever it runs."""
        return self.url or [f"http://127.0.0.1:{self.local_port}"]


class PolicyDockerSection(_Section):
    """The policy server as a container, reached by a tunnel where its engine is behind ssh (docs/containers.md)."""

    engine: str | None = Field(
        None, pattern=r"^(unix|ssh)://", description="ssh://user@host or unix://; null: DOCKER_HOST, or this machine's socket"
    )
    image: str = "eto/policy:cpu"
    gpus: int = Field(0, ge=-1, description="GPUs of the server; -1: all")
    memory: str | None = Field(None, description="limit, such as 24g; null: none")
    shm_size: str = Field("1g", description="shared memory, which several GPUs need more of")


class PolicySection(_Section):
    """The policy server."""

    url: list[str] | None = Field(
        None,
        description="an OpenAI-compatible server, or a list of several; null: vLLM is started here. Not given: ETO_POLICY_URL, if set",
    )
    docker: PolicyDockerSection | None = Field(
        None, description="start it as a container, here or on another machine; null: as a process here"
    )
    port: int = Field(8000, description="port when started here")
    served_name: str = Field("policy", description="model name in requests")
    template: Path | None = Field(
        None, description="make prompts here by this chat template (a Jinja file, or a model's directory), and ask for plain completions"
    )
    max_model_len: int = Field(4096, ge=256, description="context in tokens when started here")
    max_num_seqs: int = Field(32, ge=1, description="sequences decoded together when started here")
    kv_cache_gib: float | None = Field(
        None, gt=0, description="key-value cache when started here, GiB; null: 1 on a CPU, a GPU's free memory"
    )
    compile: bool | None = Field(None, description="torch.compile: slower start, faster decoding; null: on a GPU only")
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @field_validator("url", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    @field_validator("url")
    @classmethod
    def _urls_can_be_asked(cls, given: list[str] | None) -> list[str] | None:
        return server_urls(given) if given is not None else None

    @model_validator(mode="after")
    def _found_in_the_environment(self) -> "PolicySection":
        if "url" not in self.model_fields_set and self.docker is None and (known := os.environ.get("ETO_POLICY_URL")):
            self.url = server_urls(known.split(","))
        if self.url is not None and self.docker is not None:
            raise ValueError("a server that is started as a container (docker) has its own address; leave out url")
        return self

    @property
    def local_address(self) -> str:
        """Where a server that is started here, or a tunnel to one, listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def addresses(self) -> list[str]:
        """Where it is asked, wherever it runs."""
        return self.url or [self.local_address]


def server_urls(given: Sequence[str]) -> list[str]:
    """Base URLs without the `/v1` that many write behind them. Raises ValueError for what is no list of different URLs."""
    urls = [url.rstrip("/").removesuffix("/v1") for url in given]
    for url in urls:
        if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", url):
            raise ValueError(f"{url!r} is no URL of a server: write http://HOST:PORT or https://HOST")
    if not urls or len(set(urls)) != len(urls):
        raise ValueError("name each server once; leave it out (null) to have one started here")
    return urls


class TaskSet(_Section):
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


class DevSection(_Section):
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


class EarlyStopSection(_Section):
    """When further iterations are left out."""

    patience: int = Field(ge=1, description="stop after so many iterations without a better dev score")


class RaySection(_Section):
    """Episodes played on a Ray cluster (docs/scale.md), by several processes on its nodes."""

    address: str = Field("auto", description="the cluster's, such as 10.0.0.1:6379; auto: the one that this machine is part of")
    shards: int | None = Field(None, ge=1, description="processes that play; null: one on each node")


class RolloutSection(_Section):
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


class ExploreSection(_Section):
    """Exploration's own sampling."""

    samples: int = Field(1, ge=1, description="episodes per training task")
    temperature: float = Field(0.0, ge=0, le=2)


class LoraSection(_Section):
    """Train low-rank adapters instead of all weights."""

    r: int = Field(16, ge=1, description="rank")
    alpha: int = Field(32, ge=1, description="scale: the adapters' output is multiplied by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1)


class PairsSection(_Section):
    """How much of a losing trajectory DPO learns to avoid."""

    cut: Literal["reference", "refused", "diverging"] = Field(
        "reference",
        description="reference: the expert's length and 10 messages more (ALFWorld: whole); refused: no further than the first action that "
        "the environment refused; diverging: no further than the first action that the expert did not take",
    )


class SourceSection(_Section):
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


class JobSection(_Section):
    """Settings that every training job has; what is null stays at ETO's value for the method (docs/formats.md, "Training job")."""

    epochs: float | None = Field(None, gt=0)
    learning_rate: float | None = Field(None, gt=0)
    batch_size: int | None = Field(None, ge=1, description="examples per optimiser step, over all processes")
    micro_batch_size: int | None = Field(None, ge=1, description="examples per forward pass")
    max_length: int | None = Field(None, ge=8, description="tokens of a conversation")
    warmup_ratio: float | None = Field(None, ge=0, le=1)
    scheduler: Literal["cosine", "linear", "constant"] | None = None
    max_steps: int | None = Field(None, ge=1)
    precision: Literal["auto", "bf16", "fp32"] | None = None
    gradient_checkpointing: bool | None = None
    lora: LoraSection | None = Field(None, description="adapters, merged into the weights at the end; null: all weights are trained")


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


class CollapseSection(_Section):
    """When a run stops by itself because training broke the policy; the trainer's own sign is dpo.collapse_bound."""

    tasks: int = Field(8, ge=0, description="training tasks that a new policy plays before it is evaluated; 0: none, never stop")
    invalid_rise: float = Field(
        0.3, gt=0, le=1, description="stop when the share of invalid turns rises by more than this over the exploration of the same tasks"
    )


class RayJobsSection(_Section):
    """Training jobs on a Ray cluster, whose nodes share the run's folder (docs/scale.md)."""

    address: str = Field("http://127.0.0.1:8265", description="the cluster's job server")
    gpus: float = Field(0, ge=0, description="GPUs of a job, all of one node")
    cpus: float = Field(0, ge=0, description="cores of a job")
    resources: dict[str, float] = Field(default_factory=dict, description="resources of your own that its node must have")
    python: str | None = Field(None, description="the trainer's interpreter on the nodes; null: at the place where it is here")


class DockerSection(_Section):
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


class TrainerSection(_Section):
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


class RunConfig(_Section):
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
        default_factory=list, description="evaluations and checks to leave out, by their stages' names, such as evaluate-base"
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
