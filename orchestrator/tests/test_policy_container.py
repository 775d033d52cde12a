"""What the policy's container is asked to be; engine and tunnel are met in the soak (benchmarks/soak/containers_remote.py)."""

from pathlib import Path

import pytest
from orchestrator.config_services import PolicyDockerSection, PolicySection
from orchestrator.policy_container import PolicyContainer, container_options, ssh_host, tunnel
from pydantic import ValidationError


def container(engine: str | None = None, **settings: object) -> PolicyContainer:
    docker = PolicyDockerSection(engine=engine)
    return PolicyContainer(PolicySection(docker=docker, **settings), docker, "run:one")


def test_a_server_whose_weights_anyone_may_change_is_published_on_loopback_only() -> None:
    docker = PolicyDockerSection(memory="8g", gpus=-1)
    options = container_options(PolicySection(docker=docker, port=8123), docker, "/models/v-1")
    assert options["ports"] == {"8000/tcp": ("127.0.0.1", 8123)}
    assert options["read_only"]
    assert options["cap_drop"] == ["ALL"]
    assert options["device_requests"][0]["Count"] == -1
    assert options["command"][:3] == ["serve", "--model", "/models/v-1"]


def test_an_engine_behind_ssh_is_reached_through_a_tunnel_and_one_here_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert ssh_host(None) is None
    assert ssh_host("unix:///var/run/docker.sock") is None
    plain, other_port = ssh_host("ssh://me@gpu-box"), ssh_host("ssh://me@gpu-box:2222")
    assert plain is not None
    assert other_port is not None
    assert tunnel(plain, 8000, 32768)[-3:] == ["-L", "127.0.0.1:8000:127.0.0.1:32768", "me@gpu-box"]
    assert tunnel(other_port, 8000, 32768)[-3:] == ["-p", "2222", "me@gpu-box"]
    monkeypatch.setenv("DOCKER_HOST", "ssh://me@gpu-box")
    assert ssh_host(None) is not None
    docker = PolicyDockerSection(engine="ssh://me@gpu-box")
    assert container_options(PolicySection(docker=docker), docker, "a/b")["ports"] == {"8000/tcp": ("127.0.0.1", None)}


def test_one_server_takes_every_checkpoint_of_an_architecture_and_no_other(tmp_path: Path) -> None:
    shapes = {
        "one": '{"num_hidden_layers": 2}',
        "two": '{"num_hidden_layers": 2, "dtype": "bfloat16"}',
        "other": '{"num_hidden_layers": 3}',
    }
    for name, shape in shapes.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(shape)
    labels = {name: container()._label(str(tmp_path / name)) for name in shapes}
    assert labels["one"] == labels["two"] != labels["other"]
    assert container()._label("org/a") != container()._label("org/b")


def test_a_container_has_its_own_address_and_an_engine_over_plain_tcp_has_none() -> None:
    with pytest.raises(ValidationError, match="leave out url"):
        PolicySection(docker=PolicyDockerSection(), url=["http://a:8000"])
    with pytest.raises(ValidationError, match="pattern"):
        PolicyDockerSection(engine="tcp://gpu-box:2375")
