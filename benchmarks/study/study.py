#!.venv/bin/python
"""A learning study: arms that start from one SFT policy, settings chosen on dev tasks, test tasks looked at once.

    make study ONLY=sciworld, or benchmarks/study/study.py sciworld [--seeds 1] [--runs DIR] [--summary]

NAME.yaml beside this file says what is compared. Every arm is an ordinary `eto run --from BASE:STAGE` under runs/study-NAME, so it can be
looked at with `eto ui --runs runs/study-NAME`; a study that was cut off goes on where it was when it is started again. `--summary` counts
what is there. Prints the table of docs/results.md; writes benchmarks/out/study-NAME.json, and to docs/results NAME.svg and
NAME-training.svg (of the first seed).

An arm with `choose` is run once for each choice with the first seed, and evaluated on dev; the best mean score there (the earlier of
equals) is what all seeds then play on test. Differences are to the control, on the same tasks and seeds; intervals by bootstrap over tasks.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from count import Seeded, markdown, row
from figure import draw, draw_training
from orchestrator.records import Episode
from orchestrator.statistics import bootstrap_mean

from orchestrator import jsonl

ROOT = Path(__file__).parents[2]
ETO = str(ROOT / ".venv" / "bin" / "eto")
#: What is kept of what the trainer says of a job.
METRICS = ("steps", "examples", "logp_chosen", "logp_rejected", "chosen_fall", "accuracy")


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `below`, with those of `above` in their place."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


class Study:
    """The runs of a study and where they are."""

    def __init__(self, name: str, runs: Path) -> None:
        self.name, self.runs = name, runs
        self.plan: dict[str, Any] = yaml.safe_load((ROOT / "benchmarks" / "study" / f"{name}.yaml").read_text())
        self.arms: dict[str, dict[str, Any]] = self.plan["arms"]

    def carry_out(self, seeds: list[int]) -> None:
        """Everything that is not done yet, a seed at a time."""
        for seed in seeds:
            self._run(f"base-s{seed}", seed, {"skip": ["evaluate-base"]}, "dev", until=self.plan["until"])
            for name, arm in self.arms.items():
                if seed == seeds[0] and "choose" in arm:
                    for number, choice in enumerate(arm["choose"]):
                        settings = merged(merged(arm["config"], choice), {"skip": ["evaluate-base", "evaluate-sft"]})
                        self._run(f"{name}-c{number}-s{seed}", seed, settings, "dev", f"base-s{seed}:{arm['from']}")
                config = merged(arm["config"], self.chosen(name, seeds[0]))
                skip = ["evaluate-base"] if not config.get("iterations", 1) else ["evaluate-base", "evaluate-sft"]
                self._run(f"{name}-s{seed}", seed, merged(config, {"skip": skip}), "test", f"base-s{seed}:{arm['from']}")

    def chosen(self, name: str, seed: int) -> dict[str, Any]:
        """The choice of an arm with the best score on dev."""
        choices: list[dict[str, Any]] = self.arms[name].get("choose", [{}])
        return max(choices, key=lambda c: self.dev_score(name, choices.index(c), seed)) if len(choices) > 1 else choices[0]

    def dev_score(self, name: str, number: int, seed: int) -> float:
        """Mean score on dev of one choice."""
        return bootstrap_mean([e.score for e in self._evaluated(f"{name}-c{number}-s{seed}").values()]).mean

    def _run(
        self, name: str, seed: int, settings: Mapping[str, Any], tasks: str, origin: str | None = None, until: str | None = None
    ) -> None:
        """`eto run`, unless it is done. `until`: the run is stopped once that stage is finished, as nothing after it is needed."""
        config = {**merged(self.plan["base"], settings), "name": name, "seed": seed, "evaluate": self.plan[tasks]}
        file = self.runs / "configs" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(config, sort_keys=False))
        if (self.runs / name / "report.json").exists() or (until and (self.runs / name / "stages" / until / "done.json").exists()):
            return
        print(f"== {name}", flush=True)
        command = [ETO, "run", str(file), "--runs", str(self.runs), "--keep-services", *(["--until", until] if until else [])]
        subprocess.run([*command, *(["--from", origin] if origin else [])], cwd=ROOT, check=True)

    def _evaluated(self, run: str) -> dict[str, Episode]:
        """The last finished evaluation of a run, by task."""
        done = sorted((self.runs / run / "stages").glob("evaluate-*/done.json"), key=lambda f: f.stat().st_mtime)
        return {e.task_id: e for e in jsonl.read(done[-1].with_name("episodes.jsonl"), Episode)} if done else {}

    def tested(self, arm: str, seeds: list[int]) -> Seeded:
        """An arm's test episodes."""
        return {(seed, task): e for seed in seeds for task, e in self._evaluated(f"{arm}-s{seed}").items()}

    def trained(self, arm: str, seeds: list[int]) -> list[dict[str, Any]]:
        """What the trainer says of each seed's last job, how far the log-probabilities of a pair's sides moved, and how they did so."""
        return [m for seed in seeds if (m := self._metrics(self.runs / f"{arm}-s{seed}" / "stages"))]

    def _metrics(self, stages: Path) -> dict[str, Any]:
        stage = next((stages / s for s in ("dpo-1", "rft-1", "sft-1", "sft") if (stages / s / "done.json").exists()), None)
        if stage is None:
            return {}
        done = json.loads((stage / "done.json").read_text())
        found = {"job_s": done["duration_s"], **{k: v for k, v in done["summary"]["metrics"].items() if k in METRICS}}
        if stage.name == "dpo-1":
            beta = json.loads((stage / "job.json").read_text())["loss"]["beta"]
            lines = map(json.loads, (stage / "checkpoint.progress.jsonl").read_text().splitlines())
            # a reward is beta times what a side has gained over the policy that explored
            found["curve"] = [[x["step"], x["reward_chosen"] / beta, x["reward_rejected"] / beta] for x in lines if x["event"] == "step"]
            found["moved"] = found["curve"][-1][1:]
        return found


