"""`python -m env_sciworld serve`."""

import sys
from typing import TYPE_CHECKING

from env_core.cli import main

if TYPE_CHECKING:
    from env_core.environment import Environment


def _create_environment() -> "Environment":
    from env_sciworld.service import create_environment  # late, so that --help is instant

    return create_environment()


def run() -> None:
    """Run the command line."""
    sys.exit(main("env_sciworld", _create_environment))


if __name__ == "__main__":
    run()
