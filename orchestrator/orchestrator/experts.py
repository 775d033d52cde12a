"""Expert trajectories from an environment's own gold paths, replayed through the service, with first-person thoughts from templates."""

import re

from orchestrator.env_client import EnvClient
from orchestrator.episode import EpisodeFailed
from orchestrator.policy_client import Completion, Sampling
from orchestrator.records import Message

# One sentence per kind of ScienceWorld action. The first pattern that matches speaks.
_THOUGHTS = [
    (r"open door to (.+)", "The way leads through the door to the {0}, so I will open it."),
    (r"(?:go|move) to (.+)", "I need to get to the {0}."),
    (r"teleport to (.+)", "I need to get to the {0}."),
    (r"look around", "I will look around to see what is here."),
    (r"look (?:at|in) (.+)", "I will take a closer look at the {0}."),
    (r"focus on (.+)", "The {0} is what the task is about, so I will focus on it."),
    (r"pick up (.+)", "I need the {0}, so I will pick it up."),
    (r"put down (.+)", "I no longer need the {0}."),
    (r"move (.+) to (.+)", "The {0} belongs in the {1}."),
    (r"pour (.+) (?:into|in) (.+)", "I will pour the {0} into the {1}."),
    (r"dunk (.+) (?:into|in) (.+)", "I will dunk the {0} into the {1}."),
    (r"mix (.+)", "Everything is in place, so I will mix what is in the {0}."),
    (r"connect (.+) to (.+)", "I will connect the {0} to the {1}."),
    (r"disconnect (.+)", "I will disconnect the {0}."),
    (r"use (.+) on (.+)", "I will use the {0} on the {1}."),
    (r"activate (.+)", "I will turn on the {0}."),
    (r"deactivate (.+)", "The {0} is no longer needed, so I will turn it off."),
    (r"open (.+)", "What I need may be in the {0}, so I will open it."),
    (r"close (.+)", "I will close the {0}."),
    (r"read (.+)", "The {0} may tell me something useful."),
    (r"examine (.+)", "I will examine the {0}."),
    (r"wait\d*", "This takes time, so I will wait."),
    (r"inventory", "I will check what I carry."),
    (r"\d+", "Several things match, so I will choose this one."),
]


def thought(action: str) -> str:
    """A first-person sentence that leads to the action."""
    for pattern, sentence in _THOUGHTS:
        if match := re.fullmatch(pattern, action):
            return sentence.format(*match.groups())
    return f"The next thing to do is to {action}."


def answer(action: str) -> str:
    """An assistant turn in ETO's form."""
    return f"Thought: {thought(action)}\nAction: {action}"


class GoldPolicy:
    """Plays the environment's gold path of each task: an expert that answers like a model."""

    model = None

    def __init__(self, env: EnvClient) -> None:
        self._env = env
        self._paths: dict[str, list[str]] = {}

    async def chat(self, messages: list[Message], sampling: Sampling, seed: int, task_id: str) -> Completion:
        """The next gold action of the task. Raises EpisodeFailed when the path has ended and the episode has not."""
        if task_id not in self._paths:
            self._paths[task_id] = await self._env.expert(task_id)
        path, turn = self._paths[task_id], (len(messages) - 3) // 2
        if turn >= len(path):
            raise EpisodeFailed(f"the gold path of {task_id} ended after {turn} steps, but the episode did not.")
        return Completion(text=answer(path[turn]), prompt_tokens=0, completion_tokens=0, seconds=0.0)
