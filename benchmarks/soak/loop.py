#!.venv/bin/python
"""Whole runs of the loop with real parts, killed in each stage or at random until they are complete, against an undisturbed one.

    make soak ONLY=loop, or benchmarks/soak/loop.py [--runs 4] [--seed 0] [--calm FOLDER]

Each run is the smallest one of tests/tiny_run.py. The undisturbed one is reproduced from its own directory (`eto run --reproduce`), which
must find every record the same. In the first disturbed one the orchestrator is killed with SIGKILL once in every
stage, and with it the training job where there is one. In the others one of the orchestrator, the policy server, the environment
service, a JVM, or a training job is killed every few seconds, at random. The orchestrator is started again when it has ended.

A run must end complete: every stage, every episode once, a stage that was finished never done again. It must hold the undisturbed run's
very episodes, pairs and weights, and its final report must be the undisturbed run's but for clocks, names and ports. One episode is
played at a time, so that an answer does not depend on which requests share a batch. Writes benchmarks/out/soak-loop.json.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
OUT = ROOT / "benchmarks" / "out" / "soak-loop.json"
PAUSE_S = (8.0, 30.0)
LONGEST_S = 1500.0
TRAINING = ("init", "sft", "dpo-1")


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


#: What a report says of clocks, of names and ports, and of files that hold clocks; retries and tokens of answers sent again too.
PASSING = {
    *("run_id", "name", "created_at", "config_sha256", "config", "config_text", "started_at", "duration_s", "training_s", "train_s"),
    *("elapsed_s", "tokens_per_s", "inputs", "outputs", "retries", "restarts"),
}


def lasting(report: Any) -> Any:
    """A report without what differs from one run of a configuration to the next."""
    if isinstance(report, dict):
        return {k: lasting(v) for k, v in report.items() if k not in PASSING}
    return [lasting(v) for v in report] if isinstance(report, list) else report


def check_equal(run: Any, calm: Any) -> None:
    """AssertionError where a run does not hold what the undisturbed one does."""
    from orchestrator import run_same

    other = [s for s in run_same.compare(calm.folder, run.folder) if not s.same]
    assert not other, other
    reports = [json.loads((r.folder / "report.json").read_text()) for r in (calm, run)]
    assert lasting(reports[0]) == lasting(reports[1]), [k for k in reports[0] if lasting(reports[0][k]) != lasting(reports[1][k])]


def kill_in_each_stage(run: Any) -> tuple[Counter[str], int]:
    """Carry a run out, killing the orchestrator once in every stage; returns who was killed, by stage, and how often it was started."""
    from orchestrator.config_file import load_config

    from orchestrator import pipeline

    stages, kills, starts = [s.name for s in pipeline.plan(load_config(run.config))], Counter[str](), 0
    while stages:
        eto, starts = run.start(), starts + 1
        folder = run.folder / "stages" / stages[0]
        while not folder.exists():  # no pause: the shortest stage takes a millisecond
            assert eto.poll() is None, run.log.read_text()
        own: list[int] = []
        while stages[0] in TRAINING and not own and not (folder / "done.json").exists():
            assert eto.poll() is None, run.log.read_text()
            own = victims(run.folder, eto.pid).get("trainer", [])
        os.kill(eto.pid, signal.SIGKILL)
        eto.wait()
        if (folder / "done.json").exists():  # it was quicker: once more
            shutil.rmtree(folder)
            continue
        kills[f"{stages[0]}: orchestrator"] += 1
        for pid in own:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                kills[f"{stages[0]}: training job"] += 1
        stages.pop(0)
    eto, starts = run.start(), starts + 1
    assert eto.wait(LONGEST_S) == 0, run.log.read_text()
    return kills, starts


def reproduce(run: Any) -> int:
    """Seconds that `eto run --reproduce` took; AssertionError where it found a difference."""
    began = time.monotonic()
    command = [str(Path(sys.executable).with_name("eto")), "run", "--reproduce", run.folder.name, "--runs", str(run.folder.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print("\n".join(done.stdout.splitlines()[-15:]), flush=True)
    return round(time.monotonic() - began)


def main() -> None:
    """Run, kill, compare, report."""
    parser = argparse.ArgumentParser(description="Runs of the loop, killed at random.")
    parser.add_argument("--runs", type=int, default=4, help="disturbed runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calm", type=Path, help="compare with this undisturbed run instead of making one")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="eto-soak-") as scratch:
        os.environ["ETO_STATE"] = str(Path(scratch) / "state")
        from tiny_run import HELD_OUT, Run

        def steady(folder: Path) -> Any:
            run = Run(folder, **HELD_OUT)
            config = yaml.safe_load(run.config.read_text())
            config["rollout"]["concurrency"] = config["policy"]["max_num_seqs"] = 1
            run.config.write_text(yaml.safe_dump(config))
            return run

        from orchestrator import process

        try:
            results = soak(Path(scratch), options.runs, rng, steady, options.calm)
        finally:
            for running in process.find_all():
                process.stop(running)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def soak(scratch: Path, runs: int, rng: random.Random, run_class: Callable[[Path], Any], given: Path | None) -> dict[str, object]:
    """The undisturbed run and the disturbed ones; AssertionError where one is not as it must be."""
    calm, started = run_class(_folder(scratch, "calm")), time.monotonic()
    if given is None:
        eto = calm.start()
        assert eto.wait(LONGEST_S) == 0, calm.log.read_text()
    else:
        calm.folder = given
    calm.check_complete()
    calm_s = time.monotonic() - started
    print(f"undisturbed: {calm_s:.0f} s", flush=True)
    reproduced_s = reproduce(calm)
    run, began = run_class(_folder(scratch, "each")), time.monotonic()
    in_stages, each_starts = kill_in_each_stage(run)
    run.check_complete()
    check_equal(run, calm)
    each_s = round(time.monotonic() - began)
    print(f"killed in each of {len(run.stages)} stages: {dict(in_stages)}, started {each_starts} times, {each_s} s: the same", flush=True)
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
        check_equal(run, calm)
        kills += here
        rows.append({"kills": dict(here), "starts": starts, "elapsed_s": round(time.monotonic() - began)})
        print(f"run {number}: {dict(here)}, started {starts} times, {rows[-1]['elapsed_s']} s: the same", flush=True)
    by_stage = {"kills": dict(in_stages), "starts": each_starts, "elapsed_s": each_s}
    return {
        "runs": runs,
        "complete": len(rows),
        "killed_in_each_stage": by_stage,
        "kills": dict(kills),
        "undisturbed_s": round(calm_s),
        "reproduced_s": reproduced_s,
        "each": rows,
    }


def _folder(scratch: Path, name: str) -> Path:
    folder = scratch / name
    folder.mkdir()
    return folder


def process_free() -> bool:
    """Whether no service of ours is left."""
    from orchestrator import process

    return process.find_all() == []


if __name__ == "__main__":
    main()
