"""The catalogue on disk, in two SQLite files: products and goals never change, the nouns of titles grow as they are needed.

Nothing but a small cache is held in memory, however many products there are.
"""

import functools
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import orjson

from env_webshop.goals import Goal
from env_webshop.pages import Listing
from env_webshop.products import Product

PRODUCTS_FILE = "products.sqlite"
TITLES_FILE = "titles.sqlite"
CACHED_PRODUCTS = 512
#: Up to so many products the nouns of all titles are found when the catalogue is made, above it when they are needed.
SMALL = 10_000
BUSY_TIMEOUT_S = 30.0

PRODUCTS_SCHEMA = """
CREATE TABLE product (place INTEGER PRIMARY KEY, asin TEXT NOT NULL UNIQUE, title TEXT NOT NULL, price_tag TEXT NOT NULL,
                      contents TEXT NOT NULL, record BLOB NOT NULL);
CREATE TABLE goal (kind TEXT NOT NULL, place INTEGER NOT NULL, category TEXT NOT NULL, record BLOB NOT NULL,
                   PRIMARY KEY (kind, place)) WITHOUT ROWID;
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
TITLES_SCHEMA = "CREATE TABLE nouns (asin TEXT PRIMARY KEY, nouns BLOB NOT NULL) WITHOUT ROWID;"


class ProductStore:
    """Reads products.sqlite. Not to be shared by threads."""

    def __init__(self, folder: Path) -> None:
        self._products = sqlite3.connect(f"file:{folder / PRODUCTS_FILE}?mode=ro&immutable=1", uri=True)
        self.product = functools.lru_cache(CACHED_PRODUCTS)(self._product)

    def close(self) -> None:
        """Close the file."""
        self._products.close()

    def about(self, name: str) -> str:
        """Return a fact about the catalogue."""
        value: str = self._products.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()[0]
        return value

    def listings(self, asins: Sequence[str]) -> list[Listing]:
        """Return products as a list of results shows them, in the order asked for."""
        marks = ",".join("?" * len(asins))
        rows = self._products.execute(f"SELECT asin, title, price_tag FROM product WHERE asin IN ({marks})", asins)  # noqa: S608
        found = {row[0]: Listing(*row) for row in rows}
        return [found[asin] for asin in asins]

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yield (asin, text) of all products, in the catalogue's order: what a search index is made of."""
        yield from self._products.execute("SELECT asin, contents FROM product ORDER BY place")

    def titles(self) -> Iterator[tuple[str, str]]:
        """Yield (asin, title) of all products."""
        yield from self._products.execute("SELECT asin, title FROM product ORDER BY place")

    def goal(self, kind: str, place: int) -> Goal:
        """Return a goal; KeyError where there is none."""
        row = self._products.execute("SELECT record FROM goal WHERE kind = ? AND place = ?", (kind, place)).fetchone()
        if row is None:
            raise KeyError(f"there is no goal {kind}:{place}")
        return Goal(**orjson.loads(row[0]))

    def goal_categories(self, kind: str) -> list[str]:
        """Return the categories of the goals of a kind, in order: one for each goal."""
        rows = self._products.execute("SELECT category FROM goal WHERE kind = ? ORDER BY place", (kind,))
        return [row[0] for row in rows]

    def _product(self, asin: str) -> Product:
        row = self._products.execute("SELECT record FROM product WHERE asin = ?", (asin,)).fetchone()
        if row is None:
            raise KeyError(f"there is no product {asin}")
        return Product(**orjson.loads(row[0]))


class DiskCatalogue(ProductStore):
    """A product store that knows the nouns of titles too, and keeps those that it had to find."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._titles = sqlite3.connect(folder / TITLES_FILE, timeout=BUSY_TIMEOUT_S, isolation_level=None)

    def close(self) -> None:
        """Close the files."""
        super().close()
        self._titles.close()

    def nouns(self, product: Product) -> list[str]:
        """Return the nouns of a product's title."""
        row = self._titles.execute("SELECT nouns FROM nouns WHERE asin = ?", (product.asin,)).fetchone()
        if row is not None:
            known: list[str] = orjson.loads(row[0])
            return known
        from env_webshop import titles

        found = next(titles.nouns([product.title]))
        self._titles.execute("INSERT OR REPLACE INTO nouns VALUES (?, ?)", (product.asin, orjson.dumps(found)))
        return found


def product_row(place: int, product: Product, text: str) -> tuple[int, str, str, str, str, bytes]:
    """Return a row of the table of products."""
    return place, product.asin, product.title, product.price_tag, text, orjson.dumps(asdict(product))
