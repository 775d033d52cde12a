"""One shopper in the shop: what an action does. The original's `SimServer` and `WebAgentTextEnv.step`, without pages being parsed back."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from env_webshop import pages
from env_webshop.goals import Goal
from env_webshop.pages import Kind, Listing, Page, Piece
from env_webshop.products import Product
from env_webshop.reward import reward

RESULTS = 50
#: The original's grammar, searched from the start of the action; the name reaches up to the last bracket that opens.
ACTION = re.compile(r"(.+)\[(.+)\]")


class Catalogue(Protocol):
    """What a shop knows of its products."""

    def product(self, asin: str) -> Product:
        """Return a product; KeyError where there is none."""
        ...

    def listings(self, asins: Sequence[str]) -> list[Listing]:
        """Return products as a list of results shows them, in the order asked for."""
        ...

    def nouns(self, product: Product) -> list[str]:
        """Return the nouns of a product's title."""
        ...


class Searcher(Protocol):
    """Ranks products."""

    def search(self, query: str, count: int) -> list[str]:
        """Return the asins of the best products, best first."""
        ...


@dataclass(slots=True)
class Shopper:
    """An episode. `score` is set by the purchase; actions that cannot be taken on the page change nothing."""

    goal: Goal
    catalogue: Catalogue
    searcher: Searcher
    kind: Kind = "search"
    score: float = 0.0
    parts: dict[str, Any] = field(default_factory=dict)
    keywords: list[str] = field(default_factory=list)
    number: int = 1
    asin: str = ""
    visited: frozenset[str] = frozenset()
    chosen: dict[str, str] = field(default_factory=dict)
    sub_page: str = ""

    def act(self, action: str) -> bool:
        """Take an action; return whether it meant something here. A search is possible on every page, as in the original."""
        match = ACTION.match(action.strip())
        if match is None or self.kind == "done":
            return False
        name, argument = match[1], match[2].lower()
        if name == "search":
            self._search(argument.split(" "), 1)
            return True
        target = pages.clickables(self.page()).get(argument) if name == "click" else None
        if target is None or target.text == pages.SEARCH:
            return False
        self._click(target)
        return True

    def page(self) -> Page:
        """Return the page that the shopper sees."""
        match self.kind:
            case "search":
                return Page("search", self.goal.instruction)
            case "results":
                found = self._found()
                first = (self.number - 1) * pages.RESULTS_PER_PAGE
                listings = self.catalogue.listings(found[first : first + pages.RESULTS_PER_PAGE])
                return self._page(total=len(found), results=listings)
            case _:
                return self._page(product=self.catalogue.product(self.asin))

    def _page(self, **more: Any) -> Page:
        return Page(
            kind=self.kind,
            instruction=self.goal.instruction,
            keywords=self.keywords,
            number=self.number,
            visited=self.visited,
            chosen=self.chosen,
            sub_page=self.sub_page,
            reward=self.score,
            **more,
        )

    def _found(self) -> list[str]:
        return self.searcher.search(" ".join(self.keywords), RESULTS)

    def _search(self, keywords: list[str], number: int) -> None:
        self.kind, self.keywords, self.number = "results", keywords, number
        self.asin, self.chosen = "", {}

    def _click(self, target: Piece) -> None:
        match target.kind, target.text:
            case "link", asin:
                self.kind, self.asin = "item", asin
                self.visited |= {asin}
            case "option", value:
                self.chosen[target.option] = value
            case _, pages.BUY:
                self._buy()
            case _, pages.BACK_TO_SEARCH:
                self.kind, self.keywords, self.number = "search", [], 1
                self.asin, self.visited, self.chosen = "", frozenset(), {}
            case _, pages.NEXT:
                self._search(self.keywords, self.number + 1)
            case _, pages.PREVIOUS if self.kind == "sub":
                self.kind = "item"
            case _, pages.PREVIOUS:
                self._search(self.keywords, self.number - (self.kind == "results"))
            case _, sub_page:
                self.kind, self.sub_page = "sub", sub_page

    def _buy(self) -> None:
        bought = self.catalogue.product(self.asin)
        wanted = self.catalogue.product(self.goal.asin)
        self.score, self.parts = reward(bought, self.chosen, self.goal, wanted, self.catalogue.nouns)
        self.kind = "done"
