"""The two search engines: Lucene's BM25 as the original has it, and bm25s where no JVM is wanted. Heavy imports wait until one is used."""

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from env_webshop.shop import Searcher

Engine = Literal["lucene", "bm25s"]

#: BM25's parameters in pyserini's LuceneSearcher, which the original takes as they are.
K1 = 0.9
B = 0.4
REMEMBERED_QUERIES = 1024

#: Called for the documents, (asin, text), as often as needed.
Documents = Callable[[], Iterable[tuple[str, str]]]


class RememberingSearcher:
    """Keeps the last rankings: each page of results, and each way back to it, asks for the same one."""

    def __init__(self, searcher: Searcher) -> None:
        self.search = functools.lru_cache(REMEMBERED_QUERIES)(searcher.search)


def open_searcher(engine: Engine, folder: Path) -> Searcher:
    """Open an index that was made by the engine's indexer."""
    if engine == "lucene":
        from env_webshop.lucene import LuceneSearcher

        return RememberingSearcher(LuceneSearcher(folder))
    return RememberingSearcher(Bm25sSearcher(folder))


def _index_lucene(documents: Documents, folder: Path) -> None:
    from env_webshop import lucene

    lucene.index(documents(), folder)


class Bm25sSearcher:
    """bm25s over an index on disk, which is mapped, not read."""

    def __init__(self, folder: Path) -> None:
        import bm25s  # type: ignore[import-untyped]
        import orjson

        self._index = bm25s.BM25.load(folder, mmap=True)
        self._asins: list[str] = orjson.loads((folder / "asins.json").read_bytes())

    def search(self, query: str, count: int) -> list[str]:
        """Return the asins of the best products, best first."""
        tokens = next(_tokens([query]))
        known = [token for token in tokens if token in self._index.vocab_dict]
        if not known:
            return []
        places, scores = self._index.retrieve([known], k=min(count, len(self._asins)), show_progress=False)
        return [self._asins[place] for place, score in zip(places[0], scores[0], strict=True) if score > 0]


def _tokens(texts: Iterable[str]) -> Iterator[list[str]]:
    import bm25s
    import Stemmer  # type: ignore[import-not-found]

    stemmer = Stemmer.Stemmer("porter")
    for text in texts:
        found: list[str] = bm25s.tokenize(text, stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)[0]
        yield found


def _index_bm25s(documents: Documents, folder: Path) -> None:
    import bm25s
    import orjson

    index = bm25s.BM25(k1=K1, b=B, method="lucene")
    index.index(list(_tokens(text for _, text in documents())), show_progress=False)
    index.save(folder)
    (folder / "asins.json").write_bytes(orjson.dumps([asin for asin, _ in documents()]))


INDEXERS: dict[str, Callable[[Documents, Path], None]] = {"lucene": _index_lucene, "bm25s": _index_bm25s}
