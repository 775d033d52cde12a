"""The shop's pages as an agent reads them. A page is a list of pieces; texts, clickables and the HTML view all come from what is here.

The texts are what the original's text environment makes of its HTML templates: `text` joins the visible strings by [SEP];
`text_rich` has one a line and marks what can be clicked. They are made without HTML.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from env_webshop.products import NO_REVIEWS, RATING, Product

RESULTS_PER_PAGE = 10
SEARCH = "Search"
BACK_TO_SEARCH = "Back to Search"
PREVIOUS = "< Prev"
NEXT = "Next >"
BUY = "Buy Now"
SUB_PAGES = ("Description", "Features", "Reviews")
ASCII_WHITESPACE = " \t\n\r\f\v"

Kind = Literal["search", "results", "item", "sub", "done"]


class Listing(NamedTuple):
    """A product in a list of results."""

    asin: str
    title: str
    price_tag: str


@dataclass(frozen=True, slots=True)
class Page:
    """Where a shopper is, with all that is shown there."""

    kind: Kind
    instruction: str
    keywords: Sequence[str] = ()
    number: int = 1
    total: int = 0
    results: Sequence[Listing] = ()
    visited: frozenset[str] = frozenset()
    product: Product | None = None
    chosen: Mapping[str, str] = field(default_factory=dict)
    sub_page: str = ""
    reward: float = 0.0


class Piece(NamedTuple):
    """A visible string. `option` is the name of the option that a value belongs to."""

    kind: Literal["text", "button", "link", "option"]
    text: str
    option: str = ""


def pieces(page: Page) -> list[Piece]:
    """Return what is visible on a page, in order."""
    match page.kind:
        case "search":
            found = [*_texts("WebShop", "Instruction:", page.instruction), Piece("button", SEARCH)]
        case "results":
            found = _results(page)
        case "item":
            found = _item(page)
        case "sub":
            found = [*_texts("Instruction:", page.instruction), Piece("button", BACK_TO_SEARCH), Piece("button", PREVIOUS)]
            found += _texts(*sub_page_texts(_product(page), page.sub_page))
        case "done":
            found = _texts(*_done(page))
    return [piece for piece in found if _is_visible(piece.text)]


def clickables(page: Page) -> dict[str, Piece]:
    """Return what can be clicked, by the text to click it with. Of two of the same text the later one counts, as in the original."""
    found = pieces(page)
    plain = {piece.text.lower(): piece for kind in ("button", "link") for piece in found if piece.kind == kind}
    return plain | {piece.text: piece for piece in found if piece.kind == "option"}


def as_text(page: Page) -> str:
    """Return the observation `text`."""
    return " [SEP] ".join(piece.text.strip() for piece in pieces(page))


def as_rich_text(page: Page) -> str:
    """Return the observation `text_rich`."""
    state = f"{'+'.join(page.keywords)}/{json.dumps(dict(page.chosen))}"  # of the original's URL, in which it looks for clicked options
    clicked = ""
    lines = []
    for piece in pieces(page):
        match piece.kind:
            case "button":
                lines.append(f"[button] {piece.text} [button_]")
            case "option" if f'"{piece.text}"' in state:
                lines.append(f"  [clicked button] {piece.text} [clicked button_]")
                clicked = f"You have clicked {piece.text}.\n{clicked}"
            case "option":
                lines.append(f"  [button] {piece.text} [button_]")
            case "link":
                mark = "clicked button" if piece.text in page.visited else "button"
                lines.append(f"\n[{mark}] {piece.text} [{mark}_]")
            case "text":
                lines.append(piece.text)
    return clicked + "\n".join(lines) + "\n"


def sub_page_texts(product: Product, name: str) -> list[str]:
    """Return what a product's description, features or reviews say."""
    match name:
        case "Description":
            return [product.description]
        case "Features":
            return [f" {bullet}" for bullet in product.bullets]
        case _:
            return [NO_REVIEWS]


def _texts(*texts: str) -> list[Piece]:
    return [Piece("text", text) for text in texts]


def _results(page: Page) -> list[Piece]:
    found = [*_texts("Instruction:", page.instruction), Piece("button", BACK_TO_SEARCH)]
    found += _texts(f"Page {page.number} (Total results: {page.total})")
    if page.number > 1:
        found.append(Piece("button", PREVIOUS))
    if page.number * RESULTS_PER_PAGE < page.total:
        found.append(Piece("button", NEXT))
    for listing in page.results:
        found += [Piece("link", listing.asin), *_texts(listing.title, listing.price_tag)]
    return found


def _item(page: Page) -> list[Piece]:
    product = _product(page)
    found = [*_texts("Instruction:", page.instruction), Piece("button", BACK_TO_SEARCH), Piece("button", PREVIOUS)]
    for name, values in product.options.items():
        found += [*_texts(name), *(Piece("option", value, name) for value in values)]
    found += _texts(product.title, f"Price: {product.price_tag}", f"Rating: {RATING}")
    return [*found, *(Piece("button", name) for name in (*SUB_PAGES, BUY))]


def _done(page: Page) -> list[str]:
    """The original fills in only some of the fields of its last page; it spells "instuction"."""
    options = json.dumps(dict(page.chosen), sort_keys=True)
    for character in "<>&'":  # as its JSON filter writes them
        options = options.replace(character, f"\\u{ord(character):04x}")
    bought = ["Purchased", "asin", _product(page).asin, "options", options]
    bought += [text for name in ("attrs", "category", "query", "product category") for text in (name, "None")]
    target = ["Target", "asin", "options", "attrs", "price upper", "instuction text", "category", "product category", "query"]
    score = ["Goal", "None", "Reward", "Your score (min 0.0, max 1.0)", str(page.reward), "Reward Details", "None"]
    return ["Thank you for shopping with us!", "Your code:", "None", "(Paste it in your MTurk interface.)", *bought, *target, *score]


def _is_visible(text: str) -> bool:
    """An HTML parser drops empty strings; whitespace with a line break becomes one break, which the original drops."""
    return bool(text.strip(ASCII_WHITESPACE)) or (bool(text) and "\n" not in text)


def _product(page: Page) -> Product:
    assert page.product is not None, "an item's page has a product"  # noqa: S101 - the shop sees to it
    return page.product
