#!.venv/bin/python
"""One small ETO run with real parts, from experts to the evaluation after DPO: whether it ends complete, how long it takes, what memory.

    make soak ONLY=eto_run, or benchmarks/soak/eto_run.py [--envs webshop,alfworld] [-s KEY=VALUE ...]

For each environment, `eto run` on configs/ENV-sample.yaml (generated sample data, SmolLM2-135M, vLLM, the trainer), cut down to a task of
each of three types and a few steps (SMALL below; -s overrides more). The run must end complete: every stage done, no episode at its
deadline, every expert's task explored, pairs made, three models of different weights, no process left. It says nothing about learning: the
tasks are too few.
Memory: the resident sizes of all processes of a kind are added up every half second, and the largest sum counts; pages that processes
share count in each. Writes benchmarks/out/soak-eto_run-ENV.json.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from orchestrator.records import Episode, TerminateReason
from orchestrator.run_store import RunStore

from orchestrator import jsonl, process

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from tiny_run import free_port  # noqa: E402

OUT = ROOT / "benchmarks" / "out"
LONGEST_S = 1800.0
SAMPLE_EVERY_S = 0.5
#: The generated samples, whatever ETO_DATA holds.
SAMPLE_DATA = {"ETO_WEBSHOP_CATALOGUE": "sample", "ETO_ALFWORLD_SAMPLE": "1"}
#: A training task of each of these types is learnt from, and a held-out one of each is played.
TYPES = {
    "webshop": ["beauty", "electronics", "grocery"],
    "alfworld": ["look_at_obj_in_light", "pick_and_place_simple", "pick_clean_then_place_in_recep"],
}
PER_TYPE = 1
#: What else is smaller than in configs/ENV-sample.yaml.
SMALL: dict[str, Any] = {
    "rollout.max_tokens": 48,
    "rollout.max_steps": 8,
    "sft.epochs": 1,
    "sft.batch_size": 1,
    "sft.micro_batch_size": 1,
    "dpo.batch_size": 1,
    "dpo.max_length": 2048,
    "collapse.invalid_rise": 1.0,  # three tasks of eight steps say nothing of it
}
EPISODE_STAGES = ("experts", "evaluate-base", "evaluate-sft", "explore-1", "evaluate-eto-1")
EVALUATIONS = ("evaluate-base", "evaluate-sft", "evaluate-eto-1")


class Memory(threading.Thread):
    """Adds up the resident memory of a process and all below it, by kind, until told to stop. `peaks` are MB."""

    def __init__(self, root: int, kinds: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self._root, self._kinds = root, kinds
        self._over = threading.Event()
        self.peaks: dict[str, float] = defaultdict(float)

    def run(self) -> None:
        """Look again and again."""
        while not self._over.wait(SAMPLE_EVERY_S):
            sums: dict[str, float] = defaultdict(float)
            for kind, megabytes in self._walk():
                sums[kind] += megabytes
            sums["all together"] = sum(sums.values())
            for kind, megabytes in sums.items():
                self.peaks[kind] = max(self.peaks[kind], megabytes)

    def stop(self) -> dict[str, int]:
        """Return the largest sums."""
        self._over.set()
        self.join()
        return {kind: round(megabytes) for kind, megabytes in sorted(self.peaks.items())}

    def _walk(self) -> Iterator[tuple[str, float]]:
        """Yield (kind, MB) of each process; one that no kind's word stands in the command line of is of its parent's kind."""
        children: dict[int, list[int]] = defaultdict(list)
        about: dict[int, tuple[str, float]] = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # it has ended
                continue
            children[int(stat[1])].append(int(entry.name))
            about[int(entry.name)] = line, int(stat[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        todo = [(self._root, "orchestrator")]
        while todo:
            pid, kind = todo.pop()
            if pid not in about:
                continue
            line, megabytes = about[pid]
            kind = next((known for word, known in self._kinds.items() if word in line), kind)
            yield kind, megabytes
            todo += [(child, kind) for child in children[pid]]


def cut_down(env: str, folder: Path, overrides: list[str]) -> list[str]:
    """Return the command of the small run."""
    config = yaml.safe_load((ROOT / "configs" / f"{env}-sample.yaml").read_text("utf-8"))
    few = {"types": TYPES[env], "per_type": PER_TYPE}
    tasks = {"train_tasks": {**config["train_tasks"], **few}, "evaluate": [{**chosen, **few} for chosen in config["evaluate"]]}
    ports = {"env.port": free_port(), "policy.port": free_port()}
    small = [f"{key}={json.dumps(value)}" for key, value in {**SMALL, **tasks, **ports}.items()]
    command = [str(Path(sys.executable).with_name("eto")), "run", str(ROOT / "configs" / f"{env}-sample.yaml"), "--runs", str(folder)]
    return command + [part for setting in [*small, *overrides] for part in ("-s", setting)]


def check(store: RunStore, stages: dict[str, dict[str, Any]]) -> list[str]:
    """Return what is not as it must be at the end of a run."""
    wrong = [f"stage {name} is not done" for name in (*EPISODE_STAGES, "sft", "pairs-1", "dpo-1") if name not in stages]
    if wrong:
        return wrong
    for stage in EPISODE_STAGES:
        episodes = list(jsonl.read(store.stage_dir(stage) / "episodes.jsonl", Episode))
        wrong += [f"{stage}: {e.key} ran into its deadline" for e in episodes if e.terminate_reason is TerminateReason.DEADLINE]
        if len({e.key for e in episodes}) != stages[stage]["episodes"]:
            wrong.append(f"{stage}: {stages[stage]['episodes']} episodes were counted, {len(episodes)} are there")
    wrong += [] if stages["experts"]["successful"] == stages["explore-1"]["episodes"] else ["not every expert's task was explored"]
    versions = {stages[stage]["model_version"] for stage in EVALUATIONS}
    wrong += [] if len(versions) == len(EVALUATIONS) else [f"three models were evaluated, but with {len(versions)} different weights"]
    wrong += [] if stages["pairs-1"]["pairs"] else ["no pairs were made"]
    return wrong


def run(env: str, overrides: list[str]) -> list[str]:
    """Carry out the run of an environment, print and write what it took; return what went wrong."""
    with tempfile.TemporaryDirectory(prefix="eto-soak-") as scratch:
        os.environ |= {"ETO_STATE": str(Path(scratch) / "state"), **SAMPLE_DATA}
        log = Path(scratch) / "eto.log"
        started = time.monotonic()
        with log.open("wb") as out:
            eto = subprocess.Popen(cut_down(env, Path(scratch), overrides), stdout=out, stderr=subprocess.STDOUT)
        memory = Memory(eto.pid, {"/services/trainer/": "trainer", "/services/policy/": "policy", f"/services/env-{env}/": "environment"})
        memory.start()
        try:
            code: int | None = eto.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            eto.terminate()
            eto.wait()
            peaks = memory.stop()
            left = process.find_all()
            for running in left:
                process.stop(running)
        elapsed_s = time.monotonic() - started
        print(log.read_text(errors="replace"), flush=True)
        store = RunStore(Path(scratch) / f"{env}-sample")
        finished = sorted(store.path.glob("stages/*/done.json"), key=lambda file: file.stat().st_mtime_ns)
        records = [record for file in finished if (record := store.record(file.parent.name)) is not None]
        stages = {record.stage: {"duration_s": record.duration_s, **record.summary} for record in records}
        ended = f"ended with code {code}" if code is not None else f"was at work for {LONGEST_S:g} s"
        wrong = ([] if code == 0 else [f"`eto run` {ended}"]) + check(store, stages)
        wrong += [f"the run left {running.name} running" for running in left]
    result = {
        "env": env,
        "complete": not wrong,
        "wrong": wrong,
        "elapsed_s": round(elapsed_s),
        "largest_sums_of_resident_mb": peaks,
        "settings": {**SMALL, "types": TYPES[env], "per_type": PER_TYPE, "overrides": overrides},
        "stages": stages,
        "machine": {"cores": os.cpu_count(), "load_average": os.getloadavg()[0]},
    }
    print(f"{env}: {'complete' if not wrong else 'NOT complete'} in {elapsed_s:.0f} s")
    for name, stage in stages.items():
        print(f"  {name:16} {stage['duration_s']:7.1f} s")
    print("  " + ", ".join(f"{kind} {megabytes} MB" for kind, megabytes in peaks.items()))
    print("".join(f"  wrong: {line}\n" for line in wrong), end="", flush=True)
    OUT.mkdir(exist_ok=True)
    (OUT / f"soak-eto_run-{env}.json").write_text(json.dumps(result, indent=1) + "\n")
    return wrong


def main() -> None:
    """Run each environment's."""
    parser = argparse.ArgumentParser(description="A small ETO run with real parts on sample data, with time and memory.")
    parser.add_argument("--envs", default="webshop,alfworld", help="environments, by commas (default webshop,alfworld)")
    parser.add_argument("-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the run, as `eto run` takes it")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # what was started is stopped too
    wrong = [line for env in options.envs.split(",") for line in run(env, options.set)]
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
