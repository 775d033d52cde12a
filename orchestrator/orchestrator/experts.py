"""Expert trajectories from an environment's own gold paths, replayed through the service, with first-person thoughts from templates."""

import re

from orchestrator.endpoints import Conversation
from orchestrator.env_client import EnvClient
from orchestrator.episode import EpisodeFailed
from orchestrator.policy_client import Completion, Sampling
from orchestrator.prompts import Prompt
from orchestrator.records import Message


def goal(task: str, prompt: Prompt) -> str:
    """What an expert says that it is about: the sentence of the first pattern found in the task's text (Prompt.goals), or nothing."""
    for pattern, sentence in prompt.goals:
        if match := re.search(pattern, task):
            return sentence.format(*match.groups(""))
    return ""


def path(gold: list[str], prompt: Prompt) -> list[str]:
    """The actions of a gold path as an expert plays them: Prompt.path, applied to the path's lines, one action each."""
    lines = "".join(f"{action}\n" for action in gold)
    for pattern, instead in prompt.path:
        lines = re.sub(pattern, instead, lines)
    return lines.splitlines()


def thought(action: str, prompt: Prompt, about: str = "") -> str:
    """A first-person sentence that leads to the action: that of the first pattern that matches all of it (Prompt.thoughts).

    `about`, the task's goal, stands where the sentence has {goal}. Where the sentence is empty, the expert acts without a thought.
    """
    for pattern, sentence in prompt.thoughts:
        if match := re.fullmatch(pattern, action):
            return sentence.format(*match.groups(""), goal=about)
    return f"The next thing to do is to {action}."


def answer(action: str, prompt: Prompt, about: str = "") -> str:
    """An assistant turn in ETO's form; without the line of thought where there is none."""
    thinks = thought(action, prompt, about)
    return f"Thought: {thinks}\nAction: {action}" if thinks else f"Action: {action}"


class GoldPolicy:
    """Plays the environment's gold path of each task: an expert that answers like a model."""

    model = None

    def __init__(self, env: EnvClient, prompt: Prompt) -> None:
        self._env = env
        self._prompt = prompt
        self._paths: dict[str, list[str]] = {}

    async def chat(self, messages: list[Message], sampling: Sampling, seed: int, conversation: Conversation) -> Completion:
        """The next gold action of the task. Raises EpisodeFailed when the path has ended and the episode has not."""
        task_id = conversation.task_id
        if task_id not in self._paths:
            self._paths[task_id] = path(await self._env.expert(task_id), self._prompt)
        actions, turn = self._paths[task_id], (len(messages) - 3) // 2
        if turn >= len(actions):
            raise EpisodeFailed(f"the gold path of {task_id} ended after {turn} steps, but the episode did not.")
        text = answer(actions[turn], self._prompt, goal(messages[2].content, self._prompt))
        return Completion(text=text, prompt_tokens=0, completion_tokens=0, seconds=0.0)
