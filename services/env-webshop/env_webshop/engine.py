"""Plays WebShop episodes. What weighs, the search engine and the catalogue, is one in a process, for all the engines in it."""

import functools
from collections.abc import Sequence
from pathlib import Path

from env_core.environment import Outcome

from env_webshop import expert, pages
from env_webshop.catalogue import SMALL, DiskCatalogue
from env_webshop.search import open_searcher
from env_webshop.shop import Searcher, Shopper
from env_webshop.taskset import MAX_STEPS, split_task_id, stored_kind

FORMATS = {"text": pages.as_text, "text_rich": pages.as_rich_text}


@functools.cache
def _opened(folder: str, search: str) -> tuple[DiskCatalogue, Searcher]:
    catalogue = DiskCatalogue(Path(folder))
    if int(catalogue.about("products")) > SMALL:
        from env_webshop import titles

        titles.load()
    return catalogue, open_searcher(search, Path(folder) / search)  # type: ignore[arg-type]


def create(folder: str, search: str, observation: str) -> "WebshopEngine":
    """Return an engine; the service's workers call this."""
    catalogue, searcher = _opened(folder, search)
    return WebshopEngine(catalogue, searcher, observation)


class WebshopEngine:
    """One shopper at a time."""

    def __init__(self, catalogue: DiskCatalogue, searcher: Searcher, observation: str) -> None:
        self._catalogue = catalogue
        self._searcher = searcher
        self._format = FORMATS[observation]
        self._shopper: Shopper | None = None

    def load(self, task_id: str, seed: int, include: Sequence[str]) -> Outcome:
        """Begin an episode. Goals are stored with all that was drawn for them: a seed has no use here."""
        self._shopper = self._shopper_for(task_id)
        goal = self._shopper.goal
        category = self._catalogue.product(goal.asin).category
        return self._outcome(include, {"task_type": category, "instruction": goal.instruction})

    def step(self, action: str, include: Sequence[str]) -> Outcome:
        """Take one action. One that cannot be taken leaves the page as it is, as in the original."""
        valid = self._current.act(action)
        return self._outcome(include, {"valid": valid, **({"reward_parts": self._current.parts} if self._current.parts else {})})

    def expert(self, task_id: str) -> list[str]:
        """Return the scripted shopper's actions."""
        return expert.plan(self._shopper_for(task_id).goal, self._catalogue, self._searcher, MAX_STEPS)

    def render(self) -> str:
        """Return the current page as HTML."""
        from env_webshop import html

        return html.render(self._current.page(), self._current.parts)

    def close(self) -> None:
        """The catalogue and the searcher are the process's, and end with it."""

    @property
    def _current(self) -> Shopper:
        assert self._shopper is not None, "the core loads before it steps"  # noqa: S101
        return self._shopper

    def _shopper_for(self, task_id: str) -> Shopper:
        name, place = split_task_id(task_id)
        return Shopper(self._catalogue.goal(stored_kind(name), place), self._catalogue, self._searcher)

    def _outcome(self, include: Sequence[str], info: dict[str, object]) -> Outcome:
        shopper = self._current
        page = shopper.page()
        can_search = page.kind == "search"
        clickables = list(pages.clickables(page))
        valid_actions = None
        if "valid_actions" in include:
            valid_actions = ["search[<keywords>]"] * can_search + [f"click[{text}]" for text in clickables if text != pages.SEARCH.lower()]
        return Outcome(
            text=self._format(page),
            score=shopper.score,
            terminated=page.kind == "done",
            success=shopper.score == 1.0,
            info={**info, "available_actions": {"has_search_bar": can_search, "clickables": clickables}},
            valid_actions=valid_actions,
        )