def summary(study: Study, seeds: list[int]) -> dict[str, Any]:
    """All arms that were tested."""
    control = study.tested(study.plan["control"], seeds)
    rows = [
        row(n, found, control if n != study.plan["control"] else {}, study.trained(n, seeds))
        for n in study.arms
        if (found := study.tested(n, seeds))
    ]
    dev = {
        name: [{"choice": choice, "score": study.dev_score(name, i, seeds[0])} for i, choice in enumerate(arm["choose"])]
        for name, arm in study.arms.items()
        if "choose" in arm and all((study.runs / f"{name}-c{i}-s{seeds[0]}" / "report.json").exists() for i in range(len(arm["choose"])))
    }
    return {"study": study.name, "control": study.plan["control"], "seeds": seeds, "dev": dev, "arms": rows}


def main() -> None:
    """Run the study, or what is left of it, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    files = (ROOT / "benchmarks" / "study").glob("*.yaml")
    parser.add_argument("name", choices=sorted(f.stem for f in files if not f.stem.endswith("-prompt")))
    parser.add_argument("--seeds", type=int, help="only the first so many")
    parser.add_argument("--runs", type=Path, help="where its runs are (default: runs/study-NAME)")
    parser.add_argument("--summary", action="store_true", help="run nothing, count what is there")
    given = parser.parse_args()
    study = Study(given.name, (given.runs or ROOT / "runs" / f"study-{given.name}").resolve())
    seeds = study.plan["seeds"][: given.seeds]
    if not given.summary:
        try:
            study.carry_out(seeds)
        except subprocess.CalledProcessError as error:
            sys.exit(f"{' '.join(error.cmd)} ended with status {error.returncode}; start the study again to go on.")
        finally:
            subprocess.run([ETO, "services", "down"], cwd=ROOT, check=False)
    found = summary(study, seeds)
    out = ROOT / "benchmarks" / "out" / f"study-{study.name}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")
    if found["arms"]:
        results = ROOT / "docs" / "results"
        results.mkdir(exist_ok=True)
        (results / f"{study.name}.svg").write_text(draw(found))
        (results / f"{study.name}-training.svg").write_text(draw_training(found))
    print(f"\n{study.name}: test tasks; differences to {found['control']} on the same tasks and seeds; 95 % intervals\n\n{markdown(found)}")


if __name__ == "__main__":
    main()
