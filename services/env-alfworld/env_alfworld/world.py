"""Plays one game: the library says what applies and what it changes, the grammar says how that reads. Equal to TextWorld's PddlEnv."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from env_alfworld.downward import Library
from env_alfworld.facts import Facts, Bound, Placeholder
from env_alfworld.grammar import Entity, Renderer
from env_alfworld.translation import Action, Translated

#: The symbol that a TextWorld game begins with, and its answer to a command that does not apply.
INTRO = ({"rule": "intro"},)
NOTHING = "Nothing happens."


@dataclass(slots=True)
class Choice:
    """An action that applies now."""

    operator: int
    command: str
    action: Action
    bound: Bound


class Game:
    """A translated game and what can be worked out once for all who play it."""

    def __init__(self, translated: Translated) -> None:
        self.sas = translated.sas.encode()
        self.types = translated.types
        self.facts = translated.facts
        self.names = translated.names
        entities = {thing: Entity(thing, translated.types[thing], name) for thing, name in translated.names.items()}
        self.renderer = Renderer(translated.rules, entities)
        self._actions = translated.actions
        self._fluents = translated.fluents
        self._known: dict[str, tuple[Action, Bound, str | None]] = {}

    def choice(self, operator: int, text: str, facts: Facts) -> Choice:
        """Return an operator, such as `gotolocation agent1 loc_1 loc_2 bed_1`, as an action with its command."""
        known = self._known.get(text)
        if known is None:
            name, *arguments = text.split()
            action = self._actions[name]
            placeholders: list[Placeholder] = [(name, type_) for name, type_ in action.parameters]
            bound = dict(zip(placeholders, arguments, strict=False))
            fixed = not self._changes(name)
            known = action, bound, self.renderer.render(action.command, facts, bound) if fixed else None
            self._known[text] = known
        action, bound, command = known
        if command is None:
            command = self.renderer.render(action.command, facts, bound)
        return Choice(operator, command, action, bound)

    @functools.cache  # noqa: B019 - lives as long as the game
    def _changes(self, action: str) -> bool:
        """Whether the text of an action's command depends on what actions change."""
        asked = _predicates(self._actions[action].command)
        return None in asked or not self._fluents.isdisjoint(predicate.removeprefix("not_") for predicate in asked if predicate)


def _predicates(symbols: object) -> list[str | None]:
    """Return the predicates that symbols ask for; None for a rule, which may ask for any."""
    if isinstance(symbols, Mapping):
        if "rule" in symbols:
            return [None]
        found: list[str | None] = [signature[0] for signatures, _ in symbols.get("given") or () for signature in signatures]
        return found + [p for key in ("each", "list") for p in _predicates(symbols.get(key))]
    if isinstance(symbols, Sequence) and not isinstance(symbols, str):
        return [p for symbol in symbols for p in _predicates(symbol)]
    return []


class World:
    """One episode of a game. `won` stays true once it was: TextWorld takes it back when the goal is undone."""

    def __init__(self, library: Library, game: Game) -> None:
        self._library = library
        self.game = game
        self.facts = Facts(game.facts)
        library.load(game.sas)
        self.text = game.renderer.render(INTRO, self.facts, {})
        self._look()
        self.won = library.won()

    @property
    def commands(self) -> list[str]:
        """The commands that apply now, sorted, each once."""
        return sorted({choice.command for choice in self._choices})

    def step(self, command: str) -> str:
        """Take a command; return what is seen."""
        command = command.strip()
        taken = next((choice for choice in self._choices if choice.command == command), None)
        if taken is None:
            self.text = NOTHING
            return NOTHING
        for positive, name, arguments in self._library.apply(taken.operator):
            types = tuple(self.game.types[a] for a in arguments)
            self.facts.make_true((name if positive else f"not_{name}", types), arguments)
        self.text = self.game.renderer.render(taken.action.feedback, self.facts, taken.bound)
        self._look()
        self.won = self.won or self._library.won()
        return self.text

    def plan(self, optimized_sas: str) -> list[str] | None:
        """Return commands that lead from here to the goal, as the planner finds them; None where there are none."""
        found = self._library.plan(optimized_sas.encode())
        return None if found is None else [self.game.choice(-1, text, self.facts).command for text in found]

    def _look(self) -> None:
        seen: set[str] = set()
        self._choices = [
            self.game.choice(operator, text, self.facts)
            for operator, text in self._library.applicable()
            if not (text in seen or seen.add(text))  # type: ignore[func-returns-value]
        ]
