"""The current page for people's eyes, laid out as the original's site. The template escapes all it is given."""

import functools
from typing import Any

from env_webshop import pages
from env_webshop.pages import Page
from env_webshop.products import RATING


@functools.cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("env_webshop", "data")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html.j2")


def render(page: Page) -> str:
    """Return a page as HTML, without scripts and without anything from elsewhere."""
    texts = pages.sub_page_texts(page.product, page.sub_page) if page.kind == "sub" and page.product else []
    html: str = _template().render(
        page=page, texts=[text for text in texts if text.strip()], rating=RATING, per_page=pages.RESULTS_PER_PAGE, sub_pages=pages.SUB_PAGES
    )
    return html
