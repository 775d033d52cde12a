"""A scripted shopper: it reads the goal, searches, goes to the product, chooses the options and buys. Each plan is played before it counts.

It knows which product is meant, as an annotator does; what it types is made of the instruction first, of the product's title last.
"""

import re
from collections.abc import Iterator

from env_webshop import pages
from env_webshop.goals import Goal
from env_webshop.products import Product
from env_webshop.shop import RESULTS, Catalogue, Searcher, Shopper

PRICE = re.compile(r", and price lower than [\d.]+ dollars$")
OPENING = re.compile(r"^(find me|i need|i want|i would like|(i am |i'm )?looking for)\s+(an?\s+|some\s+)?", re.IGNORECASE)


def plan(goal: Goal, catalogue: Catalogue, searcher: Searcher, max_steps: int) -> list[str]:
    """Return actions that were seen to score 1, or the best ones found where none do."""
    wanted = catalogue.product(goal.asin)
    best: tuple[float, list[str]] = (-1.0, [])
    for query in queries(goal, wanted):
        found = searcher.search(query.lower(), RESULTS)
        if goal.asin not in found:
            continue
        turns = found.index(goal.asin) // pages.RESULTS_PER_PAGE
        actions = [f"search[{query}]", *[f"click[{pages.NEXT}]"] * turns, f"click[{goal.asin}]"]
        actions += [f"click[{value}]" for value in _choices(goal, wanted)] + [f"click[{pages.BUY}]"]
        score = _play(goal, catalogue, searcher, actions) if len(actions) <= max_steps else -0.5
        if score == 1.0:
            return actions
        best = max(best, (score, actions))
    return best[1]


def queries(goal: Goal, wanted: Product) -> Iterator[str]:
    """Yield what to search for, best first: what was asked for, then the kind of product with its attributes, then the title."""
    asked = OPENING.sub("", PRICE.sub("", goal.instruction))
    for text in (asked.partition(" with ")[0], asked, f"{wanted.query} {' '.join(goal.attributes)}", wanted.title):
        if query := re.sub(r"[\[\]\s]+", " ", text).strip():
            yield query


def _choices(goal: Goal, wanted: Product) -> list[str]:
    """Options to click: the goal's own values, each found among the values of the product's options that are still open."""
    still_open = dict(wanted.options)
    chosen = []
    for value in goal.options:
        name = next((name for name, values in still_open.items() if value in values), None)
        if name is None:  # a human's word for it: the closest of the values that contain it
            name = next((name for name, values in still_open.items() if any(value in known for known in values)), None)
            if name is None:
                continue
            value = min((known for known in still_open[name] if value in known), key=len)
        del still_open[name]
        chosen.append(value)
    return chosen


def _play(goal: Goal, catalogue: Catalogue, searcher: Searcher, actions: list[str]) -> float:
    shopper = Shopper(goal, catalogue, searcher)
    return shopper.score if all(shopper.act(action) for action in actions) else -0.5
