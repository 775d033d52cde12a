"""Every environment as OpenEnv's own validator and client see it. What they need is in an environment of its own (tests/openenv)."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.slow

OPENENV = Path(__file__).parent / "openenv"
#: A task of each environment.
TASKS = {
    "sciworld": "task-3-find-living-thing:0",
    "webshop": "sample:3",
    "alfworld": None,  # the first of its training split: the names of generated games are the generator's
}
CRITERIA = 6


@dataclass(frozen=True)
class Env:
    """An environment's service."""

    name: str
    url: str


@pytest.fixture(params=TASKS)
def env(request: pytest.FixtureRequest) -> Env:
    return Env(request.param, request.getfixturevalue(request.param))


@pytest.fixture(scope="session")
def openenv() -> Path:
    """The folder of the programs of OpenEnv's own environment, which is made where it is missing."""
    programs = OPENENV / ".venv" / "bin"
    if not (programs / "openenv").exists():
        subprocess.run([sys.executable, "-m", "venv", str(OPENENV / ".venv")], check=True)
        command = [str(programs / "python"), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(OPENENV / "requirements.txt")]
        subprocess.run(command, check=True)
    return programs


def run(*command: object) -> dict[str, Any]:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_openenvs_validator_passes_all_its_criteria(env: Env, openenv: Path) -> None:
    report = run(openenv / "openenv", "validate", "--url", env.url, "--json")
    assert report["passed"]
    assert report["summary"]["passed_count"] == report["summary"]["total_count"] == CRITERIA
    assert report["standard_profile"] == "openenv-http/1.x"


def test_openenvs_client_plays_an_experts_episode_to_its_end(env: Env, openenv: Path) -> None:
    task = TASKS[env.name] or first_training_task(env)
    expert = httpx.get(f"{env.url}/tasks/{task}/expert", timeout=120).raise_for_status().json()["actions"]
    played = run(openenv / "python", OPENENV / "play.py", env.url, json.dumps({"task_id": task}), json.dumps(expert))
    assert played["done"]
    assert len(played["rewards"]) == len(expert) > 1
    assert sum(played["rewards"]) == pytest.approx(1.0)
    assert (played["state"]["task_id"], played["state"]["score"], played["state"]["success"]) == (task, 1.0, True)
    assert httpx.get(f"{env.url}/sessions").json()["sessions"] == [], "the session went with its connection"


def first_training_task(env: Env) -> str:
    splits = httpx.get(f"{env.url}/{env.name}/splits").json()
    split = next(split["name"] for split in splits if split["type"] == "train")
    task: str = httpx.post(f"{env.url}/{env.name}/task", json={"split": split, "index": 0}).json()["task"]["task_id"]
    return task
