"""From a conversation to token ids and a mask of the tokens that carry loss.

What an assistant message adds to the prompt is told by the chat template's generation markers, if it has any, else found by
rendering prefixes of the conversation: the span starts after the header that asks for an answer. It ends with the token that
closes the turn, found by position: a pad token of the same value is never confused with it. Words that the template puts before
an answer of its own accord (an empty <think> block before the last answer, as Qwen3 does) are not the agent's and carry no loss.
"""

import re
from dataclasses import dataclass
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from trainer.data import Message, is_trained
from trainer.errors import JobError


@dataclass(frozen=True)
class Tokens:
    """Token ids of one text, which of them are targets, and which turn (0, 1, ...; -1: none) each target belongs to."""

    ids: list[int]
    turns: list[int]

    @property
    def mask(self) -> list[bool]:
        """Tell for each token whether it carries loss."""
        return [turn >= 0 for turn in self.turns]


def tokenize_conversation(tokenizer: Any, messages: list[Message], where: str, prompt_messages: int = 0) -> Tokens:
    """Render and tokenize a conversation; assistant messages from index prompt_messages on are targets."""
    text, spans = trained_spans(tokenizer, messages, where, prompt_messages)
    ids, turns = _tokenize_with_spans(tokenizer, text, spans)
    if ids is None:
        ids, turns = _tokenize_in_pieces(tokenizer, text, spans, where)
    return Tokens(ids, turns)


def tokenize_sampled(tokenizer: Any, messages: list[Message], prompt_messages: int, sampled: list[list[int]], where: str) -> Tokens:
    """Render an episode with the very tokens that the policy drew in each turn as targets: their text could be tokenized otherwise.

    A turn that was cut before it ended (max_tokens) is closed, as in the prompts that followed it; the closing carries no loss.
    The server was sent text, and tokenized earlier turns anew. From the turn on whose prompt it thus saw as other tokens than stand here
    (the policy drew a text otherwise than a tokenizer writes it), it is left out: those log-probabilities belong to another prompt.
    """
    shown = messages[: prompt_messages + 2 * len(sampled) - 1]  # nothing answers the last observation
    text, spans = trained_spans(tokenizer, shown, where, prompt_messages)
    ids: list[int] = []
    turns: list[int] = []
    position = 0
    for turn, ((start, end), drawn) in enumerate(zip(spans, sampled, strict=True)):
        before = tokenizer(text[position:start], add_special_tokens=False)["input_ids"]
        if turn and tokenizer(text[:start], add_special_tokens=False)["input_ids"] != ids + before:
            break
        ids += [*before, *drawn]
        turns += [-1] * len(before) + [turn] * len(drawn)
        closing = max((token for token in _special_tokens(tokenizer) if text[:end].endswith(token)), key=len)
        closed = tokenizer.convert_tokens_to_ids(closing) == drawn[-1]
        position = end if closed else end - len(closing)
    return Tokens(ids, turns)


def trained_spans(tokenizer: Any, messages: list[Message], where: str, prompt_messages: int = 0) -> tuple[str, list[tuple[int, int]]]:
    """Return the rendered conversation and the character ranges of the trained assistant messages."""
    plain = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
    full = _render(tokenizer, plain, False, where)
    trained = [index for index, message in enumerate(messages) if index >= prompt_messages and is_trained(message)]
    if re.search(r"{%-?\s*generation\s*-?%}", tokenizer.chat_template):
        starts = _marked_starts(tokenizer, plain, full, where)
    else:
        starts = {index: _start_after_header(tokenizer, plain, full, index, where) for index in trained}
    return full, [_span(tokenizer, full, starts[index], messages[index], where) for index in trained]


def _start_after_header(tokenizer: Any, messages: list[Message], full: str, index: int, where: str) -> int:
    before = _render(tokenizer, messages[:index], True, where)
    if not full.startswith(before):
        raise JobError(
            f"{where}: what stands before message {index} is rendered in another way when the conversation goes on, so the template "
            "of this model cannot be trained turn by turn: use a chat template that only appends, or one with generation markers"
        )
    return len(before)


def _marked_starts(tokenizer: Any, messages: list[Message], full: str, where: str) -> dict[int, int]:
    """Return where the template's generation markers let each assistant message begin."""
    both: Any = render_jinja_template(  # the library's annotation leaves the second part out
        conversations=[messages],
        chat_template=tokenizer.chat_template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    rendered, marked = both
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if rendered[0] != full or len(marked[0]) != len(answers):
        raise JobError(
            f"{where}: the chat template marks {len(marked[0])} answers where the conversation has {len(answers)}: "
            "correct the template's generation markers or take them out"
        )
    return {index: start for index, (start, _) in zip(answers, marked[0], strict=True)}


def _render(tokenizer: Any, messages: list[Message], add_generation_prompt: bool, where: str) -> str:
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    except Exception as error:  # templates raise whatever they like
        raise JobError(f"{where}: the chat template refuses the conversation ({error}): correct the line") from error
    return str(text)


def _span(tokenizer: Any, text: str, start: int, message: Message, where: str) -> tuple[int, int]:
    """Return the range of an answer and its closing special token; what the template puts after it is never generated."""
    content = message["content"].strip()
    at = text.find(content, start)
    tokens = _special_tokens(tokenizer)
    header = text[start : max(at, start)]
    closing = [(found, found + len(token)) for token in tokens if (found := text.find(token, at + len(content))) >= 0]
    if at < 0 or not closing or any(token in header for token in tokens):
        raise JobError(
            f"{where}: the chat template does not render the assistant message as it is, followed by a special token that ends "
            "the turn, so the model could not learn to stop: use a template that closes turns with one"
        )
    return (at if header.strip() else start), min(closing)[1]


def _special_tokens(tokenizer: Any) -> list[str]:
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def _tokenize_with_spans(tokenizer: Any, text: str, spans: list[tuple[int, int]]) -> tuple[list[int] | None, list[int]]:
    """Tokenize the whole text; no ids if a token crosses the border of a span."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    turns = [-1] * len(encoded["input_ids"])
    position = 0
    for turn, (start, end) in enumerate(spans):
        last = start
        while position < len(turns) and encoded["offset_mapping"][position][0] < end:
            token_start, token_end = encoded["offset_mapping"][position]
            if token_start >= start:
                turns[position] = turn
                last = token_end
            elif token_end > start:
                return None, []
            position += 1
        if last != end:
            return None, []
    return list(encoded["input_ids"]), turns


def _tokenize_in_pieces(tokenizer: Any, text: str, spans: list[tuple[int, int]], where: str) -> tuple[list[int], list[int]]:
    """Tokenize prompt and answer apart, as a server does that tokenizes a prompt and appends what it generates."""
    ids: list[int] = []
    turns: list[int] = []
    position = 0
    borders = [(start, end, turn) for turn, (start, end) in enumerate(spans)]
    for start, end, turn in [*borders, (len(text), len(text), -1)]:
        for piece, owner in ((text[position:start], -1), (text[start:end], turn)):
            piece_ids = tokenizer(piece, add_special_tokens=False)["input_ids"] if piece else []
            ids += piece_ids
            turns += [owner] * len(piece_ids)
        position = end
    if tokenizer.decode(ids, clean_up_tokenization_spaces=False) != text:
        raise JobError(
            f"{where}: a token crosses the border of an assistant message and the pieces do not decode to the text: "
            "use a tokenizer and template that keep the turns apart"
        )
    return ids, turns
