"""One training job by Ray Jobs through everything that can happen to it; a part of ray_cluster.py.

Its orchestrator is a process of its own, which is interrupted, killed, and sees the job's node die.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATIENCE_S = 240.0
STEPS = 1500
#: What `eto run` does for a training stage: argv is the job, its folder, the section.
ORCHESTRATOR = """
import asyncio, json, sys
from pathlib import Path
from orchestrator.config_training import RayJobsSection
from orchestrator.launchers import ray

def tell(event):
    print(json.dumps(event), flush=True)

job, section = json.loads(Path(sys.argv[1]).read_text()), RayJobsSection.model_validate_json(sys.argv[3])
asyncio.run(ray.run_job(job, Path(sys.argv[2]), tell, section))
"""


@dataclass
class Orchestrator:
    """The process, and the progress that it told."""

    scratch: Path
    job: dict[str, Any]
    section: dict[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)
    _read: int = 0

    def __enter__(self) -> "Orchestrator":
        file, self._log = self.scratch / f"{self.job['method']}.json", self.scratch / f"orchestrator-{time.monotonic_ns()}.log"
        file.write_text(json.dumps(self.job))
        arguments = [str(file), str(self.scratch / f"{self.job['method']}.job"), json.dumps(self.section)]
        with self._log.open("wb") as log:
            command = [sys.executable, "-c", ORCHESTRATOR, *arguments]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        return self

    def __exit__(self, *args: object) -> None:
        self.process.kill()
        self.process.wait()

    def look(self) -> list[dict[str, Any]]:
        """All events so far."""
        lines = self._log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def notes(self) -> list[str]:
        """What it told a person."""
        return [e["message"] for e in self.look() if e.get("event") == "note"]

    def wait_for(self, what: Callable[[], bool]) -> None:
        """Raises AssertionError with its log if it ends before, or PATIENCE_S passes."""
        deadline = time.monotonic() + PATIENCE_S
        while not what():
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.1)

    def wait_for_states(self, scratch: Path) -> None:
        """Until the job has told steps since this orchestrator began, and a state lies there that a new one would go on from."""
        self.wait_for(lambda: any(e.get("event") == "step" for e in self.look()))
        before = states(scratch)
        self.wait_for(lambda: states(scratch) > before)


def states(scratch: Path) -> int:
    """The newest step that can be gone on from."""
    found = (scratch / "sft.partial").glob("checkpoint-*/complete")
    return max((int(file.parent.name.split("-")[1]) for file in found), default=0)


def trainers(scratch: Path) -> list[int]:
    """Processes that train from this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "trainer" in words and any(word.startswith(str(scratch)) for word in words):
            found.append(int(entry.parent.name))
    return found


def jobs(scratch: Path, cluster: Any) -> tuple[dict[str, bool], dict[str, Any]]:
    """A job that is cancelled, whose orchestrator is killed, whose node is lost, and that ends well."""
    from ray.job_submission import JobSubmissionClient
    from ray_nodes import WORKER

    section = {"address": cluster.jobs, "resources": {WORKER: 1}}  # not on the head, which cannot be lost
    roles = ("user", "assistant")
    lines = [{"messages": [{"role": r, "content": f"{r} says {n} and {n * 7}"} for r in roles * 2]} for n in range(8)]
    (scratch / "data.jsonl").write_text("".join(json.dumps({"task_id": str(n), **line}) + "\n" for n, line in enumerate(lines)))
    common = {"data": str(scratch / "data.jsonl"), "seed": 0}
    size = {"vocab_size": 512, "hidden_size": 64, "layers": 2, "heads": 2}
    with Orchestrator(scratch, {"method": "init", "output": str(scratch / "init"), "init": size, **common}, section) as first:
        assert first.process.wait(PATIENCE_S) == 0, first._log.read_text()
    settings = {"batch_size": 4, "micro_batch_size": 4, "max_length": 256, "max_steps": STEPS, "checkpoint_every_s": 1, "precision": "fp32"}
    job = {"method": "sft", "model": str(scratch / "init"), "output": str(scratch / "sft"), **settings, **common}

    def known() -> dict[str, Any]:
        found = JobSubmissionClient(cluster.jobs).list_jobs()
        return {j.submission_id: j for j in found if j.submission_id and j.submission_id.startswith("eto-sft-")}

    claims = {}
    with Orchestrator(scratch, job, section) as interrupted:
        interrupted.wait_for_states(scratch)
        interrupted.process.send_signal(signal.SIGINT)
        interrupted.process.wait(PATIENCE_S)
        deadline = time.monotonic() + PATIENCE_S
        stopped = False
        while not stopped and time.monotonic() < deadline:  # Ray writes the state down after the process has ended
            time.sleep(0.1)
            stopped = [str(j.status) for j in known().values()] == ["STOPPED"] and not trainers(scratch)
        claims["Ctrl-C stops the job on the cluster"] = stopped
    with Orchestrator(scratch, job, section) as killed:
        killed.wait_for_states(scratch)
        killed.process.kill()
        killed.process.wait()
        start = next(e for e in killed.look() if e.get("event") == "start")
        claims["run again, a second job resumes what the first had done"] = len(known()) == 2 and start["resumed_step"] > 0
    going = max(known(), key=lambda name: int(name.rpartition("-")[2]))
    with Orchestrator(scratch, job, section) as last:
        last.wait_for(lambda: bool(last.notes()))
        last.wait_for_states(scratch)
        found = str(known()[going].status) == "RUNNING" and len(known()) == 2 and len(trainers(scratch)) == 1
        claims["after kill -9 of its orchestrator the same job is found, and no other begun"] = found and going in last.notes()[0]
        node = known()[going].driver_node_id
        state, lost_at = states(scratch), time.monotonic()
        cluster.kill(node)
        last.wait_for(lambda: len(last.notes()) > 1)
        noticed_s = time.monotonic() - lost_at
        code = last.process.wait(PATIENCE_S)
        starts = [e for e in last.look() if e.get("event") == "start"]
        lost = code == 0 and "was lost" in last.notes()[1] and starts[-1]["resumed_step"] >= state > 0
        claims["a job whose node was lost is said to be, is submitted once more and resumes"] = lost and len(known()) == 3
    whole = (scratch / "sft" / "manifest.json").exists() and sorted(str(j.status) for j in known().values()) == [
        "FAILED",
        "STOPPED",
        "SUCCEEDED",
    ]
    claims["it ends with a whole checkpoint"] = whole
    return claims, {"lost_node_noticed_s": round(noticed_s, 1), "resumed_steps": [e.get("resumed_step") for e in starts], "of_steps": STEPS}
