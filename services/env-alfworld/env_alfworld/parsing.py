"""Reads a grammar with TextWorld's own parsers into plain data (see grammar.py), once: but for the goal it is the same in all games.

Importing TextWorld takes about a second and 70 MB, so the plain data are kept in the store, and most processes never do.
"""

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from env_alfworld.grammar import GrammarError, expression

#: The rule in which alfworld writes a game's goal.
TASK_RULE = re.compile(r'("task":\s*\[\s*\{\s*"rhs":\s*)("(?:[^"\\]|\\.)*")')
GOAL_PLACE = "the goal stands here"
PLAIN_WORDS = re.compile(r'[^;|"<>\[\]#{}\t]+')  # what TextWorld's parser takes for words and nothing else


@dataclass(frozen=True, slots=True)
class Parsed:
    """A grammar's rules (name -> alternatives), and each action's command and effect; queries in it have no signatures yet."""

    rules: Mapping[str, Sequence[Mapping[str, Any]]]
    actions: Mapping[str, Sequence[Sequence[Any]]]

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Parsed":
        """Read what to_json gave."""
        return cls(**json.loads(text))


def parse(text: str, parse_template: Callable[[str], Parsed]) -> Parsed:
    """Read a grammar; `parse_template` is parse_whole, or something that remembers what it gave. Raises GrammarError."""
    goal = TASK_RULE.search(text)
    if goal is None:
        parsed = parse_template(text)
    else:
        parsed = parse_template(TASK_RULE.sub(lambda found: f'{found[1]}"{GOAL_PLACE}"', text, count=1))
        words = json.loads(goal[2])
        symbols = [words] if PLAIN_WORDS.fullmatch(words) else _symbols(words)
        parsed = replace(parsed, rules={**parsed.rules, "task": [{"when": None, "text": symbols}]})
    if missing := _rules_asked_for([parsed.rules, parsed.actions]) - set(parsed.rules):
        raise GrammarError(f"no rule is called {', '.join(sorted(missing))}")
    return parsed


def parse_whole(text: str) -> Parsed:
    """Read a grammar as it stands."""
    from textworld.envs.pddl.logic import GameLogic  # type: ignore[import-untyped]

    logic = GameLogic(domain="", grammar=text)
    rules = {
        name: [{"when": _conjunction(rule.condition), "text": [_plain(symbol) for symbol in rule.rhs]} for rule in alternatives]
        for name, alternatives in logic.grammar._rules.items()
    }
    return Parsed(rules, {name: (_symbols(action.template), _symbols(action.feedback_rule)) for name, action in logic.actions.items()})


@functools.lru_cache(maxsize=4096)
def _symbols(text: str) -> list[Any]:
    from textworld.envs.pddl import textgen  # type: ignore[import-untyped]

    return [_plain(symbol) for symbol in textgen._parse_and_convert(text, rule_name="symbols")]


def _plain(symbol: Any) -> Any:
    """Return one of TextWorld's symbols as plain data (see grammar.py)."""
    match type(symbol).__name__:
        case "TerminalSymbol":
            return symbol.symbol
        case "NonterminalSymbol":
            return {"rule": symbol.symbol}
        case "EvalSymbol":
            expression(symbol.expression)  # raises where it is not allowed
            return {"value": symbol.expression}
        case "ListSymbol":
            return {"list": _plain(symbol.symbol)}
        case "ConditionalSymbol":
            each = {"each": _plain(symbol.expression)}
            return {**each, "given": _conjunction(symbol.given)} if symbol.given else each
        case other:
            raise GrammarError(f"a {other} in a grammar is not known here")


def _rules_asked_for(data: Any) -> set[str]:
    """Return the names of all rules that symbols anywhere in the data stand for."""
    if isinstance(data, dict):
        asked = {data["rule"]} if isinstance(data.get("rule"), str) else set()
        return asked.union(*map(_rules_asked_for, data.values()))
    if isinstance(data, list | tuple):
        return set().union(*map(_rules_asked_for, data))
    return set()


def _conjunction(condition: str | None) -> list[tuple[str, list[tuple[str, str]]]] | None:
    if not condition:
        return None
    from textworld.logic import Rule  # type: ignore[import-untyped]

    rule = Rule.parse_conjunctive_query(condition)
    return [(predicate.name, [(p.name, p.type) for p in predicate.parameters]) for predicate in rule.preconditions]
