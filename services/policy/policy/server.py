"""The command line and the environment of `vllm serve`: pure functions of the settings, and the start itself."""

import ipaddress
import os
import re
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from policy import PolicyError
from policy.model import Model

CHATML = Path(__file__).with_name("chatml.jinja")

# A whole episode of an agent fits in it; models of a shorter context get their own limit.
DEFAULT_MAX_MODEL_LEN = 4096
DEFAULT_CPU_KV_CACHE_GIB = 1
CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class ServeSettings:
    """What a person chooses about the server; None leaves the choice to the device or to the model."""

    host: str = "127.0.0.1"
    port: int = 8000
    served_name: str = "policy"
    max_model_len: int | None = None
    max_num_seqs: int = 32
    kv_cache_gib: float | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    eager: bool | None = None
    dtype: str | None = None
    adapters: bool = False
    dev_endpoints: bool = False
    allow_anonymous: bool = False
    extra: tuple[str, ...] = ()


def installed_device() -> Literal["cpu", "cuda"]:
    """The device that the installed vLLM was built for."""
    try:
        return "cpu" if "cpu" in version("vllm") else "cuda"
    except PackageNotFoundError as error:
        raise PolicyError(
            "A server was to be started, but no distribution called `vllm` is installed. Install requirements.txt and "
            "./vllm-name (CPU) or requirements-gpu.txt (GPU) of services/policy, as its README shows."
        ) from error


def choose_device(asked: str) -> Literal["cpu", "cuda"]:
    """The device to serve on; it cannot be another than the one vLLM was built for."""
    installed = installed_device()
    if asked in ("auto", installed):
        return installed
    other = "requirements.txt and ./vllm-name" if asked == "cpu" else "requirements-gpu.txt"
    raise PolicyError(
        f"--device {asked} was asked for, but the installed vLLM {version('vllm')} is built for {installed}. "
        f"Make an environment from {other} of services/policy, or leave --device out."
    )


def choose_dtype(device: str, extra: Sequence[str] = (), cpu_info: Path = CPU_INFO) -> str | None:
    """float32 on an x86 CPU without AVX-512, where bf16 is emulated (services/policy/README.md: 2.5 times as slow).

    None leaves the choice to vLLM's arguments, or to vLLM, which takes what the checkpoint holds.
    """
    if device != "cpu" or not cpu_info.is_file() or any(argument.split("=")[0] == "--dtype" for argument in extra):
        return None
    found = re.search(r"^flags\s*:(.*)$", cpu_info.read_text(), re.MULTILINE)
    return "float32" if found and "avx512f" not in found[1].split() else None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check(settings: ServeSettings, environment: Mapping[str, str]) -> None:
    """Refuse settings that would open the server to others unprotected, or that the device is bad at."""
    if not is_loopback(settings.host) and not api_key(environment) and not settings.allow_anonymous:
        raise PolicyError(
            f"--host {settings.host} was asked for, but then anyone who reaches this machine could use the server. "
            "Set ETO_POLICY_TOKEN (clients send it as their API key), or give --allow-anonymous on a private network."
        )
    if settings.adapters and settings.device == "cpu":
        raise PolicyError(
            "--adapters was asked for, but on a CPU an adapter makes each token more than five times as expensive. "
            "Merge it into the weights and swap those in place, or serve on a GPU."
        )
    if settings.device == "cpu" and settings.eager is False and compiler(environment) is None:
        raise PolicyError(
            "--compile was asked for, but there is no C++ compiler here (g++, or what CXX names). Install one, or leave --compile out."
        )


def check_port_is_free(host: str, port: int) -> None:
    """Refuse a port that another process listens on, before minutes are spent on loading."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PolicyError(
                f"Port {port} of {host} was asked for, but cannot be listened on ({error.strerror or error}): "
                "stop what uses it, or choose another with --port."
            ) from error


def api_key(environment: Mapping[str, str]) -> str | None:
    """The key that clients must send, under our name or vLLM's."""
    return environment.get("ETO_POLICY_TOKEN") or environment.get("VLLM_API_KEY") or None


