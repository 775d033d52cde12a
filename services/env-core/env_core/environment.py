"""What an environment gives to the core: a table of tasks, and an engine that plays them in a worker process."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from fastapi import APIRouter

    from env_core.dialects.agentgym import AgentGym

SplitType = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class Task:
    """One playable task. `max_steps` is its own step limit."""

    task_id: str
    task_type: str
    max_steps: int


@dataclass(frozen=True, slots=True)
class Split:
    """A named, ordered list of tasks."""

    name: str
    type: SplitType


class TaskSet(Protocol):
    """The tasks and splits of an environment. Answers without an engine."""

    def splits(self) -> Sequence[Split]:
        """Return all splits."""
        ...

    def tasks(self, split: str) -> Sequence[Task]:
        """Return the tasks of a split in order; KeyError where there is no such split."""
        ...

    def find(self, task_id: str) -> Task:
        """Return a task; KeyError, with the reason as its text, where there is no such task."""
        ...


@dataclass(slots=True)
class Outcome:
    """What an engine answers to load and step.

    `score` is the episode's score so far in 0..1 (the core takes the deltas); `terminated` says that the episode is over.
    """

    text: str
    score: float = 0.0
    terminated: bool = False
    success: bool = False
    info: dict[str, Any] = field(default_factory=dict)
    valid_actions: list[str] | None = None


class Engine(Protocol):
    """Plays one episode at a time, in a worker process. Any exception ends that process.

    It must be deterministic: the same task, seed and actions give the same outcomes in every process, whatever else was played in it.
    Where Environment.renders is set, it also has `render() -> str`: the current page as HTML. Where Environment.agentgym is set, it may
    have `inspect(what: str) -> Any`: JSON for that dialect's routes. Neither changes the episode.
    """

    def load(self, task_id: str, seed: int, include: Sequence[str]) -> Outcome:
        """Begin an episode, whatever went before."""
        ...

    def step(self, action: str, include: Sequence[str]) -> Outcome:
        """Take one action."""
        ...

    def expert(self, task_id: str) -> list[str]:
        """Return the actions of an expert; the episode that is loaded may be lost."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...


class EnvironmentUnavailableError(Exception):
    """The environment cannot run on this machine; the text is for the person who started the service."""


@dataclass(frozen=True, slots=True)
class Environment:
    """All that the core needs to know of an environment.

    `engine` names a factory as "module:function", called in each worker process with `engine_options` as keywords.
    `check` raises EnvironmentUnavailableError. `slots_per_worker` engines, each made by the factory, share a worker process: their
    calls are made one at a time on one thread, module-level state (caches) is theirs together, and the end of the process is the end
    of them all (their sessions are replayed elsewhere). A worker whose main process holds more than `recycle_rss_mb` takes no new
    episodes, and its sessions move to others by replay. `renders` says that engines have `render()`. `agentgym` makes the routes under
    /agentgym, in the shapes that AgentGym's client of this environment expects.
    """

    name: str
    description: str
    version: str
    tasks: TaskSet
    engine: str
    engine_options: Mapping[str, Any]
    check: Callable[[], None]
    expert_source: str | None = None
    recycle_rss_mb: int | None = None
    slots_per_worker: int = 1
    renders: bool = False
    agentgym: "Callable[[AgentGym], APIRouter] | None" = None
