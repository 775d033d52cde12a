"""`python -m policy prepare MODEL` and `python -m policy serve`."""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from policy import PolicyError, server
from policy.model import DEFAULT_MODEL, Model, prepare

_MODEL_HELP = f"{DEFAULT_MODEL} (needs no download), a checkpoint directory, or a hub id (default: %(default)s)"


def parser() -> argparse.ArgumentParser:
    """The command line, complete with its help."""
    root = argparse.ArgumentParser(prog="python -m policy", description="Prepare a model and serve it with vLLM.")
    commands = root.add_subparsers(dest="command", required=True)

    prepare_command = commands.add_parser(
        "prepare", help="make a model available and print where it lies", description="Print the model's directory."
    )
    prepare_command.add_argument("model", nargs="?", default=DEFAULT_MODEL, help=_MODEL_HELP)

    serve = commands.add_parser(
        "serve",
        help="prepare a model and become vLLM's server of it",
        description="Prepare the model, then become `vllm serve`. Arguments after -- go to vLLM as they are.",
    )
    serve.add_argument("--model", default=DEFAULT_MODEL, help=_MODEL_HELP)
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serve.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    serve.add_argument("--served-name", default="policy", help="model name of the API (default: %(default)s)")
    serve.add_argument(
        "--max-model-len",
        type=int,
        help=f"tokens of prompt and answer together (default: {server.DEFAULT_MAX_MODEL_LEN}, or the model's own "
        "limit where that is lower)",
    )
    serve.add_argument("--max-num-seqs", type=int, default=32, help="requests answered at the same time (default: %(default)s)")
    serve.add_argument(
        "--kv-cache-gib",
        type=float,
        help=f"memory for the KV cache in GiB (default: {server.DEFAULT_CPU_KV_CACHE_GIB} on a CPU; on a GPU what vLLM finds free)",
    )
    serve.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="fail unless vLLM was built for this device (default: %(default)s, what it was built for)",
    )
    compiling = serve.add_mutually_exclusive_group()
    compiling.add_argument("--eager", dest="eager", action="store_true", default=None, help="start sooner (default on a CPU)")
    compiling.add_argument("--compile", dest="eager", action="store_false", help="start later, generate faster (default on a GPU)")
    serve.add_argument("--adapters", action="store_true", help="let clients load LoRA adapters (GPU only)")
    serve.add_argument(
        "--dev-endpoints",
        action="store_true",
        help="open the endpoints that swap weights on any host, without a key: for private networks (on loopback they are always open)",
    )
    serve.add_argument(
        "--allow-anonymous",
        action="store_true",
        help="listen beyond loopback although no key is set in ETO_POLICY_TOKEN or VLLM_API_KEY",
    )
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 2 where it was refused before anything was started."""
    own, extra = _split(list(sys.argv[1:] if argv is None else argv))
    arguments = parser().parse_args(own)
    try:
        if arguments.command == "prepare":
            with redirect_stdout(sys.stderr):
                model = prepare(arguments.model)
            print(model.location)
        else:
            _serve(arguments, extra)
    except PolicyError as error:
        print(f"policy: {error}", file=sys.stderr)
        return 2
    return 0


def _serve(arguments: argparse.Namespace, extra: list[str]) -> None:
    device = server.choose_device(arguments.device)
    settings = server.ServeSettings(
        host=arguments.host,
        port=arguments.port,
        served_name=arguments.served_name,
        max_model_len=arguments.max_model_len,
        max_num_seqs=arguments.max_num_seqs,
        kv_cache_gib=arguments.kv_cache_gib,
        device=device,
        eager=arguments.eager,
        dtype=server.choose_dtype(device, extra),
        adapters=arguments.adapters,
        dev_endpoints=arguments.dev_endpoints,
        allow_anonymous=arguments.allow_anonymous,
        extra=tuple(extra),
    )
    server.check(settings, os.environ)
    server.check_port_is_free(settings.host, settings.port)
    model = prepare(arguments.model)
    server.context_limit(model, settings.max_model_len)
    print(_announcement(model, settings), file=sys.stderr, flush=True)
    server.start(model, settings)


def _announcement(model: Model, settings: server.ServeSettings) -> str:
    version = f", version {model.version}" if model.version else ""
    template = "" if model.has_chat_template else "; it has no chat template, ChatML is used"
    arithmetic = f", {settings.dtype}" if settings.dtype else ""
    return (
        f"policy: serving {model.location}{version} as {settings.served_name} "
        f"on http://{settings.host}:{settings.port} ({settings.device}{arithmetic}){template}"
    )


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


if __name__ == "__main__":
    sys.exit(main())