def context_limit(model: Model, asked: int | None) -> int:
    """The tokens of prompt and answer together: as asked, else the default or what the model was made for."""
    if asked is None:
        return min(DEFAULT_MAX_MODEL_LEN, model.max_positions or DEFAULT_MAX_MODEL_LEN)
    if model.max_positions is not None and asked > model.max_positions:
        raise PolicyError(
            f"--max-model-len {asked} was asked for, but {model.location} was made for {model.max_positions} positions "
            f"(max_position_embeddings of its config.json). Ask for at most that, or leave --max-model-len out."
        )
    return asked


def serve_arguments(model: Model, settings: ServeSettings) -> list[str]:
    """The arguments of `vllm serve`. The API key is not among them: others could read it in the process list."""
    eager = settings.eager if settings.eager is not None else settings.device == "cpu"
    arguments = [
        "serve",
        model.location,
        *("--host", settings.host),
        *("--port", str(settings.port)),
        *("--served-model-name", settings.served_name),
        *("--max-model-len", str(context_limit(model, settings.max_model_len))),
        *("--max-num-seqs", str(settings.max_num_seqs)),
        # The request alone says how to sample: many models ship a generation_config.json that would add to it.
        *("--generation-config", "vllm"),
        "--enable-prefix-caching",
        "--disable-uvicorn-access-log",
    ]
    if settings.device == "cpu":
        arguments += ["--worker-cls", "policy.cpu_worker.SwappingCPUWorker"]
    if eager:
        arguments.append("--enforce-eager")
    if settings.dtype:
        arguments += ["--dtype", settings.dtype]
    if settings.kv_cache_gib is not None:
        arguments += ["--kv-cache-memory-bytes", str(int(settings.kv_cache_gib * 2**30))]
    if not model.has_chat_template and "--chat-template" not in settings.extra:
        arguments += ["--chat-template", str(CHATML)]
    if settings.adapters:
        arguments += ["--enable-lora", "--max-lora-rank", "64"]
    return [*arguments, *settings.extra]


def compiler(environment: Mapping[str, str]) -> str | None:
    """The C++ compiler that torch.compile would take, where there is one."""
    return shutil.which(environment.get("CXX") or "g++")


def serve_environment(
    model: Model, settings: ServeSettings, environment: Mapping[str, str], preload: list[Path], compiler: str | None
) -> dict[str, str]:
    """The environment of `vllm serve`. What the caller's environment says about tuning is kept."""
    result = dict(environment)
    result["VLLM_NO_USAGE_STATS"] = "1"
    # Dev mode opens /collective_rpc, by which weights are swapped and much else can be done, without asking for a key.
    result["VLLM_SERVER_DEV_MODE"] = "1" if settings.dev_endpoints or is_loopback(settings.host) else "0"
    if model.is_local:
        result["HF_HUB_OFFLINE"] = "1"
    if key := api_key(environment):
        result["VLLM_API_KEY"] = key
    if settings.adapters:
        result["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    if settings.device == "cpu":
        if settings.kv_cache_gib is None:
            result.setdefault("VLLM_CPU_KVCACHE_SPACE", str(DEFAULT_CPU_KV_CACHE_GIB))
        else:
            result.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would win over --kv-cache-memory-bytes
        # Eager or not, vLLM compiles some functions of the sampler; where nothing can compile, their first use ends the engine.
        if compiler is None:
            result.setdefault("TORCHDYNAMO_DISABLE", "1")
        # By default vLLM keeps one core for itself: half of a machine with two.
        result.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
        already = result.get("LD_PRELOAD", "")
        wanted = [str(library) for library in preload if library.name not in already]
        if wanted:
            result["LD_PRELOAD"] = ":".join([*wanted, *filter(None, [already])])
    return result


def preload_libraries() -> list[Path]:
    """The allocator and the OpenMP runtime that make a CPU server some 8 % faster, where they are installed."""
    found = []
    for folder, pattern in (
        (Path("/usr/lib"), "*/libtcmalloc_minimal.so.4"),
        (Path(sys.prefix) / "lib", "libiomp5.so"),  # of intel-openmp
    ):
        found += sorted(folder.glob(pattern))[:1]
    return found


def start(model: Model, settings: ServeSettings) -> None:
    """Become the server: signals sent to this process reach vLLM itself."""
    preload = preload_libraries() if settings.device == "cpu" else []
    environment = serve_environment(model, settings, os.environ, preload, compiler(os.environ))
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", *serve_arguments(model, settings)]
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)  # noqa: S606
