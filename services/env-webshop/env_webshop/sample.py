"""A generated catalogue in the layout of WebShop's files, for machines without them: `python -m env_webshop.sample FOLDER [PRODUCTS]`.

The products are invented; what they are called shows it (asins SMPL000000 and up). The same seed gives the same files.
"""

import argparse
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
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

BRANDS = "Alder Birchway Corvin Dunmore Eastlake Fernley Glenby Harrow Ilford Juniper Kestrel Larkfield Mossgate Northam Orrin Pellby".split()
STYLES = "classic modern everyday premium compact essential deluxe simple vintage outdoor lightweight sturdy elegant cozy practical".split()
COLOURS = "black white navy blue forest green burgundy grey ivory coral teal mustard".split()


@dataclass(frozen=True, slots=True)
class Line:
    """A kind of product: what a shopper calls it, its place in the shop, what it may be, and the options it comes in."""

    query: str
    nouns: tuple[str, ...]
    path: str
    attributes: tuple[str, ...]
    options: dict[str, tuple[str, ...]]
    cents: tuple[int, int]


COLOUR = {"color": tuple(COLOURS)}
CLOTHES = {**COLOUR, "size": ("small", "medium", "large", "x-large", "xx-large")}
SHOES = {**COLOUR, "size": ("6", "7", "8", "9", "10", "11")}
SHELF: dict[str, tuple[Line, ...]] = {
    "fashion": (
        Line("men's t-shirts", ("t-shirt", "tee"), "Clothing › Men › Shirts", ("machine wash", "short sleeve", "cotton", "classic fit", "quick drying"), CLOTHES, (899, 3499)),
        Line("women's dresses", ("dress", "sundress"), "Clothing › Women › Dresses", ("long sleeve", "polyester spandex", "hand wash", "high waist", "v neck"), CLOTHES, (1599, 7999)),
        Line("men's sneakers", ("sneaker", "running shoe"), "Shoes › Men › Sneakers", ("rubber sole", "arch support", "lace closure", "anti slip"), SHOES, (2499, 11999)),
    ),
    "beauty": (
        Line("shampoo", ("shampoo", "hair cleanser"), "Beauty › Hair Care › Shampoo", ("sulfate free", "paraben free", "tea tree", "dry hair", "cruelty free"), {"scent": ("lavender", "rosemary mint", "coconut", "unscented"), "size": ("8 fl oz (pack of 1)", "16 fl oz (pack of 1)", "16 fl oz (pack of 2)")}, (599, 2999)),
        Line("lip balm", ("lip balm", "lip butter"), "Beauty › Skin Care › Lip Care", ("natural ingredients", "long lasting", "sensitive skin", "coconut oil"), {"flavor name": ("vanilla", "cherry", "peppermint", "honey")}, (299, 1299)),
        Line("makeup brushes", ("brush set", "makeup brush"), "Beauty › Tools › Brushes", ("synthetic bristles", "easy clean", "travel size", "vegan"), {**COLOUR, "pattern name": ("6 pieces", "12 pieces", "18 pieces")}, (899, 4599)),
    ),
    "garden": (
        Line("throw pillow covers", ("pillow cover", "cushion cover"), "Home › Bedding › Decorative Pillows", ("double sided", "machine washable", "super soft", "printing technology"), {**COLOUR, "size": ('16" x 16"', '18" x 18"', '20" x 20"', '24" x 24"')}, (799, 2999)),
        Line("bookcases", ("bookcase", "bookshelf"), "Home › Furniture › Bookcases", ("solid wood", "easy assemble", "storage space", "steel frame"), {**COLOUR, "size": ("3-tier", "4-tier", "5-tier")}, (4999, 28999)),
        Line("table lamps", ("table lamp", "bedside lamp"), "Home › Lighting › Lamps", ("glass shade", "energy efficient", "living room", "brushed nickel"), COLOUR, (1999, 9999)),
    ),
    "grocery": (
        Line("granola bars", ("granola bar", "snack bar"), "Grocery › Snacks › Bars", ("gluten free", "non gmo", "high protein", "low sugar", "dairy free"), {"flavor name": ("dark chocolate / sea salt", "peanut butter", "blueberry", "apple cinnamon"), "size": ("6 count", "12 count", "24 count")}, (499, 3299)),
        Line("green tea", ("green tea", "tea bags"), "Grocery › Beverages › Tea", ("caffeine free", "usda organic", "individually wrapped", "low calorie"), {"flavor name": ("jasmine", "lemon ginger", "mint", "honey")}, (399, 2199)),
        Line("olive oil", ("olive oil", "cooking oil"), "Grocery › Oils › Olive Oils", ("extra virgin", "cold pressed", "kosher certified", "bpa free"), {"size": ("250 ml", "500 ml", "1 liter")}, (799, 4999)),
    ),
    "electronics": (
        Line("bluetooth headphones", ("headphones", "wireless headset"), "Electronics › Headphones › Over-Ear", ("noise cancelling", "wireless bluetooth", "fast charging", "water resistant"), COLOUR, (1999, 24999)),
        Line("usb cables", ("usb cable", "charging cord"), "Electronics › Accessories › Cables", ("fast charging", "gold plated", "high speed", "aluminum alloy"), {**COLOUR, "size": ("3 feet", "6 feet", "10 feet")}, (499, 2499)),
        Line("phone cases", ("phone case", "protective cover"), "Electronics › Cell Phones › Cases", ("wireless charging", "tempered glass", "shock absorption", "non slip"), {**COLOUR, "compatible model": ("mini", "standard", "plus", "max")}, (699, 3999)),
    ),
}  # fmt: skip
WISHES = ("i need a {0} that is {1}.", "i am looking for {1} {0}", "i would like a {0}, it should be {1}.")


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
    lines = [(category, line) for category, found in SHELF.items() for line in found]
    for number in range(count):
        rng = random.Random(f"{seed}:{number}")  # noqa: S311
        category, line = lines[number % len(lines)]
        asin = f"SMPL{number:06d}"
        attributes = rng.sample(line.attributes, 3)
        options = {name: rng.sample(values, min(len(values), rng.randint(2, MAX_OPTIONS))) for name, values in line.options.items()}
        noun, style = rng.choice(line.nouns), rng.choice(STYLES)
        title = f"{rng.choice(BRANDS)} {style.title()} {noun.title()}, {attributes[0].title()}, Model {rng.randint(100, 999)}"
        wanted = sorted(rng.sample(attributes, 2))
        record = {
            "asin": asin,
            "name": title,
            "full_description": _description(rng, noun, style, attributes),
            "small_description": [f"{attribute.capitalize()} for {rng.choice(STYLES)} use." for attribute in attributes],
            "pricing": _pricing(number, rng, line.cents),
            "images": [""],
            "category": category,
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
    """Some 600 characters, about as long as the real ones."""
    sentences = [f"This {style} {noun} is an invented product of a generated sample."]
    for attribute in attributes * 2:
        sentences.append(f"Our {rng.choice(STYLES)} {noun} offers {attribute}, {rng.choice(STYLES)} and {rng.choice(STYLES)} in one.")
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
