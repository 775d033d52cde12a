"""The two ways in which a job fails, each with an exit code of its own."""


class JobError(Exception):
    """The job file or its data cannot be used; nothing was started (exit code 2)."""


class TrainingError(Exception):
    """The job was started and could not be brought to its end (exit code 1)."""
