"""The current page for people's eyes, laid out as a shop. The template escapes all it is given."""

import functools
from collections.abc import Mapping
from typing import Any

from env_webshop import pages
from env_webshop.pages import Page
from env_webshop.products import RATING


@functools.cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("env_webshop", "data")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["hue"] = hue
    return environment.get_template("page.html.j2")


def hue(asin: str) -> int:
    """Return the colour of a product's tile, in degrees: the same wherever it is shown."""
    return 37 * sum(map(ord, asin)) % 360


def score_parts(parts: Mapping[str, Any]) -> dict[str, str]:
    """Return what a purchase scored for, in words, from the parts of the reward (reward.py)."""
    if not parts:
        return {}
    return {
        "kind of product": f"{parts['r_type']:g} (a factor of the whole)",
        "attributes matched": f"{parts['r_att']:.0%}",
        "options matched": "none asked for" if parts["r_option"] is None else f"{parts['r_option']:.0%}",
        "price": "within the limit" if parts["r_price"] else "over the limit",
    }


def render(page: Page, parts: Mapping[str, Any] | None = None) -> str:
    """Return a page as HTML, without scripts and without anything from elsewhere; `parts` are those of the reward, after a purchase."""
    texts = pages.sub_page_texts(page.product, page.sub_page) if page.kind == "sub" and page.product else []
    html: str = _template().render(
        page=page,
        texts=[text for text in texts if text.strip()],
        parts=score_parts(parts or {}),
        rating=RATING,
        per_page=pages.RESULTS_PER_PAGE,
        sub_pages=pages.SUB_PAGES,
    )
    return html
