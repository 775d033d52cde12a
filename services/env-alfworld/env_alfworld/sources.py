"""Where the games come from: a data directory, or the generator."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from env_core.environment import EnvironmentUnavailableError

from env_alfworld.catalogue import LAYOUT, Found, GameFileError, scan
from env_alfworld.sample import make_sample
from env_alfworld.settings import AlfworldSettings, user_cache
from env_alfworld.store import GameFile, Store

DOWNLOAD = "alfworld-download --data-dir"  # of the package alfworld, which is installed with this service


@dataclass(frozen=True, slots=True)
class Source:
    """The games that are served. `root` holds json_2.1.1; `label` is `sample` for generated games."""

    root: Path
    store: Path
    label: str
    games: Sequence[GameFile]
    found: Sequence[Found]


def listed(settings: AlfworldSettings) -> Source:
    """Find the games. Raises EnvironmentUnavailableError where a required split has none."""
    root = _root(settings)
    label, gold = ("sample", None) if root is None else (LAYOUT, root.parent / "experts" / "alfworld_gold.json")
    try:
        if root is None:
            root = make_sample(settings.cache / "sample")
        path = settings.cache / f"games-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]}.sqlite"
        store = Store(path)
        try:
            found = scan(store, root, gold)
            games = store.games()
        finally:
            store.close()
    except OSError as error:
        raise EnvironmentUnavailableError(
            f"ALFWorld keeps its translated games in {settings.cache}, but that cannot be written ({error.strerror or error}); "
            "set ETO_ALFWORLD_CACHE to a folder that can."
        ) from None
    except GameFileError as error:
        raise EnvironmentUnavailableError(f"ALFWorld's expert episodes were to be read, but {error}; correct or remove it.") from None
    _refuse_without(settings.required, root, found)
    return Source(root, path, label, games, found)


def _root(settings: AlfworldSettings) -> Path | None:
    """Return the folder that holds json_2.1.1; None for sample data. A folder that is named must be there."""
    if settings.sample:
        return None
    if settings.data is not None:
        return settings.data / "alfworld"
    usual = user_cache() / "alfworld"
    return usual if (usual / LAYOUT).is_dir() else None


def _refuse_without(required: Sequence[str], root: Path, found: Sequence[Found]) -> None:
    empty = [f for f in found if f.split in required and not f.playable]
    if empty:
        raise EnvironmentUnavailableError(
            f"ALFWorld's splits {', '.join(required)} are required, but {root / LAYOUT} has no game of {', '.join(f.split for f in empty)} "
            f"({'; '.join(map(str, found))}); run `{DOWNLOAD} {root}`, or set ETO_ALFWORLD_SAMPLE=1 to play generated games, "
            "or ETO_ALFWORLD_REQUIRED to the splits you need."
        )
