"""How a purchase is scored: attributes, options and price, times the kind of product. The original's `get_reward`. Pure functions.

Its part-of-speech tags come from the large English spaCy model; here from the small one (docs/webshop.md).
"""

import functools
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from thefuzz import fuzz  # type: ignore[import-untyped]

from env_webshop.goals import Goal
from env_webshop.products import Product

FUZZY_MATCH = 85
#: The option that must match to the letter.
EXACT_OPTION = "size"
Nouns = Callable[[Product], list[str]]


def reward(bought: Product, chosen: Mapping[str, str], goal: Goal, wanted: Product, nouns: Nouns) -> tuple[float, dict[str, Any]]:
    """Return the reward, 0..1, and its parts.

    `chosen` maps the name of an option to its value; `wanted` is the goal's product; `nouns` gives the nouns of a product's title.
    """
    attributes = sum(_has_attribute(bought, attribute) for attribute in goal.attributes)
    options = _matching_options(bought, chosen, goal.options)
    price = bought.price <= goal.price_limit
    kind = _kind(bought, wanted, nouns)
    total = (attributes + options + price) / (len(goal.attributes) + len(goal.options) + 1) * kind
    parts = {
        "r_type": kind,
        "r_att": attributes / len(goal.attributes),
        "r_option": options / len(goal.options) if goal.options else None,
        "r_price": price,
    }
    return total, parts


def normalized_colour(text: str) -> str:
    """Return the first known colour in a text, or the text: what options are compared by."""
    return next((colour for colour in _colours() if colour in text), text)


@functools.cache
def _colours() -> list[str]:
    """Colours in the order in which the original looks for them (web_agent_site/engine/normalize.py)."""
    return resources.files("env_webshop").joinpath("data/colours.txt").read_text("utf-8").split()


def _kind(bought: Product, wanted: Product, nouns: Nouns) -> float:
    """How well the kinds of two products agree: 0, 0.1, 0.5 or 1."""
    if bought.asin == wanted.asin:
        return 1.0  # what the rest gives for equal titles and queries, whether or not the title has a noun
    wanted_nouns = nouns(wanted)
    shared = len(set(nouns(bought)) & set(wanted_nouns))
    title = shared / len(wanted_nouns) if wanted_nouns else 0.2
    if title == 0:
        return 0.0
    if title < 0.1:
        return 0.1
    same_category = len(_categories(bought) & _categories(wanted)) >= 2
    return 1.0 if bought.query == wanted.query or same_category or title > 0.2 else 0.5


def _categories(product: Product) -> set[str]:
    return {part.strip() for part in product.product_category.split("\u203a")}


def _has_attribute(product: Product, attribute: str) -> bool:
    return any(fuzz.token_set_ratio(known, attribute) > FUZZY_MATCH for known in product.attributes) or _mentions(product, attribute)


def _matching_options(bought: Product, chosen: Mapping[str, str], wanted: list[str]) -> int:
    wanted = [normalized_colour(value) for value in wanted]
    count = 0
    for name, value in chosen.items():
        value = normalized_colour(value)
        if name.lower() == EXACT_OPTION:
            matches = value in wanted
        else:
            matches = any(fuzz.token_set_ratio(other, value) > FUZZY_MATCH for other in wanted)
        count += matches or _mentions(bought, value)
    return count


def _mentions(product: Product, text: str) -> bool:
    return text in product.title.lower() or text in " ".join(product.bullets).lower() or text in product.description.lower()
