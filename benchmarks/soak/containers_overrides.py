"""The override files: the checkout's code in the containers, and a policy server that is not part of the system."""

import json
from pathlib import Path
from typing import Any

import httpx
from containers_engine import PORTS, PROJECT, ROOT, check, compose, docker, environment, free_port, post, state, wait_for
from containers_run import FIRST

ELSEWHERE = f"{PROJECT}-elsewhere"
PORT = str(free_port())
#: Package folders in the containers of compose.dev.yml.
MOUNTED = {"env-webshop": "env_webshop", "env-sciworld": "env_sciworld", "env-alfworld": "env_alfworld", "ui": "orchestrator"}


def dev() -> None:
    """Bring the system up on this checkout's code."""
    compose("up", "--wait", "--no-build", files=("compose.dev.yml",))
    for service, package in MOUNTED.items():
        mounts = json.loads(docker("inspect", "-f", "{{json .Mounts}}", f"{PROJECT}-{service}-1"))
        from_here = [m for m in mounts if Path(m["Source"]).is_relative_to(ROOT) and m["Destination"].endswith(f"/{package}")]
        code = f"import {package}; print({package}.__file__)"
        found = docker("exec", f"{PROJECT}-{service}-1", "python", "-c", code)
        used = [m for m in from_here if found.startswith(m["Destination"])]
        check(bool(used), f"compose.dev.yml: {service} runs the checkout's {package}")
    with httpx.Client(timeout=60) as client:
        reply = post(client, "sciworld", "/reset", {"split": "train", "index": 0})
        check(bool(reply["observation"]["text"]), f"compose.dev.yml: an episode begins on port {PORTS['sciworld']}")


def remote_policy() -> None:
    """Start a server outside of the system, as on a GPU machine, and play against it from the orchestrator's container."""
    gateway = docker("network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Gateway}}")
    url = f"http://{gateway}:{PORT}"
    docker(
        *(
            "run",
            "-d",
            "--name",
            ELSEWHERE,
            "-p",
            f"{gateway}:{PORT}:8000",
            "--read-only",
            "--shm-size",
            "1g",
            "-e",
            "ETO_POLICY_TOKEN=secret",
        ),
        *("--tmpfs", "/tmp:exec,mode=1777", "--tmpfs", "/home/eto:exec,uid=10001", "--tmpfs", "/models:uid=10001"),  # noqa: S108
        *("-v", f"{PROJECT}_runs:/runs:ro", "eto/policy:cpu", "serve", "--host", "0.0.0.0", "--max-model-len", "1024"),  # noqa: S104
        *("--model", f"/runs/{FIRST}/stages/sft/checkpoint"),
    )
    try:
        wait_for(lambda: state(ELSEWHERE, ".State.Health.Status") == "healthy", "the policy server elsewhere is healthy", 600)
        said = compose(
            *("run", "--rm", "-T", "orchestrator", "rollout", "--env", "sciworld", "--split", "eto-unseen", "--per-type", "1"),
            *("--type", "task-6-lifespan-(longest-lived)", "--type", "task-6-lifespan-(shortest-lived)", "--no-example"),
            *("--max-tokens", "16", "--max-steps", "3", "--out", "/runs/elsewhere.jsonl", "--json"),
            files=("compose.remote-policy.yml",),
            env=environment(ETO_POLICY_URL=url, ETO_POLICY_TOKEN="secret"),  # noqa: S106 - of this server alone
        )
        check(json.loads(said.splitlines()[-1])["episodes"] == 2, f"compose.remote-policy.yml: played with a server at {url}, by its key")
    finally:
        docker("rm", "-f", "-v", ELSEWHERE)


def overrides() -> dict[str, Any]:
    """Bring each file up once."""
    dev()
    remote_policy()
    return {}
