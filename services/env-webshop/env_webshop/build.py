"""Makes a catalogue's files once: `python -m env_webshop.build DATA_FOLDER NAME CACHE_FOLDER ...`, in a process of its own.

A folder under the cache is named by a hash of the source's files and of what is made of them. It is written beside its place and
renamed: whoever finds it finds all of it. Memory does not grow with the catalogue.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import orjson

from env_webshop import goals, titles
from env_webshop.catalogue import PRODUCTS_FILE, PRODUCTS_SCHEMA, SMALL, TITLES_FILE, TITLES_SCHEMA, ProductStore, product_row
from env_webshop.products import Product, contents, read_product
from env_webshop.search import INDEXERS
from env_webshop.sources import Source, find_source

log = logging.getLogger(__name__)

#: Part of the name of what is made: to be counted up when the same source gives other files.
VERSION = 1


def catalogue_folder(cache: Path, source: Source, seed: int) -> Path:
    """Return where a source's catalogue is or will be."""
    key = hashlib.sha256(f"{VERSION} {seed} {source.digest()}".encode()).hexdigest()[:16]
    return cache / f"{source.name}-{key}"


def build(source: Source, folder: Path, search: str, seed: int) -> None:
    """Make what is missing of a catalogue."""
    _once(folder, lambda target: _build_catalogue(source, target, seed))
    _once(folder / search, lambda target: INDEXERS[search](lambda: _documents(folder), target))


def is_built(folder: Path, search: str) -> bool:
    """Whether nothing is missing."""
    return (folder / search).is_dir()


def _once(folder: Path, make: Callable[[Path], None]) -> None:
    """Make a folder beside its place and rename it; where another process was faster, keep that one's."""
    if folder.is_dir():
        return
    log.info("Making %s; this is done once", folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    target = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        make(target)
        target.chmod(0o755)
        os.rename(target, folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _documents(folder: Path) -> Iterator[tuple[str, str]]:
    store = ProductStore(folder)
    try:
        yield from store.documents()
    finally:
        store.close()


def _build_catalogue(source: Source, target: Path, seed: int) -> None:
    with contextlib.closing(sqlite3.connect(target / PRODUCTS_FILE)) as database:
        database.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {PRODUCTS_SCHEMA}")
        database.executescript(
            "CREATE TEMP TABLE attribute (asin TEXT PRIMARY KEY, record BLOB) WITHOUT ROWID;"
            "CREATE TEMP TABLE made (kind TEXT, number INTEGER, category TEXT, record BLOB, PRIMARY KEY (kind, number)) WITHOUT ROWID;"
        )
        rows = ((asin, orjson.dumps(record)) for asin, record in source.attribute_records())
        database.executemany("INSERT OR REPLACE INTO attribute VALUES (?, ?)", rows)
        count = _fill(database, source, seed)
        for kind in ("synthetic", "human"):
            _put_in_order(database, kind)
        database.executemany("INSERT INTO about VALUES (?, ?)", [("source", source.name), ("products", str(count)), ("seed", str(seed))])
        database.commit()
        database.execute("ANALYZE")
        database.commit()
    with contextlib.closing(sqlite3.connect(target / TITLES_FILE)) as database:
        database.executescript(f"PRAGMA journal_mode = WAL; {TITLES_SCHEMA}")
        if count <= SMALL:
            store = ProductStore(target)
            asins, texts = zip(*store.titles(), strict=True)
            found = (orjson.dumps(nouns) for nouns in titles.nouns(texts))
            database.executemany("INSERT INTO nouns VALUES (?, ?)", zip(asins, found, strict=True))
            database.commit()
            store.close()


def _fill(database: sqlite3.Connection, source: Source, seed: int) -> int:
    """Store products, and goals in the order of the products; return the number of products."""
    human = source.human_records()
    synthetic = not human or source.name != "full"
    count = 0
    made = {"synthetic": 0, "human": 0}

    def add_goals(kind: str, product: Product, found: Iterator[goals.Goal]) -> None:
        rows = [(kind, made[kind] + n, product.category, orjson.dumps(asdict(goal))) for n, goal in enumerate(found)]
        database.executemany("INSERT INTO made VALUES (?, ?, ?, ?)", rows)
        made[kind] += len(rows)

    for record in source.records():
        row = database.execute("SELECT record FROM attribute WHERE asin = ?", (record["asin"],)).fetchone()
        attributes = orjson.loads(row[0]) if row else {}
        product = read_product(record, attributes.get("attributes"), seed)
        if product is None:
            continue
        new = database.execute("INSERT OR IGNORE INTO product VALUES (?, ?, ?, ?, ?, ?)", product_row(count, product, contents(product)))
        if new.rowcount == 0:  # an asin that was there before: the first one counts
            continue
        count += 1
        if synthetic and attributes.get("instruction") is not None:
            wanted = attributes["instruction_attributes"]
            add_goals("synthetic", product, goals.synthetic_goals(product, attributes["instruction"], wanted, seed))
        if product.asin in human:
            add_goals("human", product, goals.human_goals(product, human[product.asin], seed))
    return count


def _put_in_order(database: sqlite3.Connection, kind: str) -> None:
    (count,) = database.execute("SELECT count(*) FROM made WHERE kind = ?", (kind,)).fetchone()
    moves = [(place, kind, number) for place, number in enumerate(goals.order(count))]
    database.executemany("INSERT INTO goal SELECT kind, ?, category, record FROM made WHERE kind = ? AND number = ?", moves)


def main(argv: list[str]) -> None:
    """Make a catalogue as the service asks for it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    data, name, folder, search, seed = argv
    source = find_source(Path(data), name)  # type: ignore[arg-type]
    assert source is not None, f"{data} holds the files of {name}"  # noqa: S101 - the service has just found them
    build(source, Path(folder), search, int(seed))


if __name__ == "__main__":
    main(sys.argv[1:])
