#!.venv/bin/python
"""What a page of a large run costs: the first look at its files, a look when nothing changed, and one after an episode was appended.

    make bench ONLY=ui, or benchmarks/ui.py [--episodes 5000] [--rounds 9]

One run directory with one evaluation of so many episodes, each of 20 turns of 500 characters; the list of episodes is asked for
over HTTP within the process (no network). Ratios are against the first look, which reads and checks every line, as a page that
remembered nothing would at each request. Medians of the rounds. Writes benchmarks/out/ui.json and prints a table.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from orchestrator.records import Episode, Message, Step, TerminateReason
from orchestrator.ui.app import create_app

OUT = Path(__file__).parent / "out" / "ui.json"
STAGE, TURNS, LENGTH = "evaluate-sft", 20, 500


def episode(number: int) -> Episode:
    """An episode as long as ScienceWorld's usually are."""
    turns = []
    for turn in range(TURNS):
        turns += [Message(role="assistant", content=f"Thought: {'t' * 80}\nAction: look at {number} {turn}")]
        turns += [Message(role="user", content="Observation: " + "o" * LENGTH)]
    prompt = [Message(role=role, content="p" * LENGTH) for role in ("user", "assistant", "user")]  # type: ignore[arg-type]
    return Episode(
        env="sciworld",
        task_id=f"task-{number % 24}:{number}",
        task_type=f"task-{number % 24}",
        split="eto-seen",
        policy="sft",
        messages=prompt + turns,
        steps=[Step(action="look", reward=0.05, score=0.05 * k, valid=True) for k in range(TURNS)],
        reward=number % 100 / 100,
        score=number % 100 / 100,
        success=number % 100 > 70,
        terminate_reason=TerminateReason.TERMINATED,
        started_at="2026-01-01T00:00:00+00:00",
        duration_s=1.0,
        code_version="benchmark",
    )


def measure(runs: Path, episodes: int, rounds: int) -> dict[str, Any]:
    """Seconds and ratios."""
    stage = runs / "large" / "stages" / STAGE
    stage.mkdir(parents=True)
    file = stage / "episodes.jsonl"
    with open(file, "w") as out:
        out.writelines(episode(n).model_dump_json(by_alias=True) + "\n" for n in range(episodes))
    web = TestClient(create_app(runs), base_url="http://127.0.0.1")

    def look(query: str = "") -> float:
        started = time.perf_counter()
        answer = web.get(f"/runs/large/episodes{query}")
        assert " episodes, mean score" in answer.text
        return time.perf_counter() - started

    web.get("/")  # imports and templates are not what is measured
    web.get("/runs/none")
    first, again, grown = look(), [], []
    for n in range(rounds):
        again.append(look())
        with open(file, "a") as out:
            out.write(episode(episodes + n).model_dump_json(by_alias=True) + "\n")
        grown.append(look())
    search, search_again = look("?q=look+at+17"), statistics.median(look("?q=look+at+17") for _ in range(rounds))
    unchanged, appended = statistics.median(again), statistics.median(grown)
    return {
        "episodes": episodes,
        "megabytes": round(file.stat().st_size / 1e6, 1),
        "rounds": rounds,
        "first_s": first,
        "unchanged_s": unchanged,
        "appended_s": appended,
        "search_s": search,
        "search_again_s": search_again,
        "first_over_unchanged": first / unchanged,
        "first_over_appended": first / appended,
        "search_over_search_again": search / search_again,
    }


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description="What a page of a large run costs.")
    parser.add_argument("--episodes", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), given.episodes, given.rounds)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    for name, value in result.items():
        print(f"{name:<26} {value:>10.3f}" if isinstance(value, float) else f"{name:<26} {value:>10}")


if __name__ == "__main__":
    main()
