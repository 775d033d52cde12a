"""What the agent is told and how its answers are read. One YAML file per environment (envs/), pure functions here."""

import hashlib
import re
from functools import cached_property
from importlib import resources
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from orchestrator.config import ConfigError
from orchestrator.jsonl import first_fault
from orchestrator.records import Message
from orchestrator.trajectories import formats

# The first line with text after the marker: the reference takes all that follows, which sends hallucinated observations to the environment.
_ACTION = re.compile(r"Action:[ \t]*\n?[ \t]*([^\n]*)")

#: Fields that are pairs of a regular expression and what is made of its match.
_PATTERNS = ("rewrites", "thoughts", "goals", "path")

_WRITTEN_PREFIX = re.compile(r"Observation:[ \n]*")


class Prompt(BaseModel):
    """The conversation around a task. `example` is the worked example of eto-semantics: shown when playing, never trained on.

    `rewrites` are regular expressions and what stands in the place of their matches: they bring what the environment shows into the form
    that the agent is to see. The last three are the expert's (orchestrator/experts.py): `thoughts` are what it says before an action,
    `goals` what it says of a task where a thought has {goal}, and `path` changes a gold path as `rewrites` a text, one action a line.
    """

    model_config = ConfigDict(extra="forbid")
    env: str
    instruction: str
    acknowledgement: str = "OK"
    example: list[Message] = []
    observation_prefix: str = "Observation: "
    invalid_output: str
    refusals: list[str] = []
    rewrites: list[tuple[str, str]] = []
    thoughts: list[tuple[str, str]] = []
    goals: list[tuple[str, str]] = []
    path: list[tuple[str, str]] = []

    @model_validator(mode="after")
    def _patterns_work(self) -> "Prompt":
        for name, pairs in self:
            for pattern, instead in pairs if name in _PATTERNS else ():
                try:
                    if name in ("rewrites", "path"):
                        re.sub(pattern, instead, "")
                    else:
                        known = {"goal": ""} if name == "thoughts" else {}
                        instead.format(*[""] * re.compile(pattern).groups, **known)
                except (re.error, LookupError, ValueError, AttributeError, TypeError) as error:
                    raise ValueError(f"{name}: {pattern!r} with {instead!r} does not work: {error}") from error
        return self

    @model_validator(mode="after")
    def _example_alternates(self) -> "Prompt":
        roles = [m.role for m in self.example]
        if roles != ["user", "assistant"] * (len(roles) // 2):
            raise ValueError("example: must be pairs of a user and an assistant message")
        return self

    def opening(self, task: str) -> list[Message]:
        """Instruction, acknowledgement and task: the three prompt messages of every trajectory."""
        return [
            Message(role="user", content=self.instruction.strip()),
            Message(role="assistant", content=self.acknowledgement.strip()),
            Message(role="user", content=self.rewritten(task)),
        ]

    def observation(self, text: str) -> Message:
        """An environment's answer as the agent sees it."""
        return Message(role="user", content=self.observation_prefix + self.rewritten(text))

    def rewritten(self, text: str) -> str:
        """What the environment shows, in the form that the agent is to see; no change where it has that form."""
        for pattern, instead in self.rewrites:
            text = re.sub(pattern, instead, text)
        return text

    def with_example(self, messages: list[Message]) -> list[Message]:
        """The conversation to send: the worked example stands after the acknowledgement (ETO's place for it)."""
        return messages[:2] + self.example + messages[2:]

    def refused(self, observation: str) -> bool:
        """Whether the environment did not understand the action."""
        return any(r in observation for r in self.refusals)

    @cached_property
    def example_sha256(self) -> str:
        """Names the worked example in an episode's record."""
        return hashlib.sha256("\0".join(m.content for m in self.example).encode()).hexdigest()


def parse_action(output: str) -> str | None:
    """The action in a model's `Thought: ...\\nAction: ...` answer, or None if it holds none."""
    match = _ACTION.search(output)
    action = match.group(1).strip() if match else ""
    return action or None


def load_prompt(env: str, path: Path | None = None) -> Prompt:
    """The prompt of an environment, from `path` or from the package. Raises FileNotFoundError or ConfigError.

    `path` is a prompt file, or a data set of trajectories (.json, .jsonl) whose own instruction is to be used.
    """
    if path is not None and path.suffix in (".json", ".jsonl") and path.is_file():
        return prompt_of(next(formats.read_trajectories(path), None), load_prompt(env), path)
    if path is not None and not path.is_file():
        raise FileNotFoundError(
            f"there is no prompt file {path}, seen from {Path.cwd()}. Give another path, or start in the folder that it is seen from."
        )
    source = path if path is not None else resources.files("orchestrator") / "envs" / f"{env}.yaml"
    if not source.is_file():
        known = sorted(p.name.removesuffix(".yaml") for p in (resources.files("orchestrator") / "envs").iterdir())
        raise FileNotFoundError(f"no prompt for environment {env!r}; known: {', '.join(known)}. Set env.prompt to a file of your own.")
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
        return Prompt.model_validate({"env": env, **content})
    except (yaml.YAMLError, TypeError, ValidationError) as error:
        why = first_fault(error) if isinstance(error, ValidationError) else str(error)
        raise ConfigError(f"{source} is no prompt file: {why}. Compare it with those in orchestrator/orchestrator/envs.") from error


def prompt_of(first: formats.Trajectory | None, packaged: Prompt, path: Path) -> Prompt:
    """The packaged prompt with the instruction of a data set, so that an agent is told what the data set's agent was told.

    From its first trajectory: instruction, acknowledgement, and what stands before an observation. Raises ConfigError.
    """
    messages = first.messages if first is not None else []
    roles = [m.role for m in messages[:4]]
    if roles != ["user", "assistant", "user", "assistant"] or "Action:" in messages[1].content:
        raise ConfigError(
            f"{path} was to give the prompt, but its first trajectory does not begin with an instruction, an acknowledgement and a task. "
            "Name a data set that does (ETO's and AgentTraj's do), or a prompt file like those in orchestrator/orchestrator/envs."
        )
    written = _WRITTEN_PREFIX.match(messages[4].content) if len(messages) > 4 else None
    prefix = packaged.observation_prefix if len(messages) <= 4 else written[0] if written else ""
    example = [
        m.model_copy(update={"content": prefix + m.content.removeprefix(packaged.observation_prefix)})
        if m.role == "user" and m.content.startswith(packaged.observation_prefix)
        else m
        for m in packaged.example
    ]
    told = {"instruction": messages[0].content, "acknowledgement": messages[1].content, "observation_prefix": prefix, "example": example}
    return packaged.model_copy(update=told)
