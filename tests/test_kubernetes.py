"""The manifests of deploy/kubernetes: valid against the API's own schemas, hardened, and calling what exists."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

FILES = sorted((Path(__file__).parents[1] / "deploy" / "kubernetes").glob("*.yaml"))
#: The oldest and the newest release that they are checked against.
RELEASES = ("1.30", "1.37")
MANIFESTS = [(f.name, m) for f in FILES for m in yaml.safe_load_all(f.read_text())]
IDS = [f"{name}:{m['kind']}/{m['metadata']['name']}" for name, m in MANIFESTS]
CORE = [m for _, m in MANIFESTS if not m["apiVersion"].startswith("ray.io/")]
RAY = [m for _, m in MANIFESTS if m["apiVersion"].startswith("ray.io/")]
RAY_GROUPS = [group for m in RAY for group in [m["spec"]["headGroupSpec"], *m["spec"]["workerGroupSpecs"]]]


@pytest.mark.parametrize("manifest", CORE, ids=lambda m: f"{m['kind']}/{m['metadata']['name']}")
@pytest.mark.parametrize("release", RELEASES)
def test_every_manifest_is_valid_and_holds_no_unknown_field(manifest: dict[str, Any], release: str) -> None:
    kubernetes_validate.validate(manifest, release, strict=True)


@pytest.mark.parametrize("group", RAY_GROUPS, ids=lambda g: g.get("groupName", "head"))
@pytest.mark.parametrize("release", RELEASES)
def test_the_pods_that_an_operator_makes_of_a_ray_cluster_are_valid(group: dict[str, Any], release: str) -> None:
    """KubeRay's own schema is not among the API's: what is around the pods is not checked."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", **group["template"]["metadata"]}, "spec": group["template"]["spec"]}
    kubernetes_validate.validate(pod, release, strict=True)


def test_a_ray_cluster_names_the_ray_that_is_pinned() -> None:
    pinned = (Path(__file__).parents[1] / "orchestrator" / "requirements-ray.txt").read_text().split("ray==")[1].split()[0]
    assert [m["spec"]["rayVersion"] for m in RAY] == [pinned]


def pods(manifest: Any) -> Iterator[dict[str, Any]]:
    """The pod templates inside a manifest, at any depth."""
    if isinstance(manifest, dict):
        if "containers" in manifest:
            yield manifest
        for value in manifest.values():
            yield from pods(value)
    elif isinstance(manifest, list):
        for value in manifest:
            yield from pods(value)


@pytest.mark.parametrize("manifest", [m for _, m in MANIFESTS], ids=IDS)
def test_no_container_is_root_or_may_become_it_and_each_has_its_limits(manifest: dict[str, Any]) -> None:
    for pod in pods(manifest):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            closed = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
            assert container["securityContext"] == closed
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("manifest", [m for _, m in MANIFESTS], ids=IDS)
def test_what_a_pod_mounts_and_refers_to_exists(manifest: dict[str, Any]) -> None:
    claims = {m["metadata"]["name"] for _, m in MANIFESTS if m["kind"] == "PersistentVolumeClaim"}
    for pod in pods(manifest):
        volumes = {v["name"] for v in pod["volumes"]}
        assert {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v} <= claims
        for container in pod["containers"]:
            assert {m["name"] for m in container["volumeMounts"]} <= volumes
            for entry in container.get("env", []):
                if "TOKEN" in entry["name"]:
                    assert "secretKeyRef" in entry["valueFrom"]  # never a value


def test_every_way_that_a_pod_is_called_is_open_in_the_network_policies() -> None:
    """Callers may leave where the called may be entered: a policy that names a label that no pod has would close it silently."""
    labels = [set(m["spec"]["template"]["metadata"]["labels"].items()) for m in CORE if "template" in m.get("spec", {})]
    labels += [set(group["template"]["metadata"]["labels"].items()) for group in RAY_GROUPS]
    rules = [m["spec"] for m in CORE if m["kind"] == "NetworkPolicy"]
    named = [set(r["podSelector"].get("matchLabels", {}).items()) for r in rules]
    named += [set(p["podSelector"]["matchLabels"].items()) for r in rules for way in r.get("ingress", []) for p in way["from"]]
    named += [set(p["podSelector"]["matchLabels"].items()) for r in rules for way in r.get("egress", []) for p in way.get("to", [])]
    assert [n for n in named if n and not any(n <= label for label in labels)] == []
