"""The command line of every environment service. Heavy imports wait until they are needed: --help is instant."""

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from env_core.environment import Environment

CANNOT_START = 2
LOG_LEVELS = ("critical", "error", "warning", "info", "debug", "trace")


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, epilog="Every option has an environment variable too: ETO_ENV_PORT for --port. ETO_ENV_TOKEN sets a bearer token."
    )
    serve = parser.add_subparsers(dest="command", required=True).add_parser("serve", help="serve the environment over HTTP")
    add = serve.add_argument
    add("--host", help="address to listen on (default 127.0.0.1)")
    add("--port", type=int, help="port to listen on, 0 for a free one (default 8002)")
    add("--max-sessions", type=int, help="live episodes at one time (default 256)")
    add("--max-engines", type=int, help="engines at one time, which sessions take turns on (default 8)")
    add("--engines-warm", type=int, help="idle engines kept started (default 1)")
    add("--journal", metavar="FILE", help="keep sessions in this SQLite file, so that they go on after a restart (default: not kept)")
    add("--idle-timeout-s", type=float, help="a session that nobody uses for so many seconds ends (default 1800)")
    add("--step-timeout-s", type=float, help="seconds that an engine may take for a step (default 30)")
    add("--log-level", choices=LOG_LEVELS, help="how much to log to standard error (default info)")
    add(
        "--allow-anonymous",
        action="store_true",
        default=None,
        help="serve an address that other machines reach without a token",
    )
    return parser


def main(prog: str, create_environment: Callable[[], "Environment"], argv: list[str] | None = None) -> int:
    """Run the command and return the exit status."""
    options = vars(_parser(prog).parse_args(argv))
    options.pop("command")
    try:
        _serve(prog, create_environment, {name: value for name, value in options.items() if value is not None})
    except _CannotStartError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return CANNOT_START
    return 0


class _CannotStartError(Exception):
    """The text is one sentence for the person at the keyboard."""


def _serve(prog: str, create_environment: Callable[[], "Environment"], options: dict[str, Any]) -> None:
    from pydantic import ValidationError

    from env_core.environment import EnvironmentUnavailableError
    from env_core.settings import Settings

    try:
        settings = Settings(**options)
        environment = create_environment()
        environment.check()
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in detail["loc"])
        raise _CannotStartError(f"the setting {name} was refused: {detail['msg']}; correct it and start again.") from None
    except EnvironmentUnavailableError as error:
        raise _CannotStartError(str(error)) from None
    if not (_is_loopback(settings.host) or settings.token or settings.allow_anonymous):
        raise _CannotStartError(
            f"serving {settings.host} was asked for, but other machines reach it and no token is set; "
            "set ETO_ENV_TOKEN, or say --allow-anonymous."
        )

    from env_core.app import create_app
    from env_core.journal import JournalError
    from env_core.logs import write_logs
    from env_core.server import bind, serve

    try:
        listener = bind(settings.host, settings.port)
    except OSError as error:
        raise _CannotStartError(
            f"listening on {settings.host} port {settings.port} was asked for, but is not possible "
            f"({error.strerror or error}); choose another with --port."
        ) from None
    write_logs(settings.log_level)
    try:
        app = create_app(environment, settings)
    except JournalError as error:
        raise _CannotStartError(str(error)) from None
    port = listener.getsockname()[1]
    print(f"{prog}: {environment.name} on http://{settings.host}:{port}", flush=True)
    serve(app, listener, settings.drain_timeout_s, settings.log_level)


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
