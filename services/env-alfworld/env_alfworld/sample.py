"""Makes games of our own for all six task types, from the PDDL domain and the grammar that ship with alfworld.

So the service runs with no download. The games are small (one room, about ten places), always the same, and laid out as alfworld's are;
nothing in them comes from ALFRED's scenes.
"""

import importlib.util
import json
import os
import random
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from env_alfworld.catalogue import GAME, LAYOUT, TASK_TYPES, TRAJECTORY

#: Raise it when the games below change: they are made anew then.
VERSION = 1
PER_TYPE = {"train": 10, "valid_seen": 2, "valid_unseen": 2, "valid_train": 1}

OPENABLE = {"Cabinet", "Drawer", "Fridge", "Microwave", "Safe"}
LAMPS = {"DeskLamp", "FloorLamp"}
FOOD = {"Apple", "Bread", "Egg", "Potato", "Tomato"}
CROCKERY = {"Bowl", "Cup", "Mug", "Plate"}
ABILITIES = {
    "heatable": FOOD | {"Cup", "Mug", "Plate"},
    "coolable": FOOD | CROCKERY | {"Pan", "Pot"},
    "cleanable": FOOD - {"Bread"} | CROCKERY | {"Cloth", "Fork", "Ladle", "Pan", "Pot", "SoapBar", "Spatula", "Spoon"},
    "toggleable": LAMPS,
    "sliceable": FOOD,
}


@dataclass(frozen=True, slots=True)
class Room:
    """A kind of room: how many receptacles of each type, and which objects they take."""

    receptacles: Mapping[str, int]
    takes: Mapping[str, frozenset[str]]

    @property
    def objects(self) -> list[str]:
        """All types of objects that may be here, sorted."""
        return sorted(frozenset().union(*self.takes.values()))


def _room(receptacles: dict[str, int], takes: dict[str, str]) -> Room:
    return Room(receptacles, {receptacle: frozenset(objects.split()) for receptacle, objects in takes.items()})


_TABLEWARE = "Apple Bowl Bread Cup Egg Fork Ladle Mug Pan Plate Pot Potato Spatula Spoon Tomato"
_SMALL = "Book CD CellPhone CreditCard KeyChain Pen Pencil RemoteControl"
KITCHEN = _room(
    {"Cabinet": 2, "CounterTop": 1, "DiningTable": 1, "Drawer": 2, "Fridge": 1, "GarbageCan": 1, "Microwave": 1, "SinkBasin": 1}
    | {"StoveBurner": 1},
    {
        "Cabinet": "Bowl Cup Ladle Mug Pan Plate Pot",
        "CounterTop": _TABLEWARE,
        "DiningTable": _TABLEWARE,
        "Drawer": "Fork Ladle Spatula Spoon",
        "Fridge": "Apple Bowl Bread Cup Egg Mug Pan Plate Pot Potato Tomato",
        "GarbageCan": "Apple Bread Egg Potato Tomato",
        "Microwave": "Apple Bowl Bread Cup Egg Mug Plate Potato Tomato",
        "SinkBasin": _TABLEWARE.replace("Bread ", ""),
        "StoveBurner": "Pan Pot",
    },
)
BEDROOM = _room(
    {"ArmChair": 1, "Bed": 1, "Desk": 1, "Drawer": 3, "Dresser": 1, "GarbageCan": 1, "Safe": 1, "Shelf": 3, "SideTable": 2},
    {
        "ArmChair": "Book CellPhone CreditCard KeyChain Laptop Pillow RemoteControl",
        "Bed": "Book CellPhone Laptop Pillow",
        "Desk": f"AlarmClock Bowl DeskLamp Laptop Mug {_SMALL}",
        "Drawer": _SMALL,
        "Dresser": f"AlarmClock Laptop Mug {_SMALL}",
        "GarbageCan": "CD Pen Pencil",
        "Safe": "CD CellPhone CreditCard KeyChain",
        "Shelf": f"AlarmClock Bowl Mug {_SMALL}",
        "SideTable": f"AlarmClock DeskLamp Mug {_SMALL}",
    },
)
BATHROOM = _room(
    {"BathtubBasin": 1, "Cabinet": 3, "CounterTop": 1, "Drawer": 2, "GarbageCan": 1, "Shelf": 1, "SinkBasin": 1, "Toilet": 1},
    {
        "BathtubBasin": "Cloth SoapBar",
        "Cabinet": "Candle Cloth SoapBar SoapBottle SprayBottle ToiletPaper",
        "CounterTop": "Candle Cloth SoapBar SoapBottle SprayBottle ToiletPaper",
        "Drawer": "Candle Cloth SoapBar SoapBottle SprayBottle ToiletPaper",
        "GarbageCan": "Cloth SoapBar SoapBottle SprayBottle ToiletPaper",
        "Shelf": "Candle SoapBottle SprayBottle ToiletPaper",
        "SinkBasin": "Cloth SoapBar",
        "Toilet": "Candle Cloth SoapBar SoapBottle SprayBottle ToiletPaper",
    },
)
LIVING_ROOM = _room(
    {"ArmChair": 2, "CoffeeTable": 1, "Drawer": 3, "GarbageCan": 1, "Shelf": 2, "SideTable": 2, "Sofa": 1},
    {
        "ArmChair": "Book CellPhone CreditCard KeyChain Laptop Pillow RemoteControl",
        "CoffeeTable": f"Bowl Laptop Mug Newspaper Statue Vase {_SMALL}",
        "Drawer": f"Newspaper {_SMALL}",
        "GarbageCan": "CD Newspaper Pen Pencil",
        "Shelf": f"Bowl Mug Statue Vase {_SMALL}",
        "SideTable": f"DeskLamp Mug Newspaper Statue Vase {_SMALL}",
        "Sofa": "Book CellPhone CreditCard KeyChain Laptop Newspaper Pillow RemoteControl",
    },
)

