#!services/env-webshop/.venv/bin/python
"""Whether the service's search ranks WebShop's 1,000 products as pyserini's own LuceneSearcher does over the original's index.

    ETO_DATA=DIR make soak ONLY=webshop_ranking, or benchmarks/soak/webshop_ranking.py [--queries 200]

DIR holds webshop/{items_shuffle_1000.json, items_ins_v2_1000.json, documents.jsonl} and experts/webshop_agenttraj.json.
The reference: Anserini's indexer with the original's options over the original's documents.jsonl, searched by the class LuceneSearcher of
the installed pyserini wheel. Its module is loaded as it stands; modules that it imports for other purposes (fusion of runs, dense
encoders, downloads: torch, faiss, pandas) are empty stand-ins, for BM25 uses nothing of them. Ours: the service's index of the
service's catalogue. Queries: half what AgentTraj's agents typed, half instructions of goals.
Writes benchmarks/out/soak-webshop_ranking.json.
"""

import argparse
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from env_webshop import build, lucene
from env_webshop.catalogue import ProductStore
from env_webshop.search import open_searcher
from env_webshop.sources import find_source

ROOT = Path(__file__).parents[2]
OUT = ROOT / "benchmarks" / "out" / "soak-webshop_ranking.json"
COUNT = 50
#: Modules that LuceneSearcher's module imports names from, none of which a BM25 search uses.
STAND_INS = {
    "pyserini.fusion": ("FusionMethod", "reciprocal_rank_fusion"),
    "pyserini.index": ("Document", "IndexReader"),
    "pyserini.search": ("JQuery", "JQueryGenerator"),
    "pyserini.trectools": ("TrecRun",),
    "pyserini.util": ("download_prebuilt_index", "get_sparse_indexes_info"),
}


def reference_searcher(documents: Path, folder: Path) -> Any:
    """Index the original's documents as the original does and open pyserini's own searcher on them."""
    collection = folder / "documents"
    collection.mkdir()
    (collection / "documents.jsonl").write_bytes(documents.read_bytes())
    command = [str(lucene.java_home() / "bin" / "java"), *lucene.FLAGS, "-cp", str(lucene.jar()), "io.anserini.index.IndexCollection"]
    command += ["-collection", "JsonCollection", "-generator", "DefaultLuceneDocumentGenerator", "-threads", "1"]
    command += ["-input", str(collection), "-index", str(folder / "index"), "-storePositions", "-storeDocvectors", "-storeRaw"]
    subprocess.run(command, check=True, capture_output=True)
    for name, imported in STAND_INS.items():
        stand_in = ModuleType(name)
        for word in imported:
            setattr(stand_in, word, None)
        sys.modules[name] = stand_in
    source = lucene.jar().parents[2] / "search" / "lucene" / "_searcher.py"
    spec = importlib.util.spec_from_file_location("pyserini_lucene_searcher", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LuceneSearcher(str(folder / "index"))


def queries(data: Path, store: ProductStore, count: int) -> list[str]:
    """Return what agents typed and what goals ask for, in small letters as the shop searches them."""
    rng = random.Random(0)
    typed = []
    for record in json.loads((data / "experts" / "webshop_agenttraj.json").read_text("utf-8")):
        for turn in record["conversations"]:
            typed += re.findall(r"search\[(.+)\]", turn["value"])[:1] if turn["from"] == "gpt" else []
    typed = sorted(set(typed))
    goals = range(len(store.goal_categories("synthetic")))
    asked = [store.goal("synthetic", place).instruction for place in rng.sample(goals, count - count // 2)]
    return [text.lower() for text in rng.sample(typed, count // 2) + asked]


def main() -> None:
    """Compare and write."""
    parser = argparse.ArgumentParser(description="Rankings of the service's search against pyserini's LuceneSearcher.")
    parser.add_argument("--queries", type=int, default=200, help="number of queries (default 200)")
    options = parser.parse_args()
    data = Path(os.environ["ETO_DATA"])
    source = find_source(data / "webshop", "1000")
    assert source is not None, f"{data}/webshop holds the 1,000 products"
    with tempfile.TemporaryDirectory() as scratch:
        folder = build.catalogue_folder(Path(scratch), source, seed=0)
        build.build(source, folder, "lucene", 0)
        store = ProductStore(folder)
        texts = queries(data, store, options.queries)
        ours = open_searcher("lucene", folder / "lucene")
        found = [ours.search(text, COUNT) for text in texts]  # the JVM is started with our flags, which its memory-mapping needs
        (Path(scratch) / "reference").mkdir()
        reference = reference_searcher(data / "webshop" / "documents.jsonl", Path(scratch) / "reference")
        expected = [[hit.docid for hit in reference.search(text, k=COUNT)] for text in texts]
        store.close()
    same = sum(mine == theirs for mine, theirs in zip(found, expected, strict=True))
    hits = sum(map(len, expected))
    print(f"the same ranking of up to {COUNT} products on {same} of {len(texts)} queries ({hits} hits in all)")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"same_ranking": same, "n": len(texts), "hits": hits, "k": COUNT}, indent=1) + "\n")
    sys.exit(same != len(texts))


if __name__ == "__main__":
    main()
