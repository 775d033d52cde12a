"""Progress as JSON lines: on standard output and in a file beside the output directory."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO


@dataclass
class Progress:
    """Where events go; a process that is not the main one writes nothing."""

    stream: TextIO | None
    path: Path | None = None

    def emit(self, event: str, **fields: Any) -> None:
        """Write one event as one line."""
        if self.stream is None:
            return
        line = json.dumps({"event": event, **fields}, ensure_ascii=False)
        self.stream.write(line + "\n")
        self.stream.flush()
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def take_standard_output() -> TextIO:
    """Keep standard output for progress lines: whatever libraries print goes to standard error."""
    sys.stdout.flush()
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return kept
