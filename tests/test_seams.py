"""Where two parts must agree though neither imports the other."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from orchestrator.config import LoraSection, ScratchModel, TrainSection

from orchestrator import places

BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum", "type")


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    """The trainer's own schema of a job file."""
    command = [str(places.service_python("trainer")), "-m", "trainer", "--schema"]
    schema: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return schema


def limits(field: dict[str, Any]) -> dict[str, Any]:
    """What a field takes; `null` beside it means only that it may be left out."""
    options = [o for o in field.get("anyOf", [field]) if o.get("type") != "null"]
    return {name: value for name, value in options[0].items() if name in BOUNDS}


def test_the_trainer_takes_every_setting_that_a_run_may_give_it(job: dict[str, Any]) -> None:
    ours = TrainSection.model_json_schema()["properties"]
    beta = ours.pop("beta")
    assert limits(beta) == limits(job["$defs"]["LossOptions"]["properties"]["beta"])
    ours.pop("lora")
    for name, field in ours.items():
        assert limits(field) == limits(job["properties"][name]), name


def test_the_trainer_takes_every_adapter_that_a_run_may_ask_for(job: dict[str, Any]) -> None:
    for name, field in LoraSection.model_json_schema()["properties"].items():
        assert limits(field) == limits(job["$defs"]["LoraOptions"]["properties"][name]), name


def test_a_fresh_model_may_have_the_sizes_that_the_trainer_takes(job: dict[str, Any]) -> None:
    theirs = job["$defs"]["InitOptions"]["properties"]
    for name, field in ScratchModel.model_json_schema()["properties"].items():
        assert limits(field) == limits(theirs[name]), name
        assert field["default"] == theirs[name]["default"], name


def test_the_environment_services_errors_are_the_documented_ones() -> None:
    root = Path(__file__).parents[1]
    documented = (root / "docs" / "formats.md").read_text()
    from orchestrator.env_client import LOST_SESSION

    for code in LOST_SESSION:
        assert f"`{code}`" in documented, code
