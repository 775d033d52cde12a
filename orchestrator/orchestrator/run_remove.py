"""The removal of a run directory."""

import os
import shutil
import uuid
from pathlib import Path

from orchestrator.run_store import RunStore, RunStoreError


def size_bytes(folder: Path) -> int:
    """Bytes of the files in a folder; links are not followed."""
    return sum((Path(top) / name).lstat().st_size for top, _, files in os.walk(folder) for name in files)


def remove(folder: Path) -> None:
    """Remove a run, at once for others: a killed removal leaves a hidden folder, never half a run.

    Raises RunStoreError if it is in use or a link.
    """
    if folder.is_symlink():
        raise RunStoreError(f"{folder} is a link: nothing was removed. Remove what it leads to, {folder.resolve()}, then the link.")
    with RunStore(folder).locked():
        gone = folder.with_name(f".{folder.name}.removed-{uuid.uuid4().hex[:8]}")
        folder.rename(gone)
        shutil.rmtree(gone)
