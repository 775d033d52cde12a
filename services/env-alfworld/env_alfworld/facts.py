"""What is true in a game, and questions about it, as TextWorld 1.7.0 asks them (textworld.logic.State), but kept in order.

A fact is a predicate, the types of its arguments, and the arguments. TextWorld keeps facts in sets and sorts them for each question;
here they stay sorted, and an episode shares with its game the lists that it does not change.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

Signature = tuple[str, tuple[str, ...]]  # predicate, types
Arguments = tuple[str, ...]
Placeholder = tuple[str, str]  # name, type
#: A conjunction: predicates over placeholders, each with the signatures that match it, in the order in which they are searched.
Query = Sequence[tuple[Sequence[Signature], Sequence[Placeholder]]]
Bound = dict[Placeholder, str]  # what placeholders stand for


def negated(predicate: str) -> str:
    """Return the name of the opposite of a predicate: TextWorld keeps `not_p` as a predicate of its own."""
    return predicate.removeprefix("not_") if predicate.startswith("not_") else f"not_{predicate}"


class Facts:
    """The facts of one episode."""

    def __init__(self, initial: Mapping[Signature, Sequence[Arguments]]) -> None:
        """`initial` holds sorted lists, which are not changed."""
        self._initial = initial
        self._changed: dict[Signature, list[Arguments]] = {}

    def of(self, signature: Signature) -> Sequence[Arguments]:
        """Return the facts of a signature, sorted."""
        changed = self._changed.get(signature)
        return changed if changed is not None else self._initial.get(signature, ())

    def all(self) -> Iterator[tuple[str, Arguments]]:
        """Yield every fact as predicate and arguments."""
        for signature in [*self._initial, *(s for s in self._changed if s not in self._initial)]:
            for arguments in self.of(signature):
                yield signature[0], arguments

    def make_true(self, signature: Signature, arguments: Arguments) -> None:
        """Make a fact true and its opposite not."""
        predicate, types = signature
        opposite = self._own((negated(predicate), types))
        place = bisect_left(opposite, arguments)
        if place < len(opposite) and opposite[place] == arguments:
            del opposite[place]
        own = self._own(signature)
        place = bisect_left(own, arguments)
        if place == len(own) or own[place] != arguments:
            own.insert(place, arguments)

    def matches(self, query: Query, bound: Mapping[Placeholder, str]) -> Iterator[Bound]:
        """Yield what the placeholders can stand for, `bound` included. Different placeholders stand for different things."""
        yield from self._matches(query, dict(bound), set(bound.values()), 0)

    def _matches(self, query: Query, mapping: Bound, used: set[str], depth: int) -> Iterator[Bound]:
        if depth == len(query):
            yield dict(mapping)
            return
        signatures, placeholders = query[depth]
        for signature in signatures:
            for arguments in self.of(signature):
                new: list[Placeholder] = []
                for placeholder, argument in zip(placeholders, arguments, strict=True):
                    known = mapping.get(placeholder)
                    if known is None:
                        if argument in used:
                            break
                        mapping[placeholder] = argument
                        used.add(argument)
                        new.append(placeholder)
                    elif known != argument:
                        break
                else:
                    yield from self._matches(query, mapping, used, depth + 1)
                for placeholder in new:
                    used.discard(mapping.pop(placeholder))

    def _own(self, signature: Signature) -> list[Arguments]:
        if signature not in self._changed:
            self._changed[signature] = list(self._initial.get(signature, ()))
        return self._changed[signature]
