"""Goals: what a shopper is asked for. Made from products as the original's `get_goals` makes them, in its order. No input or output here.

The original draws price limits from an unseeded generator, so that the same goal has another limit in each run of it. Here a limit
follows from the seed and the product, and is stored.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from env_webshop.products import Product

#: The seed with which the original shuffles its goals.
ORDER_SEED = 233
LIMITS = [10.0 * n for n in range(1, 100)]
LIMITS_CONSIDERED = 4
NO_LIMIT = 1_000_000.0
#: The original's splits (baseline_models/env.py), in places of the shuffled list.
SPLITS = {"test": slice(0, 500), "dev": slice(500, 1500), "train": slice(1500, None)}


@dataclass(frozen=True, slots=True)
class Goal:
    """What to buy. `options` are the values to choose (a human's goal does not name the option that each belongs to)."""

    asin: str
    instruction: str
    attributes: list[str]
    options: list[str]
    price_limit: float


def synthetic_goals(product: Product, instruction: str, attributes: list[str], seed: int) -> Iterator[Goal]:
    """Yield a goal for each combination of a product's options, all with the product's one price limit.

    None without attributes, of which a share is scored: the original stops there.
    """
    if not attributes:
        return
    limit, limit_text = _price_limit(product, f"{seed}:synthetic:{product.asin}")
    names = sorted(product.options)
    for combination in itertools.product(*(product.options[name] for name in names)):
        chosen = ", and ".join(f"{name}: {value}" for name, value in zip(names, combination, strict=True))
        text = f"{instruction}{' with ' + chosen if chosen else ''}{limit_text}"
        yield Goal(product.asin, text, attributes, list(combination), limit)


def human_goals(product: Product, records: Sequence[dict[str, Any]], seed: int) -> Iterator[Goal]:
    """Yield a product's goals from items_human_ins.json; those without attributes are left out, as the original does."""
    for number, record in enumerate(records):
        if record["instruction_attributes"]:
            limit, limit_text = _price_limit(product, f"{seed}:human:{product.asin}:{number}")
            text = record["instruction"].strip(".") + limit_text
            options = record["instruction_options"]
            values = list(options.values()) if isinstance(options, dict) else list(options)
            yield Goal(product.asin, text, list(record["instruction_attributes"]), values, limit)


def order(count: int) -> list[int]:
    """Return the original's order of so many goals: which of them stands at each place."""
    places = list(range(count))
    random.Random(ORDER_SEED).shuffle(places)  # noqa: S311
    return places


def _price_limit(product: Product, key: str) -> tuple[float, str]:
    higher = [limit for limit in LIMITS if limit > product.price][:LIMITS_CONSIDERED]
    if len(higher) < 2:
        return NO_LIMIT, ""
    limit = max(random.Random(key).sample(higher, 2))  # noqa: S311
    return limit, f", and price lower than {limit:.2f} dollars"
