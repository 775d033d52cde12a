"""Failures that a client is told about: a status, a code and a message in three parts (asked, why not, what now)."""


class ServiceError(Exception):
    """Ends a request with an error reply."""

    def __init__(self, status: int, code: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, dict[str, str]]:
        """Return the reply's JSON."""
        return {"error": {"code": self.code, "message": self.message}}

    def headers(self) -> dict[str, str]:
        """Return the reply's extra headers."""
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


def invalid_request(message: str) -> ServiceError:
    """422."""
    return ServiceError(422, "invalid_request", message)


def draining() -> ServiceError:
    """503 while the service shuts down."""
    return ServiceError(503, "draining", "The request was not begun, because this service is shutting down; ask another instance.", 5)


def engine_unavailable(reason: str) -> ServiceError:
    """503 where no engine could be had."""
    return ServiceError(
        503,
        "engine_unavailable",
        f"The request needs an engine, but {reason}; ask again soon, and read the service's log if it goes on.",
        2,
    )