#: Task type -> rooms, what the object must be able to, a goal in alfworld's words.
KINDS: Mapping[str, tuple[tuple[Room, ...], str | None, str]] = {
    "pick_and_place_simple": ((KITCHEN, BEDROOM, BATHROOM, LIVING_ROOM), None, "put a {obj} in {recep}."),
    "look_at_obj_in_light": ((BEDROOM, LIVING_ROOM), None, "look at {obj} under the {lamp}."),
    "pick_clean_then_place_in_recep": ((KITCHEN, BATHROOM), "cleanable", "clean some {obj} and put it in {recep}."),
    "pick_heat_then_place_in_recep": ((KITCHEN,), "heatable", "heat some {obj} and put it in {recep}."),
    "pick_cool_then_place_in_recep": ((KITCHEN,), "coolable", "cool some {obj} and put it in {recep}."),
    "pick_two_obj_and_place": ((KITCHEN, BEDROOM, BATHROOM, LIVING_ROOM), None, "put two {obj} in {recep}."),
}
MARKS = {"pick_clean_then_place_in_recep": "isClean", "pick_heat_then_place_in_recep": "isHot", "pick_cool_then_place_in_recep": "isCool"}


def make_sample(folder: Path) -> Path:
    """Write the games below `folder`, where they are not there yet; return the folder that holds json_2.1.1."""
    done = folder / f"v{VERSION}"
    if done.is_dir():
        return done
    folder.mkdir(parents=True, exist_ok=True)
    begun = Path(tempfile.mkdtemp(dir=folder))
    domain, grammar = _shipped()
    for split, per_type in PER_TYPE.items():
        for task_type in TASK_TYPES:
            for number in range(per_type):
                _write(begun / LAYOUT / split, task_type, f"{split} {task_type} {number}", number, domain, grammar)
    begun.chmod(0o755)
    try:
        begun.rename(done)
    except OSError:  # another service made them at the same time
        shutil.rmtree(begun, ignore_errors=True)
        if not done.is_dir():
            raise
    return done


def _shipped() -> tuple[str, str]:
    spec = importlib.util.find_spec("alfworld")  # found, not imported: that would make a folder in the user's home
    if spec is None or spec.origin is None:
        raise ImportError("the package alfworld is not installed")
    data = Path(spec.origin).parent / "data"
    return (data / "alfred.pddl").read_text("utf-8"), (data / "alfred.twl2").read_text("utf-8")


def _write(split: Path, task_type: str, seed: str, number: int, domain: str, grammar: str) -> None:
    rng = random.Random(seed)  # noqa: S311 - games, not secrets; a text seeds it the same in every process
    rooms, ability, words = KINDS[task_type]
    room = rooms[number % len(rooms)]
    target, receptacle, lamp = _goal(rng, room, ability, task_type)
    task = f"{task_type}-{target}-None-{lamp or receptacle}-{900 + number}"
    folder = split / task / f"sample_{number:04d}"
    folder.mkdir(parents=True)
    goal = words.format(obj=target.lower(), recep=receptacle.lower(), lamp=lamp.lower())
    game = {
        "pddl_domain": domain,
        "grammar": grammar.replace("UNKNOWN GOAL.", goal),
        "pddl_problem": _problem(rng, room, task_type, target, receptacle, lamp),
        "solvable": True,
    }
    trajectory = {
        "task_id": folder.name,
        "task_type": task_type,
        "pddl_params": {
            "object_target": target,
            "parent_target": "" if lamp else receptacle,
            "toggle_target": lamp,
            "mrecep_target": "",
            "object_sliced": False,
        },
    }
    (folder / GAME).write_text(json.dumps(game), encoding="utf-8")
    (folder / TRAJECTORY).write_text(json.dumps(trajectory), encoding="utf-8")


