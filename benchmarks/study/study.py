#!.venv/bin/python
"""A learning study: arms that start from one SFT policy, settings chosen on dev tasks, test tasks looked at once.

    make study ONLY=sciworld, or benchmarks/study/study.py sciworld [--seeds 0 1] [--arms ARM ...] [--runs DIR] [--summary]

NAME.yaml beside this file says what is compared. Every arm is an ordinary `eto run --from BASE:STAGE` under runs/study-NAME, so it can be
looked at with `eto ui --runs runs/study-NAME`; a study that was cut off goes on where it was when it is started again. How each test
episode ended is kept in docs/results/NAME-sSEED.jsonl, which is committed: what stands there is not played again, so seeds can be played
on different machines. `--summary` counts what is there. Prints a table and writes benchmarks/out/study-NAME.json, of the given seeds;
of all seeds, the study's tables in docs/results.md, and docs/results/NAME.svg and NAME-training.svg (of the first seed).

An arm with `choose` is run once for each choice with the first seed, and evaluated on dev; the best mean score there (the earlier of
equals) is what all seeds then play on test. Differences are to the control, on the same tasks and seeds; intervals by bootstrap over tasks.
"""

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from count import markdown, row, world_of
from figure import draw, draw_training
from orchestrator.records import Episode
from outcomes import Kept, Seeded, outcome_of
from page import laid_in

