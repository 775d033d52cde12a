"""Renders a game's text from its grammar, as TextWorld 1.7.0 does (textworld.envs.pddl.textgen), without evaluating any of it as code.

TextWorld gives the expressions in a grammar to `eval`. Here an expression may do what ALFWorld's do, and nothing else: name a variable,
take one of a few attributes, join texts, choose the first that is not empty. All else is refused when the game is prepared.

A grammar is plain data (JSON). A text is a list of symbols:
    "words"                             themselves
    {"rule": name}                      the text of the first rule of that name whose condition holds
    {"each": symbol, "given": query}    the symbol, once for each match of the query ("given" absent: once)
    {"list": symbol}                    what the symbol stands for, as "a, b, and c"
    {"value": expression}               an expression
"""

import ast
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from env_alfworld.facts import Facts, Bound, Query

ATTRIBUTES = frozenset({"id", "type", "name", "definite", "indefinite"})
MAX_DEPTH = 50


class GrammarError(Exception):
    """The grammar asks for something that is not allowed or not there."""


@dataclass(frozen=True, slots=True)
class Entity:
    """A thing as expressions see it."""

    id: str
    type: str
    name: str
    definite: str = "the"
    indefinite: str = "a"

    def __str__(self) -> str:
        return self.name


Variables = dict[str, Entity]


@functools.lru_cache(maxsize=4096)
def expression(source: str) -> Callable[[Variables], Any]:
    """Return an expression as a function of the variables. Raises GrammarError where it is more than an expression may be."""
    try:
        return _compiled(ast.parse(source.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise GrammarError(f"the expression {source!r} is not valid: {error}") from None


def _compiled(node: ast.expr) -> Callable[[Variables], Any]:
    match node:
        case ast.Constant(value=str(text)):
            return lambda variables: text
        case ast.Name(id=name):
            return lambda variables: variables[name]
        case ast.Attribute(value=ast.Name(id=name), attr=attribute) if attribute in ATTRIBUTES:
            return lambda variables: getattr(variables[name], attribute)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            one, two = _compiled(left), _compiled(right)
            return lambda variables: one(variables) + two(variables)
        case ast.BoolOp(op=ast.Or(), values=values):
            parts = [_compiled(value) for value in values]
            return lambda variables: functools.reduce(lambda found, part: found or part(variables), parts[1:], parts[0](variables))
        case _:
            raise GrammarError(f"the expression {ast.unparse(node)!r} does what no expression in a grammar may do")


class Renderer:
    """A grammar together with the entities of a game."""

    def __init__(self, rules: Mapping[str, Sequence[Mapping[str, Any]]], entities: Mapping[str, Entity]) -> None:
        """`rules` maps a name to `[{"when": query, "text": symbols}]`, tried in order."""
        self._rules = rules
        self._entities = entities

    def render(self, text: Sequence[Any], facts: Facts, bound: Bound) -> str:
        """Return a text; `bound` says what the placeholders of an action stand for."""
        return "".join(self._text(text, facts, bound, 0))

    def _text(self, text: Sequence[Any], facts: Facts, bound: Bound, depth: int) -> list[str]:
        if depth > MAX_DEPTH:
            raise GrammarError("the grammar goes round in circles")
        return [part for symbol in text for part in self._symbol(symbol, facts, bound, depth + 1)]

    def _symbol(self, symbol: Any, facts: Facts, bound: Bound, depth: int) -> list[str]:
        if isinstance(symbol, str):
            return [symbol]
        if "rule" in symbol:
            return self._text(self._first_rule(symbol["rule"], facts, bound), facts, bound, depth)
        if "each" in symbol:
            query: Query | None = symbol.get("given")
            matches = [bound] if query is None else facts.matches(query, bound)
            return ["".join(self._symbol(symbol["each"], facts, match, depth)) for match in matches]
        if "list" in symbol:
            return self._listed(self._symbol(symbol["list"], facts, bound, depth), facts, bound, depth)
        return [str(expression(symbol["value"])({name: self._entities[thing] for (name, _), thing in bound.items()}))]

    def _first_rule(self, name: str, facts: Facts, bound: Bound) -> Sequence[Any]:
        for rule in self._rules.get(name, ()):
            if rule["when"] is None or next(facts.matches(rule["when"], bound), None) is not None:
                text: Sequence[Any] = rule["text"]
                return text
        raise GrammarError(f"no rule {name!r} applies")

    def _listed(self, items: list[str], facts: Facts, bound: Bound, depth: int) -> list[str]:
        def rule(name: str) -> str:
            return "".join(self._symbol({"rule": name}, facts, bound, depth))

        if not items:
            return [rule("list_empty")]
        if len(items) == 1:
            return items
        return [rule("list_separator").join(items[:-1]), rule("list_last_separator"), items[-1]]
