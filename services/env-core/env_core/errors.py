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


def unknown_session(session_id: str) -> ServiceError:
    """404."""
    return ServiceError(404, "unknown_session", f"Session {session_id} was asked for, but there is none of this id; reset for a new one.")


def expired_session(session_id: str, reason: str) -> ServiceError:
    """404 for a session that the service ended."""
    return ServiceError(404, "expired_session", f"Session {session_id} was asked for, but it was ended: {reason}; reset for a new one.")


def step_in_progress(session_id: str) -> ServiceError:
    """409 where two requests to a session meet."""
    return ServiceError(
        409,
        "step_in_progress",
        f"Session {session_id} was asked for while an earlier request to it is still at work; wait for its reply.",
    )


def episode_done(session_id: str) -> ServiceError:
    """409 after the end."""
    return ServiceError(
        409,
        "episode_done",
        f"Session {session_id} was to go on, but its episode is over; reset, with this session_id or without, to play on.",
    )


def reply_forgotten(request_id: str) -> ServiceError:
    """409 for a repeated request whose reply is no longer kept."""
    return ServiceError(
        409,
        "reply_forgotten",
        f"The reply to request {request_id} was asked for again, but the session has gone on and keeps its last ones only; "
        "GET /state tells where it stands.",
    )


def too_many_sessions(live: int, cap: int) -> ServiceError:
    """429 at the cap."""
    return ServiceError(
        429,
        "too_many_sessions",
        f"A new episode was asked for, but {live} are live and the cap is {cap}; "
        "end or delete one, or start the service with a higher --max-sessions.",
        retry_after_s=1,
    )