from orchestrator import jsonl

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
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
    """The runs of a study and what is kept of them. `results`: where the outcomes are."""

    def __init__(self, name: str, runs: Path, results: Path = RESULTS) -> None:
        self.name, self.runs, self.results = name, runs, results
        self.plan: dict[str, Any] = yaml.safe_load((ROOT / "benchmarks" / "study" / f"{name}.yaml").read_text())
        self.arms: dict[str, dict[str, Any]] = self.plan["arms"]

    def kept(self, seed: int) -> Kept:
        """What is kept of a seed."""
        return Kept(self.results / f"{self.name}-s{seed}.jsonl", self.name, seed)

    def carry_out(self, seeds: list[int], arms: Collection[str]) -> None:
        """Everything of these arms that is not done yet, a seed at a time."""
        for seed in seeds:
            missing = [name for name in self._missing(seed) if name in arms]
            if missing:
                base = self._config("base", seed, {"skip": ["evaluate-base"]}, "dev")
                self._run(base, until="evaluate-sft")
                self._same_base(seed)
                self._strong_enough(seed)
                self._run(base, until=self.plan["until"])
            for name in missing:
                if "choose" in self.arms[name] and seed == self.plan["seeds"][0]:
                    self._look_at_dev(name, seed)
                config = self.tested_config(name, seed)
                self._run(config, self._origin(name, seed))
                self._keep(name, seed, config)

    def _missing(self, seed: int) -> list[str]:
        """The arms that have no outcomes. Raises SystemExit where others were played with settings that the study no longer has."""
        kept = self.kept(seed)
        for name in self.arms.keys() & kept.arms.keys():
            if kept.about[name]["config"] != self.tested_config(name, seed):
                raise SystemExit(f"{name} in {kept.file} was played with other settings than {self.name}.yaml has: move the file away.")
        return [name for name in self.arms if name not in kept.arms]

    def _base(self, seed: int) -> str:
        """Which run the arms of a seed start from."""
        return str(json.loads((self.runs / f"base-s{seed}" / "manifest.json").read_text())["run_id"])

    def _strong_enough(self, seed: int) -> None:
        """Raises SystemExit where SFT wins less of dev than the study asks of its start: no arm is played from one with little to lose."""
        played = json.loads((self.runs / f"base-s{seed}" / "stages" / "evaluate-sft" / "done.json").read_text())["summary"]
        if played["success"] < self.plan["start"] * played["episodes"]:
            raise SystemExit(
                f"SFT of seed {seed} wins {played['success']} of {played['episodes']} dev tasks, and {self.name}.yaml asks for "
                f"{self.plan['start']:.0%} before any arm is played: change base.sft, and move the base run away."
            )

    def _same_base(self, seed: int) -> None:
        """Arms of a seed are compared in pairs, so all start from one SFT. Raises SystemExit where that was lost half-way."""
        kept = self.kept(seed)
        if other := {about["base"] for about in kept.about.values()} - {self._base(seed)}:
            raise SystemExit(
                f"{kept.file} holds arms that started from {', '.join(other)}, which is not in {self.runs}: "
                "move the file away to play this seed anew, or bring that run back."
            )

    def _origin(self, name: str, seed: int) -> str:
        return f"base-s{seed}:{self.arms[name]['from']}"

    def _config(self, name: str, seed: int, settings: Mapping[str, Any], tasks: str) -> dict[str, Any]:
        """What `eto run` is told of a run."""
        return {**merged(self.plan["base"], settings), "name": f"{name}-s{seed}", "seed": seed, "evaluate": self.plan[tasks]}

    def tested_config(self, name: str, seed: int) -> dict[str, Any]:
        """The run of an arm that plays the test tasks."""
        settings = merged(self.arms[name]["config"], self.chosen(name))
        skip = ["evaluate-base"] if not settings.get("iterations", 1) else ["evaluate-base", "evaluate-sft"]
        return self._config(name, seed, merged(settings, {"skip": skip}), "test")

    def _look_at_dev(self, name: str, seed: int) -> None:
        """Run every choice of an arm, and keep its mean scores on dev."""
        arm, kept = self.arms[name], self.kept(seed)
        for number, choice in enumerate(arm["choose"]):
            settings = merged(merged(arm["config"], choice), {"skip": ["evaluate-base", "evaluate-sft"]})
            self._run(self._config(f"{name}-c{number}", seed, settings, "dev"), self._origin(name, seed))
        played = [self._evaluated(f"{name}-c{number}-s{seed}") for number in range(len(arm["choose"]))]
        kept.dev[name] = [sum(e.score for e in episodes) / len(episodes) for episodes in played]
        kept.write()

    def chosen(self, name: str) -> dict[str, Any]:
        """The choice of an arm with the best score on dev with the first seed. Raises SystemExit before that is known."""
        choices: list[dict[str, Any]] = self.arms[name].get("choose", [{}])
        if len(choices) == 1:
            return choices[0]
        first = self.kept(self.plan["seeds"][0])
        if len(first.dev.get(name, [])) != len(choices):
            raise SystemExit(f"{name} is chosen on dev with seed {first.seed}, of which {first.file} holds nothing: play that seed first.")
        return choices[first.dev[name].index(max(first.dev[name]))]

    def _keep(self, name: str, seed: int, config: Mapping[str, Any]) -> None:
        """Write down how an arm's test episodes ended."""
        played = self._evaluated(config["name"])
        versions = {"code_version": played[0].code_version, "model_version": played[0].model.version, "base": self._base(seed)}
        about = {"config": config, **versions, "trained": self._metrics(self.runs / config["name"] / "stages")}
        self.kept(seed).add(name, {e.task_id: outcome_of(e) for e in played}, about)

    def _run(self, config: Mapping[str, Any], origin: str | None = None, until: str | None = None) -> None:
        """`eto run`, unless it is done. `until`: the run is stopped once that stage is finished, as nothing after it is needed."""
        name = config["name"]
        file = self.runs / "configs" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(config, sort_keys=False))
        # a run that was stopped at a stage has a report as well
        if (self.runs / name / (f"stages/{until}/done.json" if until else "report.json")).exists():
            return
        print(f"== {name}", flush=True)
        command = [ETO, "run", str(file), "--runs", str(self.runs), "--keep-services", *(["--until", until] if until else [])]
        _carried_out([*command, *(["--from", origin] if origin else [])])

    def _evaluated(self, run: str) -> list[Episode]:
        """The last finished evaluation of a run."""
        done = max((self.runs / run / "stages").glob("evaluate-*/done.json"), key=lambda file: file.stat().st_mtime)
        return list(jsonl.read(done.with_name("episodes.jsonl"), Episode))

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


