"""Makes a game ready to play: parses its grammar and translates its PDDL, once, with TextWorld 1.7.0's own parsers.

This is the dear part (0.1 to 0.5 CPU seconds a game). The result is plain data, kept in the store, and has all that playing needs:
what plays a game imports no TextWorld. The heavy imports are made by the first game that is not in the store.
"""

import functools
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from env_alfworld.facts import Arguments, Query, Signature, negated
from env_alfworld.grammar import GrammarError, expression

#: Part of the key of what is stored: raise it when the form below or what fills it changes.
FORM = 1
#: The rule in which alfworld writes a game's goal. All else in its grammars is the same from game to game, so is parsed once.
TASK_RULE = re.compile(r'("task":\s*\[\s*\{\s*"rhs":\s*)("(?:[^"\\]|\\.)*")')
GOAL_PLACE = "the goal stands here"


@dataclass(frozen=True, slots=True)
class Action:
    """What a PDDL action is to a player: its parameters (name, type), the text of its command and of its effect."""

    parameters: Sequence[tuple[str, str]]
    command: Sequence[Any]
    feedback: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Translated:
    """A game, ready to play. `facts` are those at the start, sorted; `fluents` the predicates that actions change."""

    sas: str
    types: Mapping[str, str]
    names: Mapping[str, str]
    facts: Mapping[Signature, Sequence[Arguments]]
    fluents: frozenset[str]
    rules: Mapping[str, Sequence[Mapping[str, Any]]]
    actions: Mapping[str, Action]

    def to_bytes(self) -> bytes:
        """Return it as compressed JSON."""
        data = {
            "sas": self.sas,
            "types": self.types,
            "names": self.names,
            "facts": [[predicate, types, arguments] for (predicate, types), arguments in self.facts.items()],
            "fluents": sorted(self.fluents),
            "rules": self.rules,
            "actions": {name: asdict(action) for name, action in self.actions.items()},
        }
        return zlib.compress(json.dumps(data, separators=(",", ":")).encode(), 6)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Translated":
        """Read what to_bytes gave."""
        read = json.loads(zlib.decompress(data))
        return cls(
            sas=read["sas"],
            types=read["types"],
            names=read["names"],
            facts={(predicate, tuple(types)): [tuple(a) for a in arguments] for predicate, types, arguments in read["facts"]},
            fluents=frozenset(read["fluents"]),
            rules={name: [{**rule, "when": _query(rule["when"])} for rule in rules] for name, rules in _read(read["rules"]).items()},
            actions={
                name: Action([tuple(p) for p in action["parameters"]], _read(action["command"]), _read(action["feedback"]))
                for name, action in read["actions"].items()
            },
        )


def translate(game: Mapping[str, str]) -> Translated:
    """Translate a game file's content. Raises GrammarError where its grammar holds what is not allowed."""
    import fast_downward

    task, sas = fast_downward.pddl2sas(game["pddl_domain"], game["pddl_problem"])
    types = {thing.name: thing.type_name for thing in task.objects}
    rules, actions = _grammar(game["grammar"])
    facts = _facts_at_start(task, sas, types)
    matching = _Signatures(task, sas, types, facts)
    used = {argument for arguments in facts.values() for row in arguments for argument in row}
    return Translated(
        sas=sas,
        types=types,
        names=_names(used),
        facts=facts,
        fluents=frozenset(effect.literal.predicate for action in task.actions for effect in action.effects),
        rules={
            name: [{"when": matching.query(rule["when"]), "text": matching.symbols(rule["text"])} for rule in alternatives]
            for name, alternatives in rules.items()
        },
        actions={
            action.name: Action(
                parameters=[(parameter.name.strip("?"), parameter.type_name) for parameter in action.parameters],
                command=matching.symbols(actions[action.name][0]),
                feedback=matching.symbols(actions[action.name][1]),
            )
            for action in task.actions
        },
    )


def optimized_sas(game: Mapping[str, str]) -> str:
    """Translate the PDDL for search: facts that cannot be reached or do not matter are left out."""
    import fast_downward

    _, sas = fast_downward.pddl2sas(game["pddl_domain"], game["pddl_problem"], optimize=True)
    return str(sas)


def _facts_at_start(task: Any, sas: str, types: Mapping[str, str]) -> dict[Signature, list[Arguments]]:
    """Return the facts that TextWorld's PddlState begins with: those of the problem, and those the library says are true (axioms)."""
    from fast_downward.translate.pddl.conditions import Atom  # type: ignore[import-untyped]

    found: dict[Signature, set[Arguments]] = {}
    for atom in task.init:
        if isinstance(atom, Atom) and atom.predicate != "=":
            found.setdefault((atom.predicate, tuple(types[a] for a in atom.args)), set()).add(tuple(atom.args))
    for name, arguments in _true_atoms(sas):
        found.setdefault((name, tuple(types[a] for a in arguments)), set()).add(arguments)
    return {signature: sorted(rows) for signature, rows in found.items()}


def _true_atoms(sas: str) -> Iterable[tuple[str, Arguments]]:
    """Yield what is true at the start: each variable's value is a line such as `Atom opened(safe_1)` or `NegatedAtom ...`."""
    from env_alfworld.downward import Library

    with Library() as library:
        library.load(sas.encode())
        for positive, name, arguments in library.state():
            if positive:
                yield name, arguments


