"""Whole ETO runs in containers, of the smallest sizes: one left alone, one in which every container is killed."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from containers_engine import (
    PORTS,
    PROJECT,
    ROOT,
    UI_PORT,
    check,
    compose,
    compose_command,
    docker,
    environment,
    post,
    runs,
    state,
    wait_for,
)
from tiny_run import STAGES, TYPES

FILES = ("compose.jobs.yml",)
FIRST, SECOND = "tiny", "killed"
POLICY, UI, PAGE = f"{PROJECT}-policy-cpu-1", f"{PROJECT}-ui-1", f"http://127.0.0.1:{UI_PORT}/"
#: Jobs of this system: others may use the engine too.
OURS = ("--filter", "label=eto.job", "--filter", f"volume={PROJECT}_runs")
EVALUATED = {"evaluate-base": "init", "evaluate-sft": "sft", "evaluate-eto-1": "dpo-1"}
LONGEST_S = 1100.0
#: A session that stays open while its environment is killed.
SPLITS = {"webshop": "sample-train", "sciworld": "train", "alfworld": "train"}
ACTIONS = {"webshop": "search[red shoes]", "sciworld": "look around", "alfworld": "look"}


def settings() -> dict[str, str]:
    """What a person would put into .env: the engine's socket, and the policy's model, which the first run makes."""
    socket = Path(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))
    return environment(
        ETO_ENGINE_SOCKET=str(socket),
        ETO_ENGINE_GROUP=str(socket.stat()[stat.ST_GID]),
        ETO_MODEL=f"/runs/{FIRST}/stages/init/checkpoint",
        ETO_MAX_MODEL_LEN="1024",
        ETO_KV_CACHE_GIB="1",
    )


def config(name: str, folder: Path) -> Path:
    """The smallest run, on the services of the system."""
    training = {"batch_size": 4, "micro_batch_size": 4, "max_length": 1024, "precision": "fp32"}
    content = {
        "name": name,
        "model": {"vocab_size": 512, "hidden_size": 64, "layers": 2, "heads": 2},
        "policy": {"max_model_len": 1024},
        "train_tasks": {"split": "eto-train", "types": TYPES, "per_type": 4},
        "evaluate": [{"split": "eto-unseen", "types": TYPES, "per_type": 3}],
        "rollout": {"concurrency": 4, "max_tokens": 24, "example": False},
        "sft": {**training, "epochs": 30, "learning_rate": 2e-3},
        "collapse": {"tasks": 2, "invalid_rise": 1.0},
        "dpo": {**training, "epochs": 1, "learning_rate": 1e-4},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content))
    file.chmod(0o644)
    return file


class ContainedRun:
    """`eto run` in the orchestrator's container. Its output goes to a file."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self._config, self.log = name, config(name, folder), folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.seen: set[str] = set()  # methods of the jobs whose containers were seen

    def start(self) -> None:
        """Begin, or go on."""
        mount = f"{self._config}:/{self.name}.yaml:ro"
        command = compose_command(
            *("--profile", "cpu", "run", "--rm", "--no-deps", "-T", "--name", self.container, "-v", mount),
            *("orchestrator", "run", f"/{self.name}.yaml"),
            files=FILES,
        )
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=settings(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    @property
    def container(self) -> str:
        return f"{PROJECT}-run-{self.name}"

    def until(self, what: str, file: str, lines: int = 0) -> None:
        """Wait until a file of the run is there and has so many lines."""
        wait_for(lambda: self._goes_on() and self.read(file).count("\n") >= lines and self.read(file), what, LONGEST_S)

    def _goes_on(self) -> bool:
        assert self._process is not None
        self._look()
        if self._process.poll() not in (None, 0):
            sys.exit(f"the run {self.name} ended with code {self._process.returncode}:\n{self.log.read_text()}")
        return True

    def end(self) -> int:
        """The exit code."""
        assert self._process is not None
        wait_for(lambda: self._look() or self._process.poll() is not None, f"the run {self.name} ends", LONGEST_S)
        return self._process.wait()

    def _look(self) -> None:
        names = docker("ps", "-a", *OURS, "--format", "{{.Names}}").split()
        self.seen.update(name.split("-")[1] for name in names)

    def read(self, file: str) -> str:
        """A file of the run, empty where there is none."""
        path = runs() / self.name / "stages" / file
        return path.read_text() if path.exists() else ""

    def record(self, stage: str) -> dict[str, Any]:
        """A stage's done.json."""
        return dict(json.loads(self.read(f"{stage}/done.json") or "{}"))

    def job(self, method: str) -> str:
        """The container of a training job, once it runs."""

        def running() -> str:
            self._goes_on()
            return docker("ps", "-q", "--no-trunc", *OURS, "--filter", f"name=eto-{method}-")

        return str(wait_for(running, f"a {method} job runs", LONGEST_S))

    def check_complete(self) -> None:
        """Every stage is done, holds each episode once, and was evaluated with the weights that its checkpoint has."""
        done = [stage for stage in STAGES if self.record(stage)]
        check(len(done) == len(STAGES), f"{self.name}: {len(done)} of {len(STAGES)} stages are done")
        for stage, count in STAGES.items():
            keys = [(e["task_id"], e["sample"]) for e in map(json.loads, self.read(f"{stage}/episodes.jsonl").splitlines())]
            if not len(set(keys)) == len(keys) == count:
                check(False, f"{self.name}: {stage} holds {len(keys)} episodes, {len(set(keys))} different, instead of {count}")
        served = {stage: self.record(stage)["summary"]["model_version"] for stage in EVALUATED}
        made = {stage: json.loads(self.read(f"{of}/checkpoint/manifest.json"))["version"] for stage, of in EVALUATED.items()}
        check(served == made and len(set(made.values())) == 3, f"{self.name}: evaluated with the checkpoints' weights: {served}")


def up(*services: str) -> float:
    """Start services of the system, and the policy without waiting: until the first run has made its model there is none to serve."""
    began = time.monotonic()
    compose("--profile", "cpu", "up", "--wait", "--no-build", *services, files=FILES, env=settings())
    waited = time.monotonic() - began
    compose("--profile", "cpu", "up", "-d", "--no-build", "--no-deps", "policy-cpu", files=FILES, env=settings())
    return waited


def run() -> dict[str, Any]:
    """From experts to the evaluation after DPO; the policy's container starts once the run has made its model, and never again."""
    up("env-sciworld", "ui")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tiny = ContainedRun(FIRST, Path(folder))
        tiny.start()
        tiny.until("the policy answered", "evaluate-base/done.json")
        started = state(POLICY, ".State.StartedAt")
        code = tiny.end()
        log = tiny.log.read_text()
    seconds = round(time.monotonic() - began, 1)
    check(code == 0, f"a whole run in containers ended with code {code} after {seconds} s" + (f"\n{log}" if code else ""))
    tiny.check_complete()
    check(state(POLICY, ".State.StartedAt") == started, "the weights were changed in the running policy container, which was not restarted")
    check(sorted(tiny.seen) == ["dpo", "init", "sft"], f"the jobs were containers: {', '.join(sorted(tiny.seen))}")
    check(not docker("ps", "-aq", *OURS), "no job's container is left")
    about = "id -u; grep CapEff /proc/1/status | cut -f2; touch /etc/x /runs/x 2>/dev/null && echo written || echo refused"
    seen = docker("exec", POLICY, "sh", "-c", about).split()
    check(seen == ["10001", "0" * 16, "refused"], f"the policy's container: uid, capabilities, writing to its root and to the runs: {seen}")
    print(log)
    return {"run_s": seconds, "run_stages_s": {stage: tiny.record(stage).get("duration_s") for stage in STAGES}}


def kill(container: str) -> float:
    """SIGKILL to its first process; returns the time."""
    os.kill(int(state(container, ".State.Pid")), signal.SIGKILL)
    return time.monotonic()


def kills() -> dict[str, Any]:
    """A second run, in which the trainer's, the policy's, the page's and the orchestrator's containers are killed in turn."""
    import httpx

    up("env-sciworld", "ui")
    recovery: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        second = ContainedRun(SECOND, Path(folder))
        second.start()
        kill(second.job("sft"))
        second.until("sft is done", "sft/done.json")
        said = re.search(r"sft: .*SIGKILL.*started again.*\(1 of 2\)", second.log.read_text())
        check(said is not None, f"a killed job was started again by the same call: {said and said.group()}")
        second.until("exploration has begun", "explore-1/episodes.jsonl", 1)
        killed = kill(POLICY)
        had = second.read("explore-1/episodes.jsonl").count("\n")
        second.until("exploration goes on", "explore-1/episodes.jsonl", had + 1)
        recovery["policy"] = round(time.monotonic() - killed, 1)
        check(state(POLICY, ".RestartCount") != "0", f"policy: killed; the next episode ended after {recovery['policy']} s")
        killed = kill(UI)
        wait_for(lambda: _answers(httpx, PAGE), "the page answers")
        recovery["ui"] = round(time.monotonic() - killed, 1)
        check(SECOND in httpx.get(PAGE).text, f"ui: killed; the page showed the run after {recovery['ui']} s")
        container = second.job("dpo")
        kill(second.container)
        code = second.end()
        check(code != 0, f"the orchestrator's container was killed (code {code}) while the dpo job ran")
        wait_for(lambda: not state(second.container, ".State.Pid"), "the killed container is gone")
        kept = docker("ps", "-aq", "--no-trunc", *OURS).split()
        check(kept == [container], "its job's container is there still")
        killed = time.monotonic()
        second.start()
        code = second.end()
        recovery["orchestrator"] = round(time.monotonic() - killed, 1)
        log = second.log.read_text()
        check(code == 0, f"started again, the run went on to its end in {recovery['orchestrator']} s" + (f"\n{log}" if code else ""))
        second.check_complete()
        check("kept  explore-1" in log, "the run that was started again kept the finished stages")
        print(log)
    return {"run_recovery_s": recovery}


def _answers(httpx: Any, url: str) -> bool:
    try:
        return bool(httpx.get(url).status_code == 200)
    except httpx.TransportError:
        return False


def environments() -> dict[str, Any]:
    """Kill each environment with an open session."""
    import httpx

    recovery: dict[str, float] = {}
    with httpx.Client(timeout=60) as client:
        for env in PORTS:
            session = post(client, env, "/reset", {"split": SPLITS[env], "index": 0})["metadata"]["session_id"]
            post(client, env, "/step", {"session_id": session, "action": {"action": ACTIONS[env]}, "request_id": "one"})
            name = f"{PROJECT}-env-{env}-1"
            before = int(state(name, ".RestartCount"))
            killed = kill(name)
            second = post(client, env, "/step", {"session_id": session, "action": {"action": ACTIONS[env]}, "request_id": "two"})
            recovery[env] = round(time.monotonic() - killed, 1)
            check(second["metadata"]["step"] == 2, f"{env}: killed; its session went on with step 2 after {recovery[env]} s")
            check(int(state(name, ".RestartCount")) == before + 1, f"{env}: the engine had restarted it")
    return {"recovery_s": recovery}