def _goal(rng: random.Random, room: Room, ability: str | None, task_type: str) -> tuple[str, str, str]:
    """Return the type of the object, of the receptacle it goes to, and of the lamp ("" where there is none)."""
    objects = [o for o in room.objects if o not in LAMPS and (ability is None or o in ABILITIES[ability])]
    if task_type == "look_at_obj_in_light":
        return rng.choice([o for o in objects if o != "Pillow"]), "", "DeskLamp"
    while True:
        target = rng.choice(objects)
        receptacles = sorted(r for r, takes in room.takes.items() if target in takes)
        receptacle = rng.choice(receptacles)
        if len(receptacles) > 1:  # the object must have another place to be in
            return target, receptacle, ""


def _problem(rng: random.Random, room: Room, task_type: str, target: str, receptacle: str, lamp: str) -> str:
    places = [(kind, _thing(rng, kind)) for kind, count in room.receptacles.items() for _ in range(count)]
    location = {place: f"loc_bar_{n - 6}_bar_{rng.randint(-9, 9)}_bar_{rng.randint(0, 3)}_bar_60" for n, (_, place) in enumerate(places)}
    start = "loc_bar_0_bar_20_bar_0_bar_30"
    copies = {kind: rng.randint(1, 2) for kind in rng.sample(room.objects, 5)}
    copies[target] = 2
    if lamp:
        copies[lamp] = 1
    facts = [f"(atLocation agent1 {start})"]
    for kind, place in places:
        facts += [f"(receptacleType {place} {kind}Type)", f"(receptacleAtLocation {place} {location[place]})"]
        facts += [f"(openable {place})"] if kind in OPENABLE else []
    facts += [f"(canContain {kind}Type {thing}Type)" for kind, takes in room.takes.items() for thing in sorted(takes)]
    things = []
    for kind in sorted(copies):
        for _ in range(copies[kind]):
            thing = _thing(rng, kind)
            things.append(thing)
            possible = [(k, p) for k, p in places if kind in room.takes[k] and (kind, k) != (target, receptacle)]
            _, place = rng.choice(possible)
            facts += [f"(objectType {thing} {kind}Type)", f"(inReceptacle {thing} {place})"]
            facts += [f"(objectAtLocation {thing} {location[place]})"]
            facts += [] if kind in LAMPS else [f"(pickupable {thing})"]
            facts += [f"({ability} {thing})" for ability, kinds in ABILITIES.items() if kind in kinds]
    objects = [
        "agent1 - agent",
        *(f"{thing} - object" for thing in things),
        *(f"{kind}Type - otype" for kind in sorted({*room.objects, "Knife", "ButterKnife"})),  # the domain names the last two
        *(f"{place} - receptacle" for _, place in places),
        *(f"{kind}Type - rtype" for kind in sorted({*room.receptacles, "Fridge", "Microwave", "Sink", "SinkBasin"})),  # as above
        *(f"{place} - location" for place in [start, *location.values()]),
    ]
    return (
        "(define (problem sample)\n(:domain alfred)\n(:objects\n" + "\n".join(objects) + "\n)\n(:init\n" + "\n".join(facts) + "\n)\n"
        f"(:goal {_condition(task_type, target, receptacle, lamp)})\n)\n"
    )


def _condition(task_type: str, target: str, receptacle: str, lamp: str) -> str:
    if lamp:
        return (
            f"(and (exists (?t - object ?r - receptacle ?a - agent ?l - location) (and (objectType ?t {lamp}Type) (toggleable ?t) "
            "(isToggled ?t) (receptacleAtLocation ?r ?l) (atLocation ?a ?l) (inReceptacle ?t ?r))) "
            f"(exists (?o - object ?a - agent) (and (objectType ?o {target}Type) (holds ?a ?o))))"
        )
    there = f"(receptacleType ?r {receptacle}Type) (objectType ?o {target}Type) (inReceptacle ?o ?r)"
    if task_type == "pick_two_obj_and_place":
        another = f"(exists (?p - object) (and (not (= ?o ?p)) (objectType ?p {target}Type) (inReceptacle ?p ?r)))"
        return f"(exists (?r - receptacle ?o - object) (and {there} {another}))"
    mark = f" ({MARKS[task_type]} ?o)" if task_type in MARKS else ""
    return f"(exists (?r - receptacle ?o - object) (and {there}{mark}))"


def _thing(rng: random.Random, kind: str) -> str:
    """Return an id of the kind that alfworld makes from a place in the scene, such as Mug_bar__plus_01_dot_25_bar_..."""
    numbers = (f"_{rng.choice(('plus', 'minus'))}_{rng.randint(0, 9):02d}_dot_{rng.randint(0, 99):02d}" for _ in range(3))
    return f"{kind.removesuffix('Basin')}_bar_" + "_bar_".join(numbers) + (f"_bar_{kind}" if kind.endswith("Basin") else "")
