"""Leaves out of a search what the goal does not ask for.

Most of a house is beside the point: with every thing that can be carried about and every door that can be opened, a search for two spatulas
in a drawer took more than 200 CPU seconds and 3.9 GB; without them, 1.5 s. What is left is a part of the game, so a plan found in it is a
plan of the game; that none is found in it proves nothing.
"""

import re
from collections.abc import Mapping

#: Operators that move things or open what holds them (ALFRED's domain, as alfworld's json_2.1.1 games carry it).
HANDLING = frozenset({"pickupobject", "putobject", "openobject"})


def relevant(sas: str, types: Mapping[str, str]) -> str:
    """Return a search task (fast-downward's SAS+ text, one atom a variable) without the operators that the goal can do without.

    Kept are those whose objects the goal names, in what it names or where those objects are at the start. Nothing is closed again.
    `types`: of every thing.
    """
    before, goal, between, operators, after = _parts(sas)
    atoms = [values.splitlines() for values in re.findall(r"begin_variable\n.*\n.*\n\d+\n((?:.*\n)*?)end_variable", before)]
    conditions = [goal, *re.findall(r"begin_rule\n((?:.*\n)*?)end_rule", after)]
    wanted = {thing for condition in conditions for number in _variables(condition) for thing in _arguments(atoms[number][0])}
    state = before.partition("begin_state\n")[2].partition("end_state")[0].split()
    places = set(wanted)
    for values, value in zip(atoms, state, strict=True):
        atom = values[int(value)]
        if atom.startswith("Atom inreceptacle(") and wanted.intersection(_arguments(atom)):
            places.update(_arguments(atom))

    def matters(operator: str) -> bool:
        name, *arguments = operator.splitlines()[1].split()
        if name == "closeobject" or any(types[a] == "object" and a not in wanted for a in arguments):
            return False
        return name not in HANDLING or all(types[a] != "receptacle" or a in places for a in arguments)

    kept = [operator for operator in operators if matters(operator)]
    return f"{before}begin_goal\n{goal}{between}{len(kept)}\n{''.join(kept)}{after}"


def _parts(sas: str) -> tuple[str, str, str, list[str], str]:
    """Split into what precedes the goal, the goal, its end, the operators, and what follows them (their number stands before the first)."""
    before, _, rest = sas.partition("begin_goal\n")
    goal, end, rest = rest.partition("end_goal\n")
    _, _, rest = rest.partition("\n")
    length = rest.rindex("end_operator\n") + len("end_operator\n")
    return before, goal, end, re.findall(r"begin_operator\n(?:.*\n)*?end_operator\n", rest[:length]), rest[length:]


def _variables(condition: str) -> list[int]:
    """Return the variables of a goal or of a rule's condition: a number of lines `VARIABLE VALUE` stands before them."""
    count, *lines = condition.splitlines()
    return [int(line.split()[0]) for line in lines[: int(count)]]


def _arguments(atom: str) -> list[str]:
    """Return the things of an atom such as `Atom inreceptacle(mug_1, desk_1)`."""
    return re.findall(r"[^ (),]+", atom.partition("(")[2])
