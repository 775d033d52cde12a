"""A training job on a second engine, as on another machine: its own images and volumes, reached by TCP with certificates on both sides."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from containers_engine import check, docker, wait_for
from containers_jobs import job, launch

from orchestrator import versions

IMAGE = "eto/trainer:cpu"
#: Of the second engine alone: one that is told to have none removes the first engine's.
BRIDGE = "eto-soak0"


def certificates(folder: Path) -> None:
    """A certificate authority, and by it a server's and a client's, under the names that Docker's clients look for."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca-key.pem", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    for name, use in (("server", "serverAuth"), ("client", "clientAuth")):
        key, request = f"{name}-key.pem", f"{name}.csr"
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        (folder / "ext").write_text(f"subjectAltName=IP:127.0.0.1\nextendedKeyUsage={use}\n")
        signed = ("-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-out", f"{name}.pem", "-days", "2", "-extfile", "ext")
        openssl("x509", "-req", "-in", request, *signed)
    for name, known in (("client.pem", "cert.pem"), ("client-key.pem", "key.pem")):
        (folder / name).rename(folder / known)


@contextmanager
def second_engine(folder: Path) -> Iterator[dict[str, str]]:
    """It runs, without a way to the network (a job needs none); what makes a process its client."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    certificates(folder)
    beside = Path(str(shutil.which("docker"))).parents[1] / "sbin"
    command = [
        str(shutil.which("dockerd", path=f"{beside}:{os.environ['PATH']}:/usr/sbin")),
        *("--host", f"tcp://127.0.0.1:{port}", "--tlsverify", "--tlscacert", str(folder / "ca.pem")),
        *("--tlscert", str(folder / "server.pem"), "--tlskey", str(folder / "server-key.pem")),
        *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"), "--pidfile", str(folder / "pid")),
        *("--bridge", BRIDGE, "--iptables=false", "--ip6tables=false", "--userland-proxy=false"),
    ]
    client = {"DOCKER_HOST": f"tcp://127.0.0.1:{port}", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(folder)}
    network = (["add", BRIDGE, "type", "bridge"], ["set", BRIDGE, "up"])
    for arguments in network:
        subprocess.run(["ip", "link", *arguments], check=True)
    subprocess.run(["ip", "addr", "add", "192.0.2.1/24", "dev", BRIDGE], check=True)  # RFC 5737: nobody's
    with open(folder / "log", "wb") as log:
        engine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: docker("info", "-f", "{{.ID}}", must=False, env={**os.environ, **client}), "the second engine answers", 60)
        yield client
    finally:
        engine.terminate()
        engine.wait()
        subprocess.run(["ip", "link", "delete", BRIDGE], check=True)


def tls() -> dict[str, Any]:
    """Refuse a client without a certificate; run a job for one that has it."""
    with tempfile.TemporaryDirectory() as scratch, second_engine(Path(scratch)) as client:
        env = {**os.environ, **client}
        anybody = docker("info", "-f", "{{.ID}}", must=False, env={**os.environ, "DOCKER_HOST": client["DOCKER_HOST"]})
        check(not anybody, "the second engine answers nobody without a certificate")
        check(docker("info", "-f", "{{.ID}}", env=env) != docker("info", "-f", "{{.ID}}"), "it is another engine than the first")
        with subprocess.Popen(["docker", "save", IMAGE], stdout=subprocess.PIPE) as saved:
            subprocess.run(["docker", "load", "-q"], stdin=saved.stdout, env=env, check=True, capture_output=True)
        folder = Path(scratch) / "job"
        folder.mkdir()
        work = job(folder, 200)
        began = time.monotonic()
        done = launch(work, folder, client)
        told = done.communicate()[1]
        seconds = round(time.monotonic() - began, 1)
        check(
            done.returncode == 0, f"a job on another engine by TLS ended well after {seconds} s" + (told[-600:] if done.returncode else "")
        )
        check(versions.read_checkpoint(folder / "checkpoint") is not None, "tls: the checkpoint came back")
        check(not docker("ps", "-aq", env=env), "tls: no container is left on it")
    return {"tls_job_s": seconds}
