"""What `eto data` does: import, export, check."""

import asyncio
import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import typer

from orchestrator import jsonl, places
from orchestrator.commands import env_addresses
from orchestrator.config import ConfigError
from orchestrator.env_client import EnvClient
from orchestrator.progress import Display
from orchestrator.prompts import load_prompt
from orchestrator.records import Episode, Pair
from orchestrator.run_store import write_atomically
from orchestrator.trajectories import formats
from orchestrator.trajectories.replay import Rules, Verdict, replay

#: Seconds that an import waits for a service that does not answer.
PATIENCE_S = 30.0
#: Reasons are listed in the report with so many examples each.
EXAMPLES = 5
#: More would only wait for engines, some beyond their patience.
REPLAYS_AT_A_TIME = 8


async def import_trajectories(
    source: Path, env_name: str, env_url: str | None, out: Path, split: str | None, rules: Rules, every: int, prompt_file: Path | None
) -> None:
    """`eto data import` of trajectories: replay, write what is kept, report on all."""
    rows = list(islice(formats.read_trajectories(source), 0, None, every))
    prompt = load_prompt(env_name, prompt_file)
    verdicts: dict[int, Verdict] = {}
    queue: Iterator[tuple[int, formats.Trajectory]] = iter(enumerate(rows))
    async with EnvClient(env_addresses(env_name, env_url), env_name, patience_s=PATIENCE_S) as env:
        with Display().stage(out.name, "import") as progress:
            progress.total(len(rows), "trajectories")

            async def worker() -> None:
                for number, row in queue:
                    verdicts[number] = await replay(row, env, prompt, rules, split, number)
                    progress.advance()

            async with asyncio.TaskGroup() as group:
                for _ in range(max(1, min(REPLAYS_AT_A_TIME, (await env.sessions())["max_sessions"] - 1))):
                    group.create_task(worker())
            found = [verdicts[number] for number in sorted(verdicts)]
            episodes = _numbered(found)
            report = summary(source, rules, found)
            out.parent.mkdir(parents=True, exist_ok=True)
            jsonl.write_all(out, episodes)
            write_atomically(out.with_name(out.name + ".report.json"), json.dumps(report, indent=1, ensure_ascii=False))
            progress.finish({k: report[k] for k in ("trajectories", "kept")})
    typer.echo(json.dumps({k: v for k, v in report.items() if k != "examples"}))


def _numbered(verdicts: list[Verdict]) -> list[Episode]:
    """The kept episodes; several of one task are its samples 0, 1, ..."""
    seen: Counter[str] = Counter()
    episodes = []
    for episode in (v.episode for v in verdicts if v.episode is not None):
        episodes.append(episode.model_copy(update={"sample": seen[episode.task_id]}))
        seen[episode.task_id] += 1
    return episodes


def summary(source: Path, rules: Rules, verdicts: list[Verdict]) -> dict[str, Any]:
    """The counts of an import, and examples of what was dropped."""
    kept = [v for v in verdicts if v.episode is not None]
    dropped = Counter(v.reason for v in verdicts if v.reason is not None)
    examples = {
        reason: [{"id": v.source, "task_id": v.task_id, "why": v.detail} for v in verdicts if v.reason == reason][:EXAMPLES]
        for reason in dropped
    }
    return {
        "source": source.name,
        "observations": rules.observations,
        "trajectories": len(verdicts),
        "kept": len(kept),
        "tasks": len({v.task_id for v in kept}),
        "turns": sum(len(v.episode.steps) for v in kept if v.episode is not None),
        "observations_compared": sum(v.observations for v in kept),
        "observations_equal_by_letter": sum(v.exact for v in kept),
        "dropped": dict(dropped.most_common()),
        "examples": examples,
    }


def import_pairs(source: Path, out: Path) -> None:
    """`eto data import` of pairs: converted, since a pair does not say which rewards its sides had."""
    rows = list(formats.read_pairs(source))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    typer.echo(json.dumps({"source": source.name, "pairs": len(rows)}))


FORMATS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "eto-sft": formats.as_eto_sft,
    "agenttraj": formats.as_eto_sft,
    "eto-episodes": formats.as_eto_episode,
    "eto-dpo": formats.as_eto_pair,
    "trl": formats.as_trl,
}


def export(source: Path, name: str, out: Path) -> None:
    """`eto data export`: our episodes or pairs in another format."""
    if name not in FORMATS:
        raise ConfigError(f"--format {name} is unknown; known: {', '.join(FORMATS)}.")
    pairs = formats.holds_pairs(source)
    if pairs != (name == "eto-dpo") and name != "trl":
        raise ConfigError(f"{source} holds {'pairs' if pairs else 'episodes'}, which have no {name} form. Take trl, or another file.")
    records: list[Episode] | list[Pair] = list(jsonl.read(source, Pair)) if pairs else list(jsonl.read(source, Episode))
    written = [FORMATS[name](record) for record in records]
    out.parent.mkdir(parents=True, exist_ok=True)
    if name == "eto-episodes":
        out.mkdir(exist_ok=True)
        for episode, text in zip(records, written, strict=True):
            assert isinstance(episode, Episode)  # noqa: S101 - pairs were refused above
            file = f"{episode.task_id.replace('/', '_').replace(':', '_')}{f'_{episode.sample}' if episode.sample else ''}.json"
            write_atomically(out / file, json.dumps(text, indent=1, ensure_ascii=False))
    elif name == "trl":
        write_atomically(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in written))
    else:
        write_atomically(out, json.dumps(written, indent=1, ensure_ascii=False))
    typer.echo(json.dumps({"source": source.name, "format": name, "records": len(written), "out": str(out)}))


def check(source: Path, model: str, max_length: int, show: int) -> int:
    """`eto data check`: the trainer's own reading of a file; returns its exit code."""
    python = str(places.service_python("trainer"))
    command = [python, "-m", "trainer", "--show", str(source), "--model", model, "--max-length", str(max_length), "--examples", str(show)]
    return subprocess.run(command, check=False).returncode