def _names(things: Iterable[str]) -> dict[str, str]:
    """Return the names that alfworld gives to things (its Demangler): `drawer_bar_...` is `drawer 3` where three ids are not before it.

    A kind's numbers go down in the order of the ids. What has no place in its id, such as `agent1`, is that and a blank.
    """
    kinds = {thing: _kind(thing) for thing in sorted(things)}
    left = Counter(kind for kind in kinds.values() if kind is not None)
    names = {}
    for thing, kind in kinds.items():
        if kind is None:
            names[thing] = f"{thing} "
        else:
            names[thing] = f"{kind} {left[kind]}"
            left[kind] -= 1
    return names


def _kind(thing: str) -> str | None:
    kind, separator, _ = thing.partition("_bar_")
    if not separator:
        return None
    return f"{kind}basin" if "basin" in thing else kind  # the basin of a sink is a thing beside the sink


def _grammar(text: str) -> tuple[dict[str, list[dict[str, Any]]], dict[str, tuple[list[Any], list[Any]]]]:
    """Return the rules, and each action's command and feedback, all with queries that have no signatures yet."""
    goal = TASK_RULE.search(text)
    if goal is None:
        return _parsed_grammar(text)
    rules, actions = _parsed_grammar(TASK_RULE.sub(lambda found: f'{found[1]}"{GOAL_PLACE}"', text, count=1))
    return {**rules, "task": [{"when": None, "text": _symbols(json.loads(goal[2]))}]}, actions


@functools.lru_cache(maxsize=16)
def _parsed_grammar(text: str) -> tuple[dict[str, list[dict[str, Any]]], dict[str, tuple[list[Any], list[Any]]]]:
    from textworld.envs.pddl.logic import GameLogic  # type: ignore[import-untyped]

    logic = GameLogic(domain="", grammar=text)
    rules = {
        name: [{"when": _conjunction(rule.condition), "text": [_plain(symbol) for symbol in rule.rhs]} for rule in alternatives]
        for name, alternatives in logic.grammar._rules.items()
    }
    return rules, {name: (_symbols(action.template), _symbols(action.feedback_rule)) for name, action in logic.actions.items()}


@functools.lru_cache(maxsize=4096)
def _symbols(text: str) -> list[Any]:
    from textworld.envs.pddl import textgen

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


def _conjunction(condition: str | None) -> list[tuple[str, list[tuple[str, str]]]] | None:
    if not condition:
        return None
    from textworld.logic import Rule  # type: ignore[import-untyped]

    rule = Rule.parse_conjunctive_query(condition)
    return [(predicate.name, [(p.name, p.type) for p in predicate.parameters]) for predicate in rule.preconditions]


class _Signatures:
    """Finds the signatures that a predicate in a query matches, in TextWorld's order: by type, the named one first, then those below."""

    def __init__(self, task: Any, sas: str, types: Mapping[str, str], facts: Mapping[Signature, Any]) -> None:
        from textworld.logic import Type, TypeHierarchy

        self._types = TypeHierarchy()
        for type_ in {t.name: t for t in reversed(task.types)}.values():  # `object` stands twice; TextWorld takes the first
            self._types.add(Type(type_.name, type_.supertype_names))
        possible = set(facts)
        for line in set(re.findall(r"^(?:Negated)?Atom (.*)$", sas, re.MULTILINE)):
            name, _, arguments = line.rstrip(")").partition("(")
            signature = (name, tuple(types[a] for a in arguments.split(", ") if a))
            possible |= {signature, (negated(name), signature[1])}
        self._possible = possible

    def query(self, conjunction: Any) -> Any:
        if conjunction is None:
            return None
        return [(self._matching(name, tuple(type_ for _, type_ in parameters)), parameters) for name, parameters in conjunction]

    def symbols(self, symbols: Sequence[Any]) -> list[Any]:
        return [self._symbol(symbol) for symbol in symbols]

    def _symbol(self, symbol: Any) -> Any:
        if isinstance(symbol, str):
            return symbol
        with_signatures = {key: self._symbol(value) if key in ("each", "list") else value for key, value in symbol.items()}
        if "given" in symbol:
            with_signatures["given"] = self.query(symbol["given"])
        return with_signatures

    @functools.cache  # noqa: B019 - lives as long as one translation
    def _matching(self, predicate: str, types: tuple[str, ...]) -> list[Signature]:
        found = ((predicate, tuple(t.name for t in subtypes)) for subtypes in self._types.multi_subtypes([self._types.get(t) for t in types]))
        return [signature for signature in found if signature in self._possible]


def _query(data: Any) -> Query | None:
    if data is None:
        return None
    return [
        ([(predicate, tuple(types)) for predicate, types in signatures], [(name, type_) for name, type_ in placeholders])
        for signatures, placeholders in data
    ]


def _read(data: Any) -> Any:
    """Return symbols that came from JSON with their queries as tuples, which are keys."""
    if isinstance(data, list):
        return [_read(item) for item in data]
    if isinstance(data, dict):
        return {key: _query(value) if key == "given" else _read(value) for key, value in data.items()}
    return data
