"""Makes a game ready to play: reads its grammar and translates its PDDL, once, with TextWorld 1.7.0's own parsers.

This is the dear part (0.1 to 0.5 CPU seconds a game). The result is plain data, kept in the store, and has all that playing needs.
"""

import functools
import json
import re
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from env_alfworld.facts import Arguments, Query, Signature, negated
from env_alfworld.parsing import Parsed, parse, parse_whole

#: Part of the key of what is stored: raise it when the form below or what fills it changes.
FORM = 1


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


def translate(game: Mapping[str, str], parse_template: Callable[[str], Parsed] = parse_whole) -> Translated:
    """Translate a game file's content (`parse_template`: see parsing.parse). Raises GrammarError where its grammar is not allowed."""
    import fast_downward  # type: ignore[import-untyped]

    task, sas = fast_downward.pddl2sas(game["pddl_domain"], game["pddl_problem"])
    types = {thing.name: thing.type_name for thing in task.objects}
    parsed = parse(game["grammar"], parse_template)
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
            for name, alternatives in parsed.rules.items()
        },
        actions={
            action.name: Action(
                parameters=[(parameter.name.strip("?"), parameter.type_name) for parameter in action.parameters],
                command=matching.symbols(parsed.actions[action.name][0]),
                feedback=matching.symbols(parsed.actions[action.name][1]),
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


class _Signatures:
    """Finds the signatures that a predicate in a query matches, in TextWorld's order: by type, the named one first, then those below."""

    def __init__(self, task: Any, sas: str, types: Mapping[str, str], facts: Mapping[Signature, Any]) -> None:
        self._below: dict[str, list[str]] = {}
        for type_ in {t.name: t for t in reversed(task.types)}.values():  # `object` stands twice; TextWorld takes the first
            for above in type_.supertype_names:
                self._below[above] = sorted([*self._below.get(above, []), type_.name])
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
        return [(predicate, found) for found in self._at_or_below(types) if (predicate, found) in self._possible]

    def _at_or_below(self, types: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        """Yield these types, then those with one of them replaced by a type right below it, breadth first (TextWorld's multi_subtypes)."""
        yield types
        seen: set[tuple[str, ...]] = set()
        queue = deque(self._one_below(types))
        while queue:
            found = queue.popleft()
            yield found
            new = [below for below in self._one_below(found) if below not in seen]
            seen.update(new)
            queue.extend(new)

    def _one_below(self, types: tuple[str, ...]) -> list[tuple[str, ...]]:
        return [(*types[:place], below, *types[place + 1 :]) for place, type_ in enumerate(types) for below in self._below.get(type_, [])]


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
