"""Where a run's services are, or how they are started."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from orchestrator.config_section import Section

ENV_PORTS = {"webshop": 8001, "sciworld": 8002, "alfworld": 8003}


def server_urls(given: Sequence[str]) -> list[str]:
    """Base URLs without the `/v1` that many write behind them. Raises ValueError for what is no list of different URLs."""
    urls = [url.rstrip("/").removesuffix("/v1") for url in given]
    for url in urls:
        if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", url):
            raise ValueError(f"{url!r} is no URL of a server: write http://HOST:PORT or https://HOST")
    if not urls or len(set(urls)) != len(urls):
        raise ValueError("name each server once; leave it out (null) to have one started here")
    return urls


def _one_is_a_list_of_one(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


#: One URL, or a list of them.
Urls = Annotated[list[str], BeforeValidator(_one_is_a_list_of_one), AfterValidator(server_urls)]


class EnvSection(Section):
    """The environment service."""

    name: Literal["sciworld", "webshop", "alfworld"] = "sciworld"
    url: Urls | None = Field(
        None,
        description="where it runs, or a list of replicas; null: it is started here. Not given: ETO_SCIWORLD_URL and so on, if set",
    )
    port: int | None = Field(None, description="port when started here; null: the environment's own, 8001 to 8003")
    max_engines: int = Field(8, ge=1, description="engines when started here; sessions take turns on them; 250 MB each of ScienceWorld")
    prompt: Path | None = Field(
        None, description="instead of the packaged prompt: a file of your own, or trajectories (.json, .jsonl) that have one"
    )

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


class PolicyDockerSection(Section):
    """The policy server as a container, reached by a tunnel where its engine is behind ssh (docs/containers.md)."""

    engine: str | None = Field(
        None, pattern=r"^(unix|ssh)://", description="ssh://user@host or unix://; null: DOCKER_HOST, or this machine's socket"
    )
    image: str = "eto/policy:cpu"
    gpus: int = Field(0, ge=-1, description="GPUs of the server; -1: all")
    memory: str | None = Field(None, description="limit, such as 24g; null: none")
    shm_size: str = Field("1g", description="shared memory, which several GPUs need more of")


class PolicySection(Section):
    """The policy server."""

    url: Urls | None = Field(
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
