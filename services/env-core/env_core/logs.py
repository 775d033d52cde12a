"""The log: one JSON object a line on standard error, with the session and the request it is about."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

session_id: ContextVar[str | None] = ContextVar("session_id", default=None)
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "session_id": session_id.get(),
            "request_id": request_id.get(),
            "exception": self.formatException(record.exc_info) if record.exc_info else None,
        }
        return json.dumps({name: value for name, value in line.items() if value is not None}, ensure_ascii=False)


def write_logs(level: str) -> None:
    """Send what this process logs to standard error; `level` is one of uvicorn's."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level="DEBUG" if level == "trace" else level.upper(), handlers=[handler], force=True)
