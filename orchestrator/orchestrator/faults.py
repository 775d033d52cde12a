"""The errors that a person can mend: shown as a message, without a traceback."""

from orchestrator.artefacts import StoreError
from orchestrator.config import ConfigError
from orchestrator.endpoints import Unanswerable
from orchestrator.env_client import SessionLost
from orchestrator.http import Refused, Unavailable
from orchestrator.jsonl import DataFileError
from orchestrator.launchers.local import JobFailed
from orchestrator.policy_client import SwapFailed
from orchestrator.process import ServiceError
from orchestrator.rollout import RolloutError
from orchestrator.run_store import RunStoreError
from orchestrator.stages.choice import StageError

USAGE = (ConfigError, RunStoreError, FileNotFoundError)
OURS = (
    *USAGE,
    SessionLost,
    Refused,
    Unavailable,
    Unanswerable,
    DataFileError,
    JobFailed,
    SwapFailed,
    ServiceError,
    RolloutError,
    StageError,
    StoreError,
)


def first(error: BaseException) -> BaseException:
    """The first error of a group of tasks: the others mostly say the same."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def is_ours(error: BaseException) -> bool:
    """Whether the message says all a person needs."""
    return isinstance(error, OURS) or (isinstance(error, OSError) and error.filename is not None)


def is_usage(error: BaseException) -> bool:
    """Whether what was asked for cannot be done, as against something that failed on the way."""
    return isinstance(error, USAGE)
