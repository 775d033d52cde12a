"""The conformance kit, and the documentation's environment by it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from env_core.conformance import checks, run_checks
from env_core.running import running_service

DOC = Path(__file__).parents[3] / "docs" / "add-an-environment.md"
QUIET = ("--log-level", "critical")


@pytest.fixture(scope="module")
def guess(tmp_path_factory):
    """The documentation's environment, as a service."""
    folder = tmp_path_factory.mktemp("guess")
    (code,) = re.findall(r"```python\n(.*?)```", DOC.read_text("utf-8"), re.S)
    (folder / "guess.py").write_text(code, "utf-8")
    assert len(code.splitlines()) < 80
    with running_service("guess", QUIET, {"PYTHONPATH": str(folder)}) as service:
        yield service


def kit(url, **variables):
    command = [sys.executable, "-m", "env_core.conformance", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **variables}, check=False)


def test_the_documentations_environment_passes_the_kit(guess):
    done = kit(guess.url)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith(f"{len(list(checks()))} of {len(list(checks()))} checks passed\n")


def test_the_counter_passes_the_kit(counter):
    assert {name: problem for name, problem in run_checks(counter.url).items() if problem} == {}


@pytest.mark.parametrize(
    ("line", "broken", "failing"),
    [
        ('random.Random(f"{task_id} {seed}")', "random.Random()", "the same actions show the same"),
        ("self.best = max(self.best, 1 - abs(distance) / 100)", "self.best += 7", "rewards sum to the score"),
        ('if task_id not in {f"game:{n}" for n in range(GAMES)}:', "if False:", "bad requests are refused in the protocols words"),
    ],
)
def test_an_environment_with_a_fault_fails_the_kit_and_is_told_why(tmp_path, line, broken, failing):
    (code,) = re.findall(r"```python\n(.*?)```", DOC.read_text("utf-8"), re.S)
    assert line in code
    (tmp_path / "guess.py").write_text(code.replace(line, broken), "utf-8")
    with running_service("guess", QUIET, {"PYTHONPATH": str(tmp_path)}) as service:
        done = kit(service.url)
    assert done.returncode == 1
    assert re.search(rf"^FAIL {failing}\n +\S", done.stdout, re.M), done.stdout


def test_a_service_that_is_none_fails_every_check():
    done = kit("http://127.0.0.1:1")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
