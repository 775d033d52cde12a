"""`eto runs push` and `pull`, against a folder, an S3 server (moto's) and an SFTP server (asyncssh's), both real ones on loopback."""

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import fsspec
import pytest
from moto.server import ThreadedMotoServer
from orchestrator.artefacts import StoreError, pull, push
from orchestrator.run_store import RunStore, RunStoreError, file_sha256
from run_builder import make_run, write, write_done

from orchestrator import artefacts

PLACES = ["file", "s3", "sftp"]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The endpoint of an S3 server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The port of an SFTP server, and a home directory whose key it lets in and whose known hosts have its own."""
    home = tmp_path_factory.mktemp("home")
    host_key, user_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    (home / ".ssh").mkdir()
    user_key.write_private_key(home / ".ssh" / "id_ed25519")
    write(home / "authorized_keys", user_key.export_public_key().decode())
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def serve() -> asyncssh.SSHAcceptor:
        keys = str(home / "authorized_keys")
        return await asyncssh.listen("127.0.0.1", 0, server_host_keys=[host_key], authorized_client_keys=keys, sftp_factory=True)

    server = asyncio.run_coroutine_threadsafe(serve(), loop).result(20)
    port = server.get_port()
    write(home / ".ssh" / "known_hosts", f"[127.0.0.1]:{port} {host_key.export_public_key().decode()}")
    yield port, home

    async def close() -> None:
        server.close()
        await server.wait_closed()

    asyncio.run_coroutine_threadsafe(close(), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)


@pytest.fixture(params=PLACES)
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place of each kind."""
    if request.param == "s3":
        monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("s3"))
        for name, value in {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(name, value)
        bucket = f"b-{tmp_path.name.replace('_', '-').lower()[:40].strip('-')}"
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir(bucket)
        return f"s3://{bucket}/runs"
    if request.param == "sftp":
        port, home = request.getfixturevalue("ssh")
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        return f"sftp://someone@127.0.0.1:{port}{tmp_path}/there"
    return f"file://{tmp_path}/there"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with every stage finished but the last, which has begun, and with what must not be pushed."""
    folder = make_run(tmp_path / "here" / "demo", splits=("eto-seen",), variations=1, steps=3)
    (folder / "stages/evaluate-eto-1/done.json").unlink()
    write(folder / "stages/sft/checkpoint/model.safetensors", "w" * 3000)
    write(folder / "stages/pairs-1.stale-1/pairs.jsonl", "old")
    write(folder / "stages/sft/checkpoint.partial/state", "half")
    write(folder / "lock", "")
    return folder


def files(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): file_sha256(p) for p in folder.rglob("*") if p.is_file()}


def test_a_run_comes_back_as_it_was_without_what_was_under_way(run: Path, url: str, tmp_path: Path) -> None:
    push(run, url)
    pulled = pull("demo", url, tmp_path / "back")
    wanted = {n: sha for n, sha in files(run).items() if not any(w in n for w in ("lock", ".stale-", ".partial", "evaluate-eto-1"))}
    assert files(tmp_path / "back/demo") == wanted
    assert (pulled.files, pulled.sent_files) == (len(wanted), len(wanted))
    assert pull("demo", url, tmp_path / "back").sent_files == 0
    assert [p.name for p in (tmp_path / "back").iterdir()] == ["demo"]


def test_pushed_again_only_what_is_new_is_sent(run: Path, url: str) -> None:
    first = push(run, url)
    assert (first.sent_files, push(run, url).sent_files) == (first.files, 0)
    write_done(run / "stages", "evaluate-eto-1", "evaluate", 8, {"policy": "eto-1"})
    write(run / "config.yaml", (run / "config.yaml").read_text() + "# another word\n")
    assert push(run, url).sent_files == 3  # the stage's two files and the configuration


def test_a_push_that_was_cut_off_is_no_run_until_it_has_gone_on(
    run: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artefacts, "NOTED_EVERY", 0)
    cut = 6
    seen: list[str] = []

    def count(text: str) -> None:
        seen.append(text)
        if len(seen) > cut:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        push(run, url, count)
    with pytest.raises(StoreError, match="no whole run demo: its push was cut off"):
        pull("demo", url, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    again = push(run, url)
    assert again.sent_files == again.files - cut + 1  # the last one before the cut was not noted yet
    assert pull("demo", url, tmp_path / "back").files == again.files


def test_a_pull_that_was_cut_off_leaves_no_run_and_goes_on(run: Path, url: str, tmp_path: Path) -> None:
    push(run, url)
    seen: list[str] = []

    def count(text: str) -> None:
        seen.append(text)
        if len(seen) > 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull("demo", url, tmp_path / "back", count)
    assert not (tmp_path / "back/demo").exists()
    done = pull("demo", url, tmp_path / "back")
    assert done.sent_files == done.files - 4


def test_what_was_changed_there_is_not_pulled(run: Path, url: str, tmp_path: Path) -> None:
    push(run, url)
    options = {} if not url.startswith("sftp") else {"host_key_policy": "auto_add"}
    fs, root = fsspec.core.url_to_fs(url, skip_instance_cache=True, **options)
    fs.pipe_file(f"{root}/demo/stages/sft/checkpoint/model.safetensors", b"x" * 3000)
    if options:
        fs.client.close()
    with pytest.raises(StoreError, match="is not what was pushed"):
        pull("demo", url, tmp_path / "back")
    assert not (tmp_path / "back/demo").exists()


def test_another_run_of_the_same_name_is_left_alone_there_and_here(run: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there"
    push(run, url)
    other = shutil.copytree(run, tmp_path / "else" / "demo")
    manifest = json.loads((other / "manifest.json").read_text())
    write(other / "manifest.json", json.dumps({**manifest, "run_id": "demo-other"}))
    with pytest.raises(StoreError, match="has another run named demo"):
        push(other, url)
    with pytest.raises(RunStoreError, match=r"is there already and differs .*manifest\.json"):
        pull("demo", url, tmp_path / "else")


def test_a_run_may_be_pushed_while_it_is_worked_on(run: Path, tmp_path: Path) -> None:
    with RunStore(run).locked():
        assert push(run, f"file://{tmp_path}/there").sent_files > 5


def test_a_server_whose_key_is_not_known_is_not_trusted(ssh: tuple[int, Path], run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    port, home = ssh
    stranger = shutil.copytree(home, tmp_path / "home")
    write(stranger / ".ssh" / "known_hosts", "")
    monkeypatch.setenv("HOME", str(stranger))
    with pytest.raises(StoreError, match=r"is not in .*known_hosts: connect once with ssh"):
        push(run, f"sftp://someone@127.0.0.1:{port}{tmp_path}/there")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense://x/y", "cannot be opened: ValueError: Protocol not known"),
        ("sftp://me:hidden@127.0.0.1:9/x", r"sftp://me:\*\*\*@127\.0\.0\.1:9/x cannot be opened"),
        ("file:///nowhere/at/all", "has no run demo; there is nothing"),
    ],
)
def test_a_place_that_cannot_be_used_is_told_and_no_password_with_it(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=message) as fault:
        pull("demo", url, tmp_path)
    assert "hidden" not in str(fault.value)


@pytest.mark.parametrize("name", ["../demo", "a/b", "", ".hidden", "/etc"])
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is no run's name"):
        pull(name, f"file://{tmp_path}", tmp_path / "runs")


def test_where_a_library_is_missing_it_is_told_how_to_have_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(StoreError, match=r"install the orchestrator's `store` extra"):
        push(run, "s3://bucket/runs")
