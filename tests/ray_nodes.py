"""A Ray cluster whose nodes are all on this machine: each is what `ray start` makes on a machine of its own, small."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tiny_run import free_port

START_S = 180.0
TRIES = 3
#: A resource of every node but the head.
WORKER = "worker"
#: Bytes of a node's object store, the least that Ray takes, and of memory it offers.
STORE, MEMORY = 80_000_000, 1_000_000_000


@dataclass
class Cluster:
    """`address` for rollouts, `jobs` for Ray Jobs."""

    folder: Path
    environment: dict[str, str]
    address: str = ""
    jobs: str = ""
    nodes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def raylets(self) -> dict[str, int]:
        """Process ids of the raylets that run, by node id."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            node = next((w.partition("=")[2] for w in words if w.startswith("--node_id=")), None)
            if node and any(str(self.folder) in w for w in words):
                found[node] = int(entry.parent.name)
        return found

    def head(self) -> str:
        """The head's node id: Ray's own records are there, so that a cluster ends with it."""
        below = _descendants(self.nodes[0].pid)
        return next(node for node, pid in self.raylets().items() if pid in below)

    def kill(self, node: str) -> None:
        """A power cut: the raylet and every process of the node at once."""
        pid = self.raylets()[node]
        starter = next(p for p in self.nodes if pid in _descendants(p.pid))
        for victim in [*_descendants(starter.pid), starter.pid]:
            _signal(victim, signal.SIGKILL)
        starter.wait()

    def start_node(self, *options: str) -> None:
        """`ray start` in the foreground, so that the node ends with it."""
        ports = ["--min-worker-port", "0", "--max-worker-port", "0", "--dashboard-agent-listen-port", str(free_port())]
        size = ["--num-cpus", "1", "--memory", str(MEMORY), "--object-store-memory", str(STORE)]
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats", *size, *ports, *options]
        log = (self.folder / f"node-{len(self.nodes)}.log").open("wb")
        self.nodes.append(subprocess.Popen(command, stdout=log, stderr=log, env=self.environment, start_new_session=True))

    def log(self) -> str:
        """What the nodes said."""
        return "\n".join(f.read_text(errors="replace")[-2000:] for f in sorted(self.folder.glob("node-*.log")))


@contextmanager
def cluster(workers: int = 2, environment: dict[str, str] | None = None) -> Iterator[Cluster]:
    """A head and workers, up; all of it is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="eto-ray-"))  # short: a socket's path has 107 characters
    made = Cluster(folder, {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **(environment or {})})
    port, jobs = free_port(), free_port()
    made.jobs = f"http://127.0.0.1:{jobs}"
    try:
        head = ["--head", "--port", str(port), "--temp-dir", str(folder / "t"), "--ray-client-server-port", str(free_port())]
        made.start_node(*head, "--include-dashboard", "true", "--dashboard-port", str(jobs))
        made.address = f"{_address(made)}:{port}"
        assert _waited(made, 1), made.log()
        for number in range(workers):  # one by one: two that begin at once on one machine take each other for themselves
            _add_worker(made, 2 + number)
        yield made
    finally:
        for node in made.nodes:
            for pid in [*_descendants(node.pid), node.pid]:
                _signal(pid, signal.SIGKILL)
            node.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _address(made: Cluster) -> str:
    import ray

    return str(ray.util.get_node_ip_address())


def _add_worker(made: Cluster, nodes: int) -> None:
    """Ray gives up on a node that needs more than 30 s to start, as on a busy machine; then there is another try."""
    before = made.raylets()
    for _ in range(TRIES):
        made.start_node("--address", made.address, "--resources", json.dumps({WORKER: 1}))
        if _waited(made, nodes):
            return
        made.nodes.pop()
        for node, pid in made.raylets().items():
            if node not in before:
                _signal(pid, signal.SIGKILL)
    raise AssertionError(made.log())


def _waited(made: Cluster, nodes: int) -> bool:
    """Wait until so many are up; False where the last one ended by itself."""
    from ray.util.state import list_nodes

    deadline = time.monotonic() + START_S
    reason: Exception | None = None
    while made.nodes[-1].poll() is None:
        assert time.monotonic() < deadline, (reason, made.log())
        try:
            if sum(n.state == "ALIVE" for n in list_nodes(address=made.jobs)) >= nodes:
                return True
        except Exception as error:  # the dashboard comes up in steps, each with its own error
            reason = error
        time.sleep(0.5)
    return False


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(entry.parent.name))
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
