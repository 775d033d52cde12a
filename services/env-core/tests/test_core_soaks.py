"""The long proofs of benchmarks/soak in their short forms, on the counter."""

import subprocess
import sys
from pathlib import Path

import pytest

SOAKS = Path(__file__).parents[3] / "benchmarks" / "soak"


@pytest.mark.slow
@pytest.mark.parametrize("soak", ["core_faults", "core_fuzz", "core_leaks", "core_sessions"])
def test_a_soak_holds_in_its_short_form(soak):
    command = [sys.executable, str(SOAKS / f"{soak}.py"), "--short", "--env", "counter"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
