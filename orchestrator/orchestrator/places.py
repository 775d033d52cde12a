"""Where things are: the checkout with its services, and the folder that remembers what runs."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from orchestrator import __version__


def root() -> Path:
    """The checkout (ETO_ROOT, or the folder above this package)."""
    return Path(os.environ.get("ETO_ROOT") or Path(__file__).resolve().parents[2])


def state_dir() -> Path:
    """Pid files and logs of local services (ETO_STATE, or `.eto` in the checkout)."""
    return Path(os.environ.get("ETO_STATE") or root() / ".eto")


def service_python(service: str) -> Path:
    """The interpreter of a service's own virtual environment. Raises FileNotFoundError with what to do."""
    python = root() / "services" / service / ".venv" / "bin" / "python"
    if not python.exists():
        raise FileNotFoundError(
            f"{service} is not installed here (no {python}). Run `make install` in {root()}, or give its URL in the config."
        )
    return python


@cache
def code_version() -> str:
    """The checkout's commit, with `+dirty` where tracked files differ from it; elsewhere ETO_CODE_VERSION or the package's version.

    What is in docs/ is no code: a study's outcomes are kept there while it goes on.
    """
    if shutil.which("git") is None:  # as in the image
        return os.environ.get("ETO_CODE_VERSION") or __version__
    git = ["git", "-C", str(root())]
    commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    if commit.returncode != 0:
        return os.environ.get("ETO_CODE_VERSION") or __version__
    dirty = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs"], capture_output=True, text=True)
    return commit.stdout.strip() + ("+dirty" if dirty.stdout.strip() else "")
