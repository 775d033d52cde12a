"""TextWorld's planner library (fast-downward-textworld 20.6.4) as the rules of a game: which actions apply, what they change, is it won.

The library keeps its state in global variables, so each Library has a copy of its own: it may not be shared between two episodes at a
time, and not between threads. A copy takes about 1 MB, and 1 to 4 MB more with a game in it. A copy is never unloaded, as unloading it
crashes now and then, but is handed to the next Library: loading a game into it frees the one before.
"""

import ctypes
from collections.abc import Iterator
from typing import Any

from env_alfworld.facts import Arguments

_ready: list[Any] = []


class Library:
    """One copy of the library, to be given back by close()."""

    def __init__(self) -> None:
        if not _ready:
            import fast_downward  # type: ignore[import-untyped]

            _ready.append(fast_downward.load_lib())
        self._lib = _ready.pop()
        self._operators: dict[int, int] = {}  # operator id -> number of its effects

    def __enter__(self) -> "Library":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the copy back."""
        if self._lib is not None:
            _ready.append(self._lib)
            self._lib = None

    def load(self, sas: bytes) -> None:
        """Begin a game."""
        self._lib.load_sas(sas)

    def state(self) -> Iterator[tuple[bool, str, Arguments]]:
        """Yield the value of each variable: whether it is positive, predicate, arguments."""
        size = self._lib.get_state_size()
        atoms = _array("Atom", size)
        self._lib.get_state(atoms)
        return map(_atom, atoms)

    def applicable(self) -> list[tuple[int, str]]:
        """Return the actions that apply, as id and PDDL text, in the library's order."""
        operators = _array("Operator", self._lib.get_applicable_operators_count())
        self._lib.get_applicable_operators(operators)
        self._operators = {operator.id: operator.nb_effect_atoms for operator in operators}
        return [(operator.id, operator.name) for operator in operators]

    def apply(self, operator: int) -> list[tuple[bool, str, Arguments]]:
        """Take an action that `applicable` named last; return what became true, or untrue."""
        atoms = _array("Atom", self._operators[operator])
        self._lib.apply_operator(operator, atoms)
        return [_atom(atom) for atom in atoms]

    def won(self) -> bool:
        """Whether the goal holds."""
        return bool(self._lib.check_goal())

    def plan(self, optimized_sas: bytes) -> list[str] | None:
        """Search for a way from where the game stands to the goal; return PDDL texts, None where there is no way."""
        self._lib.load_sas_replan(optimized_sas)
        if not self._lib.replan(False):
            return None
        operators = _array("Operator", self._lib.get_last_plan_length())
        self._lib.get_last_plan(operators)
        return [operator.name for operator in operators]


def _array(kind: str, size: int) -> Any:
    import fast_downward

    element: type[ctypes.Structure] = getattr(fast_downward, kind)
    return (element * size)()


def _atom(atom: Any) -> tuple[bool, str, Arguments]:
    """Read a text such as `Atom inreceptacle(mug_1, desk_1)`."""
    kind, _, rest = atom.name.partition(" ")
    name, _, arguments = rest.partition("(")
    return kind == "Atom", name, tuple(a for a in arguments[:-1].split(", ") if a)
