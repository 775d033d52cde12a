"""Prompts made here, by a chat template of one's own, for servers that are asked for plain completions.

The template is a Jinja one as Hugging Face tokenizers carry it: a file, or a model's directory that has one. It is other people's
text: it runs in Jinja's sandbox, and sees the messages and the special tokens alone.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from orchestrator.config import ConfigError
from orchestrator.records import Message

#: What a template may raise that is applied to messages which it does not expect.
FAULTS = (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True)
class ChatTemplate:
    """A template's text, and the token that ends a message in it, where its tokenizer names one."""

    source: str
    eos_token: str = ""

    def render(self, messages: list[Message]) -> str:
        """The prompt for the assistant's next turn. Raises ConfigError where the template refuses the messages.

        The beginning-of-sequence token is left to the server, which puts it before every prompt.
        """
        try:
            return _compiled(self.source).render(
                messages=[m.model_dump() for m in messages], add_generation_prompt=True, bos_token="", eos_token=self.eos_token
            )
        except FAULTS as error:
            raise ConfigError(f"policy.template cannot be applied to this conversation: {error}. Take another, or leave it out.") from error


def load(path: Path) -> ChatTemplate:
    """Read a template file, or a model's directory. Raises ConfigError."""
    about = _about(path / "tokenizer_config.json") if path.is_dir() else {}
    file = path / "chat_template.jinja" if path.is_dir() else path
    try:
        source = about["chat_template"] if "chat_template" in about and not file.exists() else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"policy.template {file} cannot be read: {error}. Give a Jinja file, or a model's directory.") from error
    if not isinstance(source, str):
        raise ConfigError(f"policy.template {path} has several templates. Write the one that is meant into a file, and give that.")
    try:
        _compiled(source)
    except TemplateError as error:
        raise ConfigError(f"policy.template {path} is no template: {error}.") from error
    eos = about.get("eos_token") or ""
    return ChatTemplate(source, eos if isinstance(eos, str) else str(eos.get("content", "")))


def _about(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))  # what is no UTF-8 raises a ValueError too
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigError(f"{file} is damaged: {error}.") from error
    return data if isinstance(data, dict) else {}


@lru_cache(maxsize=8)
def _compiled(source: str) -> Template:
    # as transformers sets them (apply_chat_template)
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    made.globals["raise_exception"] = _refuse
    return made.from_string(source)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
