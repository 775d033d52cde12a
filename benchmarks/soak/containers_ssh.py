"""A training job on an engine that is reached by ssh: a real sshd of this machine, with keys of its own, whose connections are cut."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from containers_engine import check, docker, state, wait_for
from containers_jobs import containers_of, created, job, launch, running

from orchestrator import versions


class Sshd:
    """An sshd on a free port of loopback, its keys, and a client that trusts it. Whoever logs in finds this machine's engine."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._folder = folder
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        (folder / "authorized").write_text((folder / "user.pub").read_text())
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {(folder / 'host.pub').read_text()}")
        path = Path(str(shutil.which("docker"))).parent
        host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        lines = [
            *(f"Port {self.port}", "ListenAddress 127.0.0.1", "PidFile none", "UsePAM no", "StrictModes no"),
            *("PasswordAuthentication no", "PermitRootLogin prohibit-password"),
            *(f"HostKey {folder / 'host'}", f"AuthorizedKeysFile {folder / 'authorized'}"),
            f"SetEnv PATH={path}:/usr/bin:/bin DOCKER_HOST={host}",
        ]
        (folder / "sshd_config").write_text("\n".join(lines) + "\n")
        client = folder / "bin" / "ssh"
        client.parent.mkdir()
        options = f"-F none -i {folder / 'user'} -o UserKnownHostsFile={folder / 'known'} -o IdentitiesOnly=yes -o BatchMode=yes"
        client.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} {options} "$@"\n')
        client.chmod(0o755)
        self.engine = f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"
        #: What makes a process log in by these keys.
        self.environment = {"PATH": f"{client.parent}:{os.environ['PATH']}", "DOCKER_HOST": self.engine}

    def start(self) -> None:
        """Listen."""
        Path("/run/sshd").mkdir(exist_ok=True)
        command = [str(shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")), "-D", "-f", str(self._folder / "sshd_config")]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self._listens, "sshd listens")

    def _listens(self) -> bool:
        with socket.socket() as knock:
            return knock.connect_ex(("127.0.0.1", self.port)) == 0

    def sessions(self) -> list[int]:
        """The processes of its connections."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def cut(self) -> int:
        """Kill every connection's process; returns how many."""
        found = self.sessions()
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        return len(found)

    def stop(self) -> None:
        """Cut everything and listen no more."""
        self._process.kill()
        ours = self.sessions()
        self._process.wait()
        for pid in ours:
            os.kill(pid, signal.SIGKILL)


@contextmanager
def sshd() -> Iterator[Sshd]:
    """It runs, and is stopped."""
    with tempfile.TemporaryDirectory() as folder:
        server = Sshd(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()


def ssh() -> dict[str, Any]:
    """Cut the connection of a job's orchestrator in mid-job; stop the sshd for a while; kill the orchestrator while it is away."""
    if not shutil.which("sshd", path="/usr/sbin:/usr/local/sbin"):
        sys.exit("the part ssh needs an sshd: install openssh-server")
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, sshd() as server:
        for number, part in enumerate(("cut", "away", "killed")):
            folder = Path(name) / part
            folder.mkdir()
            work = job(folder, 100 + number)
            began, since = time.monotonic(), time.time()
            first = launch(work, folder, server.environment)
            container = running(work)
            docker("pause", container)  # so that it is in its middle, whatever the machine's load
            if part == "cut":
                wait_for(server.sessions, "a connection is there")
                number = server.cut()
                wait_for(server.sessions, "the orchestrator has connected again")
                check(first.poll() is None, f"{number} connections were cut in mid-job; the orchestrator connected again by itself")
                docker("unpause", container)
            else:
                server.stop()
                if part == "killed":
                    first.kill()
                    first.communicate()
                docker("unpause", container)
                wait_for(lambda c=container: state(c, ".State.Running") == "false", "the job has ended without us")
                server.start()
                if part == "killed":
                    first = launch(work, folder, server.environment)
            told = first.communicate()[1]
            check(first.returncode == 0, f"ssh, {part}: the call ended well" + (told[-600:] if first.returncode else ""))
            check(created(work, since) == 1 and not containers_of(work), f"ssh, {part}: one container did the job, and none is left")
            check(versions.read_checkpoint(folder / "checkpoint") is not None, f"ssh, {part}: the checkpoint came back")
            figures[part] = round(time.monotonic() - began, 1)
    return {"ssh_s": figures}
