"""Plays ALFWorld episodes. Engines of a worker share the games that they have made ready."""

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from env_core.environment import Outcome

from env_alfworld.ahead import Ahead
from env_alfworld.catalogue import read_game
from env_alfworld.downward import Library
from env_alfworld.experts import find_actions
from env_alfworld.store import GameFile, Store
from env_alfworld.translation import Translated, translate
from env_alfworld.world import Game, World

PUT_OR_MOVE = re.compile(r"(?:put (?P<put>.+) (?:in/on|in|on)|move (?P<move>.+) to) (?P<where>.+)")
_games: OrderedDict[str, Game] = OrderedDict()


def create(store: str, root: str, label: str, games_kept: int, games_ahead: int, expert: str, put_or_move: bool) -> "AlfworldEngine":
    """Return an engine; the service's worker calls this."""
    return AlfworldEngine(Store(Path(store)), Path(root), label, games_kept, expert, put_or_move, Ahead(store, root, games_ahead))


def made_ready(store: Store, root: Path, file: GameFile, games_kept: int) -> Game:
    """Return a game from this process's memory, or from the store, or translated now and put into both."""
    game = _games.get(file.sha256)
    if game is None:
        data = store.translated(file.sha256)
        if data is None:
            content, _ = read_game(root, file.path, file.sha256)
            data = translate(content).to_bytes()
            store.keep_translated(file.sha256, data)
        game = _games[file.sha256] = Game(Translated.from_bytes(data))
        while len(_games) > games_kept:
            _games.popitem(last=False)
    _games.move_to_end(file.sha256)
    return game


@dataclass
class AlfworldEngine:
    """Plays one episode at a time on a copy of the library that is its own."""

    store: Store
    root: Path
    label: str
    games_kept: int
    expert_kind: str
    put_or_move: bool
    ahead: Ahead
    library: Library = field(default_factory=Library)
    _world: World | None = None

    def load(self, task_id: str, seed: int, include: Sequence[str]) -> Outcome:
        """Begin an episode. The game has no use for a seed."""
        file = self._file(task_id)
        self._world = None
        self._world = World(self.library, made_ready(self.store, self.root, file, self.games_kept))
        self.ahead.begin(self.store, file)
        info = {"task_type": file.task_type, "game_file": file.path, "data": self.label}
        return self._outcome(self._world, info, include)

    def step(self, action: str, include: Sequence[str]) -> Outcome:
        """Take one action."""
        world = self._world
        if world is None:
            raise RuntimeError("a step before any load")
        world.step(spoken(action, world.commands) if self.put_or_move else action)
        return self._outcome(world, {}, include)

    def expert(self, task_id: str) -> list[str]:
        """Return the actions of the expert, which were played to the end and won."""
        file = self._file(task_id)
        game = made_ready(self.store, self.root, file, self.games_kept)
        return find_actions(self.store, self.root, file, game, self.expert_kind)

    def close(self) -> None:
        """Give the library back."""
        self._world = None
        self.library.close()
        self.ahead.close()
        self.store.close()

    def _file(self, task_id: str) -> GameFile:
        file = self.store.game(task_id)
        if file is None:
            raise KeyError(task_id)
        return file

    def _outcome(self, world: World, info: dict[str, str], include: Sequence[str]) -> Outcome:
        return Outcome(
            text=world.text,
            score=1.0 if world.won else 0.0,
            terminated=world.won,
            success=world.won,
            info=info,
            valid_actions=world.commands if "valid_actions" in include else None,
        )


def spoken(action: str, commands: Sequence[str]) -> str:
    """Return `put X in/on Y` as `move X to Y`, or the other way round, where only that is a command."""
    match = PUT_OR_MOVE.fullmatch(action.strip())
    if match is None or action.strip() in commands:
        return action
    thing = match["put"] or match["move"]
    for other in (f"move {thing} to {match['where']}", f"put {thing} in/on {match['where']}"):
        if other in commands:
            return other
    return action
