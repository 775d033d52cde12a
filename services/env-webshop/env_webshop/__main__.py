"""`python -m env_webshop serve`."""

import os
import sys
from typing import TYPE_CHECKING

from env_core.cli import main

if TYPE_CHECKING:
    from env_core.environment import Environment


#: Settings of the core that fit this environment better than its own: sessions are light here, so that each may keep its engine.
DEFAULTS = {"ETO_ENV_PORT": "8001", "ETO_ENV_MAX_SESSIONS": "1024", "ETO_ENV_MAX_ENGINES": "1024"}


def _create_environment() -> "Environment":
    from env_webshop.service import create_environment  # late, so that --help is instant

    return create_environment()


def run() -> None:
    """Run the command line."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    sys.exit(main("env_webshop", _create_environment))


if __name__ == "__main__":
    run()
