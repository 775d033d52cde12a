"""Where the catalogue comes from: WebShop's files under ETO_DATA, in the layout of its download script, or the sample."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Name = Literal["full", "1000", "sample"]

#: The names that the original's download script (setup.sh) gives its files: all products, and the first thousand.
FILES: dict[Name, tuple[str, str]] = {
    "full": ("items_shuffle.json", "items_ins_v2.json"),
    "1000": ("items_shuffle_1000.json", "items_ins_v2_1000.json"),
    "sample": ("items_shuffle.json", "items_ins_v2.json"),
}
HUMAN_GOALS = "items_human_ins.json"


@dataclass(frozen=True, slots=True)
class Source:
    """The files of a catalogue. `human` is None where there are no human goals."""

    name: Name
    products: Path
    attributes: Path
    human: Path | None

    @property
    def files(self) -> list[Path]:
        """All files, in a fixed order."""
        return [path for path in (self.products, self.attributes, self.human) if path is not None]

    def digest(self) -> str:
        """Return a hash of the files' contents."""
        whole = hashlib.sha256(self.name.encode())
        for path in self.files:
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        return whole.hexdigest()

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the records of the products, one at a time: the full file is some 5 GB."""
        import ijson  # type: ignore[import-untyped]

        with self.products.open("rb") as file:
            yield from ijson.items(file, "item", use_float=True)

    def attribute_records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (asin, record) of the attribute file."""
        import ijson

        with self.attributes.open("rb") as file:
            yield from ijson.kvitems(file, "", use_float=True)

    def human_records(self) -> dict[str, list[dict[str, Any]]]:
        """Return the human goals' records by asin (some 5 MB)."""
        import orjson

        found: dict[str, list[dict[str, Any]]] = orjson.loads(self.human.read_bytes()) if self.human else {}
        return found


def find_source(folder: Path, name: Name) -> Source | None:
    """Return a catalogue's files in a folder, or None where they are not there."""
    products, attributes = (folder / file for file in FILES[name])
    if not (products.is_file() and attributes.is_file()):
        return None
    human = folder / HUMAN_GOALS
    return Source(name, products, attributes, human if human.is_file() else None)
