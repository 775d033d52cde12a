"""Where two parts must agree though neither imports the other."""

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from orchestrator.config import DEFAULT_MODEL, ScratchModel
from orchestrator.config_services import EnvSection
from orchestrator.config_training import LoraSection, TrainSection
from orchestrator.process import ServiceError
from orchestrator.stages.learning import LOSS_OPTIONS
from orchestrator.versions import read_checkpoint
from tiny_run import free_port

from orchestrator import places, services

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
    for name, theirs in LOSS_OPTIONS.items():
        assert limits(ours.pop(name)) == limits(job["$defs"]["LossOptions"]["properties"][theirs]), name
    for made_here in ("lora", "data"):  # compared below; a mixture is one file to the trainer
        ours.pop(made_here)
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


@pytest.mark.slow
def test_the_default_model_becomes_a_directory_that_the_trainer_can_load_and_the_server_can_be_proved_on() -> None:
    directory = Path(asyncio.run(services.prepare_model(DEFAULT_MODEL)))
    checkpoint = read_checkpoint(directory)
    assert checkpoint is not None
    assert checkpoint.probe is not None
    assert (directory / "config.json").exists()


def test_a_hub_id_is_passed_on_and_a_directory_that_is_none_is_told() -> None:
    assert asyncio.run(services.prepare_model("org/model")) == "org/model"
    with pytest.raises(ServiceError, match="there is no such directory"):
        asyncio.run(services.prepare_model("./nowhere"))


def test_a_service_started_by_hand_at_another_address_is_left_alone_and_told(sciworld: str) -> None:
    other = services.env_service(EnvSection(port=free_port()))
    with pytest.raises(ServiceError, match=f"runs here at {sciworld}, started by hand"):
        asyncio.run(services.ensure(other))
