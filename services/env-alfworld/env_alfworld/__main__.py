"""`python -m env_alfworld serve`."""

import sys
from typing import TYPE_CHECKING

from env_core.cli import main

if TYPE_CHECKING:
    from env_core.environment import Environment


def _create_environment() -> "Environment":
    from env_alfworld.service import create_environment  # late, so that --help is instant

    return create_environment()


def run() -> None:
    """Run the command line."""
    sys.exit(main("env_alfworld", _create_environment))


if __name__ == "__main__":
    run()
