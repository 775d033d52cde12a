"""Prompts by a chat template of one's own; tests/test_completions.py asks a server with them."""

import json
from pathlib import Path

import pytest
from orchestrator.chat_template import load
from orchestrator.config import ConfigError
from orchestrator.records import Message

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MESSAGES = [Message(role="user", content="Go {{ 1 + 1 }}"), Message(role="assistant", content="OK"), Message(role="user", content="north?")]
RENDERED = (
    "<|im_start|>user\nGo {{ 1 + 1 }}<|im_end|>\n<|im_start|>assistant\nOK<|im_end|>\n"
    "<|im_start|>user\nnorth?<|im_end|>\n<|im_start|>assistant\n"
)


def test_a_models_directory_gives_its_template_and_the_token_that_ends_a_message(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}, "chat_template": CHATML}))
    assert load(tmp_path).render(MESSAGES) == RENDERED
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")  # newer models have it in a file of its own
    assert load(tmp_path).render(MESSAGES) == "Go {{ 1 + 1 }}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% for", "is no template"),
        ("{{ raise_exception('roles must alternate') }}", "cannot be applied to this conversation: roles must alternate"),
        ("{{ ''.__class__.__mro__ }}", "cannot be applied .* unsafe"),
        ("{{ messages.append(1) }}", "cannot be applied .* unsafe"),
        ("{{ 1 / 0 }}", "cannot be applied .* division by zero"),
        ("{{ messages[0] + 1 }}", "cannot be applied"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "cannot be applied .* too big"),
    ],
)
def test_a_template_that_is_none_or_refuses_or_reaches_out_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.jinja").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "t.jinja").render(MESSAGES)


def test_a_template_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.jinja")


def test_a_file_that_is_no_text_and_a_model_of_several_templates_are_told(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "t.jinja")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": [{"name": "default", "template": "x"}]}')
    with pytest.raises(ConfigError, match="has several templates"):
        load(tmp_path)
