"""What the docker launcher asks of an engine and how it reads its answers; the engine itself is met in the soak."""

import pytest
from orchestrator.config_services import EnvSection, PolicySection
from orchestrator.config_training import DockerSection, TrainerSection
from orchestrator.launchers import docker
from pydantic import ValidationError


@pytest.fixture
def job(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("{}\n")
    (tmp_path / "model").mkdir()
    return {"method": "sft", "model": str(tmp_path / "model"), "data": str(data), "output": str(tmp_path / "checkpoint"), "epochs": 1}


def test_the_same_job_has_the_same_label_whatever_the_order_of_its_keys(job):
    assert docker.job_label(job) == docker.job_label(dict(reversed(job.items())))


def test_another_seed_is_another_job(job):
    assert docker.job_label({**job, "seed": 1}) != docker.job_label({**job, "seed": 2})


def test_the_same_paths_with_other_content_or_in_another_volume_are_another_job(job, tmp_path):
    before = docker.job_label(job, ["a_runs:/runs"])
    assert docker.job_label(job, ["b_runs:/runs"]) != before
    (tmp_path / "data.jsonl").write_text('{"other": 1}\n')
    changed = docker.job_label(job, ["a_runs:/runs"])
    assert changed != before
    (tmp_path / "model/manifest.json").write_text('{"version": "0123", "method": "sft"}')
    assert docker.job_label(job, ["a_runs:/runs"]) != changed


def test_a_job_that_travels_names_its_files_as_the_container_sees_them(job, tmp_path):
    inside, needs = docker.packed(job)
    assert (inside["model"], inside["data"], inside["output"]) == ("/job/model", "/job/data.jsonl", "/job/output")
    assert needs == {"model": tmp_path / "model", "data.jsonl": tmp_path / "data.jsonl"}
    assert inside["epochs"] == 1


def test_a_hub_id_stays_what_it_is(job):
    inside, needs = docker.packed({**job, "model": "nobody/no-such-model"})
    assert inside["model"] == "nobody/no-such-model"
    assert "model" not in needs


def test_a_container_of_a_job_is_hardened_and_has_no_network(job):
    options = docker.container_options(job, "/job/job.json", DockerSection())
    assert options["read_only"]
    assert options["cap_drop"] == ["ALL"]
    assert options["network_mode"] == "none"


def test_all_gpus_are_asked_for_by_minus_one_and_none_by_default(job):
    assert docker.container_options(job, "/job/job.json", DockerSection())["device_requests"] is None
    (request,) = docker.container_options(job, "/job/job.json", DockerSection(gpus=-1))["device_requests"]
    assert request["Count"] == -1
    assert request["Capabilities"] == [["gpu"]]


def test_a_folder_is_bound_and_a_volume_mounted_under_its_name(job):
    section = DockerSection(mounts=["eto_runs:/runs", "/srv/models:/models:ro"])
    runs, models = docker.container_options(job, "/runs/job.json", section)["mounts"]
    assert (runs["Type"], runs["Source"], runs["Target"], runs["ReadOnly"]) == ("volume", "eto_runs", "/runs", False)
    assert (models["Type"], models["Source"], models["ReadOnly"]) == ("bind", "/srv/models", True)


def test_a_mount_without_a_place_inside_is_refused():
    with pytest.raises(ValidationError, match="mounts"):
        DockerSection(mounts=["eto_runs"])


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"ExitCode": 137, "OOMKilled": True}, "out of memory"),
        ({"ExitCode": 137, "OOMKilled": False}, "SIGKILL"),
        ({"ExitCode": 143}, "SIGTERM (stopped or preempted)"),
        ({"ExitCode": 2, "OOMKilled": False}, "exit code 2: no such data"),
    ],
)
def test_an_ended_container_says_why(state, said):
    assert docker.exit_reason(state, "no such data").startswith(said)


def test_the_compose_system_says_where_its_parts_are(monkeypatch):
    monkeypatch.setenv("ETO_WEBSHOP_URL", "http://env-webshop:8001")
    monkeypatch.setenv("ETO_POLICY_URL", "http://policy:8000")
    monkeypatch.setenv("ETO_LAUNCHER", "docker")
    monkeypatch.setenv("ETO_TRAINER_SHARE", "eto_runs:/runs,eto_models:/models:ro")
    assert EnvSection(name="webshop").url == ["http://env-webshop:8001"]
    assert EnvSection(name="sciworld").url is None
    assert EnvSection.model_validate({"name": "webshop", "url": "http://elsewhere:1"}).url == ["http://elsewhere:1"]
    assert PolicySection().url == ["http://policy:8000"]
    section = TrainerSection().docker
    assert section is not None
    assert section.mounts == ["eto_runs:/runs", "eto_models:/models:ro"]


@pytest.mark.parametrize("other", [{"ray": {}}, {"accelerate": "fsdp2.yaml"}])
def test_a_job_has_one_launcher(other):
    with pytest.raises(ValidationError, match="leave"):
        TrainerSection.model_validate({"docker": {}, **other})
