"""What every stage works with, and the names of what they write."""

from dataclasses import dataclass

from orchestrator import jsonl
from orchestrator.config import RunConfig
from orchestrator.env_client import Task
from orchestrator.placement import EnvPlacement, PolicyPlacement
from orchestrator.progress import StageProgress
from orchestrator.prompts import Prompt, load_prompt
from orchestrator.records import Episode
from orchestrator.run_store import RunStore
from orchestrator.stages.choice import choose_tasks, hold_out

EPISODES, PAIRS, CHECKPOINT = "episodes.jsonl", "pairs.jsonl", "checkpoint"


@dataclass(frozen=True)
class Context:
    """What a stage works with."""

    config: RunConfig
    store: RunStore
    env: EnvPlacement
    policy: PolicyPlacement
    progress: StageProgress
    base_model: str | None = None  # None: the run makes its own

    def episodes(self, stage: str) -> list[Episode]:
        """A finished stage's episodes."""
        return list(jsonl.read(self.store.stage_dir(stage) / EPISODES, Episode))

    def model_dir(self, stage: str) -> str:
        """A finished training stage's checkpoint, or the model that the run starts from."""
        if stage == "base":
            assert self.base_model is not None  # noqa: S101 - a model of the run's own has a stage
            return self.base_model
        return str((self.store.stage_dir(stage) / CHECKPOINT).resolve())

    def successful_experts(self) -> dict[str, Episode]:
        """The experts' successes, by their task."""
        return {e.task_id: e for e in self.episodes("experts") if e.success}

    def prompt(self) -> Prompt:
        """What the agent is told before its task."""
        return load_prompt(self.config.env.name, self.config.env.prompt)

    async def train_tasks(self) -> tuple[list[Task], list[Task]]:
        """The training tasks, and those of them that are held out for the choice of a policy. Raises StageError as hold_out does."""
        tasks = await choose_tasks(self.env.client, self.config.train_tasks)
        return hold_out(tasks, self.config.dev.held_out or 0 if self.config.dev is not None else 0)
