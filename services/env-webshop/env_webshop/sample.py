"""A generated catalogue in the layout of WebShop's files, for machines without them: `python -m env_webshop.sample FOLDER [PRODUCTS]`.

The products are invented; what they are called shows it (asins SMPL000000 and up). The same seed gives the same files.
"""

import argparse
import functools
import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import orjson

from env_webshop.sources import FILES, HUMAN_GOALS, Source, find_source

#: To be counted up when the generator makes other products.
VERSION = 1
PRODUCTS = 300
SEED = 0
HUMAN_EVERY = 3
NO_PRICE_EVERY = 40
RANGE_EVERY = 5
MAX_OPTIONS = 4


@dataclass(frozen=True, slots=True)
class Line:
    """A kind of product: what a shopper calls it, its place in the shop, what it may be, and the options it comes in."""

    category: str
    query: str
    nouns: list[str]
    path: str
    attributes: list[str]
    options: dict[str, list[str]]
    cents: tuple[int, int]


WISHES = ("i need a {0} that is {1}.", "i am looking for {1} {0}", "i would like a {0}, it should be {1}.")


@functools.cache
def _shelf() -> tuple[list[str], list[str], list[Line]]:
    """Names of brands, styles, and lines of products."""
    words = json.loads(resources.files("env_webshop").joinpath("data/shelf.json").read_text("utf-8"))
    return words["brands"], words["styles"], [Line(**line) for line in words["lines"]]


def source(cache: Path) -> Source:
    """Return the sample's files under a cache, made if they are not there."""
    folder = cache / f"sample-files-{VERSION}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".sample.", dir=cache))
        generate(made, PRODUCTS, PRODUCTS)
        try:
            made.rename(folder)
        except OSError:  # another process was faster: its files are the same
            shutil.rmtree(made)
    found = find_source(folder, "sample")
    assert found is not None, f"{folder} holds the sample"  # noqa: S101 - written above
    return found


def generate(folder: Path, products: int, with_goals: int, seed: int = SEED) -> None:
    """Write a catalogue of so many products; the first `with_goals` have goals. Memory does not grow with the number."""
    folder.mkdir(parents=True, exist_ok=True)
    items, attributes = FILES["sample"]
    human: dict[str, list[dict[str, Any]]] = {}
    with (folder / items).open("wb") as item_file, (folder / attributes).open("wb") as attribute_file:
        item_file.write(b"[")
        attribute_file.write(b"{")
        for number, (item, attribute, wish) in enumerate(_products(products, seed)):
            asin = item["asin"]
            if number >= with_goals:
                attribute = {"attributes": attribute["attributes"]}
            elif number % HUMAN_EVERY == 0:
                human[asin] = [wish]
            between = b"," if number else b""
            item_file.write(between + b"\n" + orjson.dumps(item))
            attribute_file.write(between + b"\n" + orjson.dumps(asin) + b": " + orjson.dumps(attribute))
        item_file.write(b"\n]\n")
        attribute_file.write(b"\n}\n")
    (folder / HUMAN_GOALS).write_bytes(orjson.dumps(human))


def _products(count: int, seed: int) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Yield (record of the product, of its attributes, of a human goal for it)."""
    brands, styles, lines = _shelf()
    for number in range(count):
        rng = random.Random(f"{seed}:{number}")  # noqa: S311
        line = lines[number % len(lines)]
        asin = f"SMPL{number:06d}"
        attributes = rng.sample(line.attributes, 3)
        options = {name: rng.sample(values, min(len(values), rng.randint(2, MAX_OPTIONS))) for name, values in line.options.items()}
        noun, style = rng.choice(line.nouns), rng.choice(styles)
        title = f"{rng.choice(brands)} {style.title()} {noun.title()}, {attributes[0].title()}, Model {rng.randint(100, 999)}"
        wanted = sorted(rng.sample(attributes, 2))
        record = {
            "asin": asin,
            "name": title,
            "full_description": _description(rng, noun, style, attributes),
            "small_description": [f"{attribute.capitalize()} for {rng.choice(styles)} use." for attribute in attributes],
            "pricing": _pricing(number, rng, line.cents),
            "images": [""],
            "category": line.category,
            "query": line.query,
            "product_category": line.path,
            "customization_options": {name: [{"value": value, "image": None} for value in values] for name, values in options.items()},
        }
        attribute_record = {
            "attributes": attributes,
            "instruction": f"Find me {', '.join(wanted)} {line.query}",
            "instruction_attributes": wanted,
        }
        wish = {
            "instruction": rng.choice(WISHES).format(noun, " and ".join(wanted)),
            "instruction_attributes": wanted,
            "instruction_options": [values[0].replace("/", " | ") for values in options.values()],
        }
        yield record, attribute_record, wish


def _description(rng: random.Random, noun: str, style: str, attributes: list[str]) -> str:
    """Some 600 characters."""
    styles = _shelf()[1]
    sentences = [f"This {style} {noun} is an invented product of a generated sample."]
    for attribute in attributes * 2:
        sentences.append(f"Our {rng.choice(styles)} {noun} offers {attribute}, {rng.choice(styles)} and {rng.choice(styles)} in one.")
    return " ".join(sentences)


def _pricing(number: int, rng: random.Random, cents: tuple[int, int]) -> str:
    if number % NO_PRICE_EVERY == NO_PRICE_EVERY - 1:
        return ""
    low = rng.randint(*cents)
    if number % RANGE_EVERY == RANGE_EVERY - 1:
        return f"${low / 100:.2f} - ${(low + rng.randint(100, 900)) / 100:.2f}"
    return f"${low / 100:.2f}"


def main() -> None:
    """Write a catalogue, of any size, for tests of scale."""
    parser = argparse.ArgumentParser(prog="env_webshop.sample", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder to write the files to")
    parser.add_argument("products", type=int, nargs="?", default=PRODUCTS, help=f"number of products (default {PRODUCTS})")
    parser.add_argument("--with-goals", type=int, help="number of products that have goals (default: all)")
    options = parser.parse_args()
    generate(options.folder, options.products, options.products if options.with_goals is None else options.with_goals)


if __name__ == "__main__":
    main()
