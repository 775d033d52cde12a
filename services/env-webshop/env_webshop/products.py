"""A product as the shop shows, indexes and scores it, made from a line of WebShop's items_shuffle.json. No input or output here.

What the fields mean and how they are cleaned is the original's `load_products` (github princeton-nlp/WebShop, web_agent_site/engine).
"""

import random
import re
from dataclasses import dataclass
from typing import Any

#: What the original shows and charges where a product has no price.
NO_PRICE = 100.0
#: What the original has where the attribute file does not know the product.
NO_ATTRIBUTES = ["DUMMY_ATTR"]
LONGEST_ASIN = 10
#: Ratings and reviews are not in the published data: the original shows these for every product.
RATING = "N.A."
NO_REVIEWS = "No reviews found"


@dataclass(frozen=True, slots=True)
class Product:
    """One product. `price` is the one charged, in dollars; `price_tag` the one shown, which may be a range."""

    asin: str
    title: str
    description: str
    bullets: list[str]
    price_tag: str
    price: float
    options: dict[str, list[str]]
    attributes: list[str]
    category: str
    query: str
    product_category: str


def read_product(raw: dict[str, Any], attributes: list[str] | None, seed: int) -> Product | None:
    """Return the product of a record, or None where the original leaves it out.

    `attributes` are those that the attribute file has for it; a price within a range is drawn from `seed` and the asin.
    """
    asin = str(raw["asin"])
    if asin == "nan" or len(asin) > LONGEST_ASIN:
        return None
    prices = _prices(raw.get("pricing"))
    bullets = raw.get("small_description")
    return Product(
        asin=asin,
        title=raw["name"] or "",
        description=raw.get("full_description") or "",
        bullets=[str(bullet) for bullet in bullets] if isinstance(bullets, list) else [str(bullets or "")],
        price_tag=f"${prices[0]}" if len(prices) == 1 else f"${prices[0]} to ${prices[1]}",
        price=prices[0] if len(prices) == 1 else random.Random(f"{seed}:price:{asin}").uniform(*prices),  # noqa: S311
        options=_options(raw.get("customization_options")),
        attributes=attributes if attributes is not None else NO_ATTRIBUTES,
        category=raw.get("category") or "",
        query=(raw.get("query") or "").lower().strip(),
        product_category=raw.get("product_category") or "",
    )


def contents(product: Product) -> str:
    """Return the text that the search index holds of a product, as the original's index builder writes it."""
    options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in product.options.items())
    first_bullet = product.bullets[0] if product.bullets else ""
    return " ".join([product.title, product.description, first_bullet, options]).lower()


def _prices(text: str | None) -> list[float]:
    """One price, or the two ends of a range."""
    found = [re.sub(r"[^\d.]", "", part) for part in (text or "").split("$")[1:]]
    return [float(part) for part in found if part.strip(".")][:2] or [NO_PRICE]


def _options(raw: Any) -> dict[str, list[str]]:
    if not isinstance(raw, dict):
        return {}
    return {
        name.lower(): [str(entry["value"]).strip().replace("/", " | ").lower() for entry in entries]
        for name, entries in raw.items()
        if entries is not None
    }