def _carried_out(command: list[str]) -> None:
    """Run a command to its end. Ctrl-C or SIGTERM for this program stops it too, in its own time. Raises CalledProcessError."""
    # in a session of its own it hears of Ctrl-C once, from here: told twice it would leave its cleaning up
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    if status:
        raise subprocess.CalledProcessError(status, command)


def summary(study: Study, seeds: list[int], against: str | None = None) -> dict[str, Any]:
    """All arms that were tested, with their differences to `against`, or to the study's control."""
    control = against or study.plan["control"]
    kept = [study.kept(seed) for seed in seeds]

    world = world_of(study.plan.get("worlds", {}))

    def tested(arm: str) -> Seeded:
        return {(k.seed, task): outcome for k in kept for task, outcome in k.arms.get(arm, {}).items()}

    rows = [
        row(n, found, tested(control) if n != control else {}, [t for k in kept if n in k.about and (t := k.about[n]["trained"])], world)
        for n in study.arms
        if (found := tested(n))
    ]
    dev = {n: dict(zip(map(json.dumps, study.arms[n]["choose"]), scores, strict=True)) for n, scores in kept[0].dev.items()} if kept else {}
    return {"study": study.name, "control": control, "seeds": [k.seed for k in kept if k.arms], "dev": dev, "arms": rows}


def publish(study: Study, results: Path = RESULTS) -> None:
    """Write figures and tables of all that is kept of a study."""

    @cache
    def found(against: str | None) -> dict[str, Any]:
        return summary(study, study.plan["seeds"], against)

    whole = found(None)
    if whole["arms"]:
        (results / f"{study.name}.svg").write_text(draw(whole))
        (results / f"{study.name}-training.svg").write_text(draw_training(whole))
        page = results.with_suffix(".md")
        page.write_text(laid_in(page.read_text(encoding="utf-8"), study.name, found), encoding="utf-8")


def main() -> None:
    """Run the study, or what is left of it, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    files = (ROOT / "benchmarks" / "study").glob("*.yaml")
    parser.add_argument("name", choices=sorted(f.stem for f in files if not f.stem.endswith("-prompt")))
    parser.add_argument("--seeds", type=int, nargs="+", help="only these (default: all of the study's file)")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="play only these (default: all that are missing)")
    parser.add_argument("--runs", type=Path, help="where its runs are (default: runs/study-NAME)")
    parser.add_argument("--summary", action="store_true", help="run nothing, count what is there")
    parser.add_argument("--against", metavar="ARM", help="to which arm differences are (default: the study's control)")
    given = parser.parse_args()
    study = Study(given.name, (given.runs or ROOT / "runs" / f"study-{given.name}").resolve())
    seeds = given.seeds or study.plan["seeds"]
    if unknown := {given.against or study.plan["control"], *(given.arms or [])} - study.arms.keys():
        parser.error(f"no arm is called {', '.join(sorted(unknown))}: {study.name} has {', '.join(study.arms)}")
    if not given.summary:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            study.carry_out(seeds, given.arms or study.arms)
        except KeyboardInterrupt:
            sys.exit("stopped. Start the study again to go on.")
        except subprocess.CalledProcessError as error:
            sys.exit(f"{' '.join(error.cmd)} ended with status {error.returncode}; start the study again to go on.")
        finally:
            subprocess.run([ETO, "services", "down"], cwd=ROOT, check=False)
    found = summary(study, seeds, given.against)
    out = ROOT / "benchmarks" / "out" / f"study-{study.name}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")
    publish(study)
    print(f"\n{study.name}: test tasks; differences to {found['control']} on the same tasks and seeds; 95 % intervals\n\n{markdown(found)}")


if __name__ == "__main__":
    main()
