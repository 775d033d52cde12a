"""What the parts of the containers' soak share: the engine, the images, a system of the soak's own, and the claims."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from tiny_run import free_port  # noqa: E402

#: Another name where another soak uses the same engine at the same time: each begins by removing what an interrupted one left.
PROJECT = os.environ.get("SOAK_PROJECT", "eto-soak")
PORTS = {name: free_port() for name in ("webshop", "sciworld", "alfworld")}
UI_PORT = free_port()
#: Image and compose service, in the order in which they are built.
IMAGES = {
    "eto/env-sciworld": "env-sciworld",
    "eto/env-webshop": "env-webshop",
    "eto/env-alfworld": "env-alfworld",
    "eto/orchestrator": "orchestrator",
    "eto/trainer:cpu": "trainer",
    "eto/policy:cpu": "policy-cpu",
}
PATIENCE_S = 180.0
failures: list[str] = []


def check(holds: bool, said: str) -> None:
    """Print a claim; a false one fails the soak."""
    print(("ok    " if holds else "FAILED ") + said, flush=True)
    if not holds:
        failures.append(said)


def environment(**settings: str) -> dict[str, str]:
    """This process's, with ports of the soak's own, the wheels of torch where there are any, and no other setting but those given."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("ETO_")}
    wheels = os.environ.get("ETO_WHEELS") or os.environ.get("PIP_FIND_LINKS", "")
    return {
        **own,
        **({"ETO_WHEELS": wheels} if Path(wheels).is_dir() and wheels else {}),
        **{f"ETO_{name.upper()}_PORT": str(port) for name, port in PORTS.items()},
        "ETO_UI_PORT": str(UI_PORT),
        **settings,
    }


def docker(*arguments: str, must: bool = True, env: dict[str, str] | None = None) -> str:
    """The output of a docker command."""
    done = subprocess.run(["docker", *arguments], cwd=ROOT, capture_output=True, text=True, env=env or environment())
    if must and done.returncode:
        sys.exit(f"docker {' '.join(arguments)}: {done.stderr}")
    return done.stdout.strip()


def compose_command(*arguments: str, files: Sequence[str] = (), project: str = PROJECT) -> list[str]:
    """A compose command on a project of the soak's own, with override files."""
    chosen = [part for file in ("docker-compose.yml", *files) for part in ("-f", file)] if files else []
    return ["docker", "compose", "--env-file", os.devnull, "-p", project, *chosen, *arguments]


def compose(*arguments: str, files: Sequence[str] = (), env: dict[str, str] | None = None) -> str:
    """Carry it out."""
    return docker(*compose_command(*arguments, files=files)[1:], env=env)


def state(container: str, field: str) -> str:
    """A field of `docker inspect`, such as .State.Pid; empty where there is no such container."""
    return docker("inspect", "-f", f"{{{{{field}}}}}", container, must=False)


@cache
def runs() -> Path:
    """Where the engine keeps the system's runs: to read them here is quicker than to ask a container."""
    return Path(docker("volume", "inspect", "-f", "{{.Mountpoint}}", f"{PROJECT}_runs"))


def left(project: str = PROJECT) -> list[str]:
    """What is there of the project: ids of containers, volumes, networks."""
    mine = ["--filter", f"label=com.docker.compose.project={project}", "-q"]
    return [x for kind in (["ps", "-a"], ["volume", "ls"], ["network", "ls"]) for x in docker(*kind, *mine).split()]


def wait_for(what: Callable[[], Any], told: str, patience_s: float = PATIENCE_S) -> Any:
    """The first true answer."""
    deadline = time.monotonic() + patience_s
    while not (found := what()):
        if time.monotonic() > deadline:
            sys.exit(f"after {patience_s:g} s still not: {told}")
        time.sleep(0.3)
    return found


def post(client: Any, env: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A request to an environment's published port, again until the service is back."""
    import httpx

    def once() -> dict[str, Any] | None:
        try:
            answer = client.post(f"http://127.0.0.1:{PORTS[env]}{path}", json=body)
        except httpx.TransportError:
            return None
        return dict(answer.raise_for_status().json()) if answer.status_code != 503 else None

    return dict(wait_for(once, f"{env} answers {path}"))


def build() -> dict[str, Any]:
    """Build all images from this tree; what the engine's cache holds is not made again."""
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    seconds, sizes = {}, {}
    for image, service in IMAGES.items():
        began = time.monotonic()
        compose("--profile", "*", "build", "--quiet", service, env=environment(ETO_CODE_VERSION=commit))
        seconds[image] = round(time.monotonic() - began, 1)
        sizes[image] = round(int(docker("image", "inspect", "-f", "{{.Size}}", image)) / 1e6)
        print(f"      {image}: {sizes[image]} MB, built in {seconds[image]} s", flush=True)
    check(all(sizes.values()), f"{len(sizes)} images are built, {sum(sizes.values())} MB in all")
    return {"build_s": seconds, "image_mb": sizes}


def report(figures: dict[str, Any]) -> None:
    """Write and print the figures."""
    out = ROOT / "benchmarks/out/soak-containers.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures, indent=1))
