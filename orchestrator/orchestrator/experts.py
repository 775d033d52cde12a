"""Expert trajectories from an environment's own gold paths, replayed through the service, with first-person thoughts from templates."""

import re
from collections.abc import Sequence

from orchestrator.endpoints import Conversation
from orchestrator.env_client import EnvClient
from orchestrator.episode import EpisodeFailed
from orchestrator.policy_client import Completion, Sampling
from orchestrator.records import Message

Thoughts = Sequence[tuple[str, str]]


def thought(action: str, thoughts: Thoughts) -> str:
    """A first-person sentence that leads to the action: that of the first pattern that matches all of it (Prompt.thoughts).

    Where the sentence is empty, the expert acts without a thought.
    """
    for pattern, sentence in thoughts:
        if match := re.fullmatch(pattern, action):
            return sentence.format(*match.groups())
    return f"The next thing to do is to {action}."


def answer(action: str, thoughts: Thoughts) -> str:
    """An assistant turn in ETO's form; without the line of thought where there is none."""
    thinks = thought(action, thoughts)
    return f"Thought: {thinks}\nAction: {action}" if thinks else f"Action: {action}"


class GoldPolicy:
    """Plays the environment's gold path of each task: an expert that answers like a model."""

    model = None

    def __init__(self, env: EnvClient, thoughts: Thoughts) -> None:
        self._env = env
        self._thoughts = thoughts
        self._paths: dict[str, list[str]] = {}

    async def chat(self, messages: list[Message], sampling: Sampling, seed: int, conversation: Conversation) -> Completion:
        """The next gold action of the task. Raises EpisodeFailed when the path has ended and the episode has not."""
        task_id = conversation.task_id
        if task_id not in self._paths:
            self._paths[task_id] = await self._env.expert(task_id)
        path, turn = self._paths[task_id], (len(messages) - 3) // 2
        if turn >= len(path):
            raise EpisodeFailed(f"the gold path of {task_id} ended after {turn} steps, but the episode did not.")
        return Completion(text=answer(path[turn], self._thoughts), prompt_tokens=0, completion_tokens=0, seconds=0.0)
