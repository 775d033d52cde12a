"""A whole ETO run whose trainer and policy run on an engine behind ssh, with no disk shared. Orchestrator and environment are here."""

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from containers_engine import ROOT, check, docker, environment, wait_for
from containers_ssh import sshd

sys.path.insert(0, str(ROOT / "tests"))
from tiny_run import STAGES, Run

LABEL = "eto.policy"
EVALUATED = {"evaluate-base": "init", "evaluate-sft": "sft", "explore-1": "sft", "evaluate-eto-1": "dpo-1"}
LONGEST_S = 900.0


def remote() -> dict[str, Any]:
    """Carry it out; cut the ssh connections while episodes are played, and kill the policy's container once."""
    with tempfile.TemporaryDirectory() as name, sshd() as server:
        there = {**environment(), **server.environment, "ETO_STATE": f"{name}/state"}
        run, began = Run(Path(name)), time.monotonic()
        elsewhere = ("-s", f"policy.docker.engine={server.engine}", "-s", f"trainer.docker.engine={server.engine}")
        eto = run.start(*elsewhere, environment=there)
        wait_for(lambda: eto.poll() is not None or run.lines("evaluate-sft") >= 1, "the SFT policy is evaluated", LONGEST_S)
        policy = docker("ps", "-q", "--filter", f"label={LABEL}")
        cut = server.cut()
        wait_for(lambda: eto.poll() is not None or run.lines("evaluate-eto-1") >= 1, "the DPO policy is evaluated", LONGEST_S)
        if eto.poll() is None:
            os.kill(int(docker("inspect", "-f", "{{.State.Pid}}", policy)), signal.SIGKILL)
        ended = eto.wait(LONGEST_S)
        check(
            ended == 0,
            f"a run whose trainer and policy are behind ssh ended complete; {cut} connections were cut, the server was killed once",
        )
        if ended:
            print(run.log.read_text()[-3000:])
            return {"remote_s": None}
        check(sorted(run.done()) == sorted(STAGES), "every stage is done")
        for stage, trained in EVALUATED.items():
            version = json.loads((run.folder / "stages" / trained / "checkpoint" / "manifest.json").read_text())["version"]
            check({e.model.version for e in run.episodes(stage)} == {version}, f"{stage} was answered by {trained}'s weights, {version}")
        check(not docker("ps", "-aq", "--filter", f"label={LABEL}"), "the run left no policy container")
        check(not list(Path(name).glob("state/services/*.json")), "the run left no service and no tunnel here")
        return {"remote_s": round(time.monotonic() - began, 1)}
