#!.venv/bin/python
"""Whole runs of the loop with real parts, killed at random until they are complete, against an undisturbed one.

    make soak ONLY=loop, or benchmarks/soak/loop.py [--runs 4] [--seed 0]

Each run is the smallest one of tests/tiny_run.py. Every few seconds (at random) one of the orchestrator, the policy server, the
environment service, a JVM, or a training job is killed with SIGKILL; the orchestrator is started again when it has ended.
A run must end complete: every stage, every episode once, a stage that was finished never done again. Its experts must be the undisturbed
run's to the byte, and its SFT weights bit-equal. Writes benchmarks/out/soak-loop.json.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
OUT = ROOT / "benchmarks" / "out" / "soak-loop.json"
PAUSE_S = (8.0, 30.0)
LONGEST_S = 1500.0


def processes() -> dict[int, str]:
    """Command lines by pid."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found[int(entry.parent.name)] = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    return found


def victims(run_folder: Path, eto: int) -> dict[str, list[int]]:
    """What may be killed now, by kind; only processes of this very run."""
    from orchestrator import process

    kinds: dict[str, list[int]] = {"orchestrator": [eto], "jvm": [], "trainer": []}
    for name in ("env-sciworld", "policy"):
        running = process.find(name)
        kinds[name] = [running.pid] if running is not None and running.alive() else []
    for pid, line in processes().items():
        if "-m trainer" in line and str(run_folder) in line:
            kinds["trainer"].append(pid)
        if "scienceworld.jar" in line and any(_descends(pid, env) for env in kinds["env-sciworld"]):
            kinds["jvm"].append(pid)
    return {kind: pids for kind, pids in kinds.items() if pids}


def _descends(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def weights(run_folder: Path) -> str:
    """The version of the SFT weights, a hash of their bytes."""
    return str(json.loads((run_folder / "stages" / "sft" / "checkpoint" / "manifest.json").read_text())["version"])


def main() -> None:
    """Run, kill, compare, report."""
    parser = argparse.ArgumentParser(description="Runs of the loop, killed at random.")
    parser.add_argument("--runs", type=int, default=4, help="disturbed runs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="eto-soak-") as scratch:
        os.environ["ETO_STATE"] = str(Path(scratch) / "state")
        from tiny_run import Run

        from orchestrator import process

        try:
            results = soak(Path(scratch), options.runs, rng, Run)
        finally:
            for running in process.find_all():
                process.stop(running)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def soak(scratch: Path, runs: int, rng: random.Random, run_class: type) -> dict[str, object]:
    """The undisturbed run and the disturbed ones; AssertionError where one is not as it must be."""
    calm = run_class(_folder(scratch, "calm"))
    started = time.monotonic()
    eto = calm.start()
    assert eto.wait(LONGEST_S) == 0, calm.log.read_text()
    calm.check_complete()
    calm_s = time.monotonic() - started
    print(f"undisturbed: {calm_s:.0f} s", flush=True)
    kills: Counter[str] = Counter()
    rows = []
    for number in range(runs):
        run = run_class(_folder(scratch, f"run-{number}"))
        began, starts, here = time.monotonic(), 1, Counter[str]()
        eto = run.start()
        kept: dict[str, str] = {}
        while True:
            try:
                code = eto.wait(rng.uniform(*PAUSE_S))
            except subprocess.TimeoutExpired:
                code = None
            assert time.monotonic() - began < LONGEST_S, run.log.read_text()
            done = run.done()
            assert {stage: done.get(stage) for stage in kept} == kept, "a finished stage was done again"
            kept = done
            if code == 0:
                break
            if code is not None:  # it was killed, or a job of its was and it said so
                starts += 1
                eto = run.start()
                continue
            kind, pids = rng.choice(sorted(victims(run.folder, eto.pid).items()))
            try:
                os.kill(rng.choice(pids), signal.SIGKILL)
            except ProcessLookupError:
                continue  # it ended by itself in the meantime
            here[kind] += 1
        run.check_complete()
        assert process_free(), "the run left a service behind"
        assert _experts(run) == _experts(calm), "the experts differ"
        assert weights(run.folder) == weights(calm.folder), "the SFT weights differ"
        kills += here
        rows.append({"kills": dict(here), "starts": starts, "elapsed_s": round(time.monotonic() - began)})
        print(f"run {number}: {dict(here)}, started {starts} times, {rows[-1]['elapsed_s']} s: complete", flush=True)
    return {"runs": runs, "complete": len(rows), "kills": dict(kills), "undisturbed_s": round(calm_s), "each": rows}


def _folder(scratch: Path, name: str) -> Path:
    folder = scratch / name
    folder.mkdir()
    return folder


def _experts(run: object) -> list[object]:
    return sorted((e.key, [m.content for m in e.messages], e.score) for e in run.episodes("experts"))  # type: ignore[attr-defined]


def process_free() -> bool:
    """Whether no service of ours is left."""
    from orchestrator import process

    return process.find_all() == []


if __name__ == "__main__":
    main()
