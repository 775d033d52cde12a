"""Training data from several sources, by weight: the same sources, weights and seed give the same examples in the same order."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.config_training import SourceSection
from orchestrator.jsonl import DataFileError, first_fault


class ConversationLine(BaseModel):
    """One example for SFT; what else a file's line holds is kept. The trainer checks the messages."""

    model_config = ConfigDict(extra="allow")
    messages: list[Any]


class PairLine(BaseModel):
    """One example for DPO; likewise."""

    model_config = ConfigDict(extra="allow")
    prompt: list[Any]
    chosen: list[Any]
    rejected: list[Any]


Line = TypeVar("Line", ConversationLine, PairLine)
Example = TypeVar("Example")


def mix(sources: Mapping[str, Sequence[Example]], weights: Sequence[float], seed: int) -> dict[str, list[Example]]:
    """So many examples of each source that they stand in the proportion of the weights; no example is taken twice.

    The source that is shortest for its weight is taken whole; of the others a part is drawn, in its own order. Raises ValueError where
    a source is empty, or would give nothing beside another that is so much shorter.
    """
    empty = [name for name, source in sources.items() if not source]
    if empty:
        raise ValueError(f"{empty[0]} holds no examples")
    share = min(len(source) / weight for source, weight in zip(sources.values(), weights, strict=True))
    taken = {}
    for (name, source), weight in zip(sources.items(), weights, strict=True):
        count = min(round(share * weight), len(source))
        if count == 0:
            raise ValueError(f"{name} would give {share * weight:.2f} examples beside the shortest source: raise its weight")
        drawn = random.Random(f"{seed}/{name}").sample(range(len(source)), count)  # noqa: S311 - no secret
        taken[name] = [source[at] for at in sorted(drawn)]
    return taken


def _read(file: Path, kind: type[Line]) -> list[Line]:
    """A file from elsewhere: its last line may lack its end, which means a torn record only in a file of ours."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataFileError(f"{file} cannot be read: {error}. Give JSON lines in UTF-8.") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found += [kind.model_validate_json(line)] if line.strip() else []
        except ValidationError as error:
            raise DataFileError(f"{file}, line {number}: {first_fault(error)}. Correct or remove the line.") from error
    return found


def mixed_lines(mixture: Sequence[SourceSection], made: Mapping[str, Sequence[Line]], seed: int, kind: type[Line]) -> list[Line]:
    """The mixture's examples, each with its `source`. What the run has not made (yet), such as `own` before it has explored, is left out.

    Raises DataFileError for a file that is damaged or holds lines of another kind, and for a mixture that cannot be made.
    """
    sources: dict[str, Sequence[Line]] = {}
    weights = []
    for chosen in mixture:
        found = _read(chosen.file, kind) if chosen.file is not None else made.get(chosen.source or "", ())
        if found or chosen.file is not None:
            sources[str(chosen.file or chosen.source)] = found
            weights.append(chosen.weight)
    try:
        taken = mix(sources, weights, seed)
    except ValueError as error:
        raise DataFileError(f"the mixture of {', '.join(sources)} cannot be made: {error}.") from error
    return [line.model_copy(update={"source": name}) for name, lines in taken.items() for line in lines]
