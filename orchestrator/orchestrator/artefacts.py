"""Runs on another file system: any that fsspec knows, such as s3://BUCKET/FOLDER, sftp://USER@HOST/FOLDER, file:///FOLDER.

A run lies there as it lies here, `URL/NAME/...`. What was brought is noted in `push.part.json` as it goes, so that a push that was cut
off goes on; `push.json`, with every file's hash, is written last. Without it there is no run to pull.
"""

import importlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.run_store import RunStore, RunStoreError, file_sha256, read_manifest

INDEX, JOURNAL = "push.json", "push.part.json"
SCHEMA = "eto.push/1"
#: Files beside the stages, in the order in which they are written: those that change from start to start come last.
BESIDE = ("config.yaml", "manifest.json", "report.html", "report.md", "report.json")
#: The journal is written after so many bytes: what a cut-off push sends twice at most.
NOTED_EVERY = 8 << 20
INSTALL = "install the orchestrator's `store` extra: pip install -r orchestrator/requirements-store.txt"
Note = Callable[[str], None]


class StoreError(RuntimeError):
    """The other file system cannot be used, or does not hold what is asked for; the message says why."""


@dataclass(frozen=True)
class Moved:
    """What a push or pull did. Bytes of all files, and of those that had to be sent."""

    run: str
    url: str
    files: int
    bytes: int
    sent_files: int
    sent_bytes: int


def push(folder: Path, url: str, note: Note = lambda text: None) -> Moved:
    """Copy a run's finished stages, report and configuration to `URL/NAME`. Raises StoreError; RunStoreError if the run is damaged.

    What is there with the same hash is not sent again. Another run of this name there is left alone.
    """
    store = RunStore(folder)
    run_id = read_manifest(store)["run_id"]
    with _opened(url) as (fs, root):
        url = _without_password(url)
        there = f"{root}/{folder.name}"
        before, journal = _read(fs, f"{there}/{INDEX}"), _read(fs, f"{there}/{JOURNAL}")
        for known in (before, journal):
            if known.get("run_id", run_id) != run_id:
                raise StoreError(f"{url} has another run named {folder.name} ({known['run_id']}): it was left as it is. Give another URL.")
        sent = {**before.get("files", {}), **journal.get("files", {})}
        files: dict[str, dict[str, Any]] = {}
        done = _Sent(lambda: _write(fs, f"{there}/{JOURNAL}", {"schema": SCHEMA, "run_id": run_id, "files": {**sent, **files}}))
        for name in _names(store):
            file = folder / name
            about: dict[str, Any] = {"sha256": file_sha256(file), "bytes": file.stat().st_size}
            if sent.get(name) != about or _size(fs, f"{there}/{name}") != about["bytes"]:
                note(f"{name}: {about['bytes'] / 1e6:,.1f} MB")
                fs.makedirs(str(PurePosixPath(f"{there}/{name}").parent), exist_ok=True)
                fs.put_file(str(file), f"{there}/{name}")
                done.add(about["bytes"])
            files[name] = about
        _write(fs, f"{there}/{INDEX}", {"schema": SCHEMA, "run_id": run_id, "files": files})
        if _size(fs, f"{there}/{JOURNAL}") is not None:
            fs.rm_file(f"{there}/{JOURNAL}")
    return _moved(folder.name, url, files, done)


def pull(name: str, url: str, runs: Path, note: Note = lambda text: None) -> Moved:
    """Bring a run from `URL/NAME` into the folder of runs, whole or not at all. Raises StoreError.

    A pull that was cut off goes on where it was. A run of this name here is left alone, unless it is the same to the byte.
    """
    if not name or name != PurePosixPath(name).name or name.startswith("."):
        raise StoreError(f"{name!r} is no run's name: give the name alone, and its place as the URL.")
    with _opened(url) as (fs, root):
        url = _without_password(url)
        there = f"{root}/{name}"
        index = _read(fs, f"{there}/{INDEX}")
        if not index:
            raise StoreError(_why_not(fs, root, url, name))
        files = index["files"]
        wrong = [n for n in files if PurePosixPath(n).is_absolute() or ".." in PurePosixPath(n).parts]
        if wrong:
            raise StoreError(f"{url}/{name} names files outside a run ({wrong[0]}): nothing was pulled.")
        target, part, done = runs / name, runs / f".{name}.pull", _Sent()
        if target.exists():
            changed = [n for n, about in files.items() if not _is(target / n, about)]
            if changed:
                raise RunStoreError(
                    f"{target} is there already and differs from {url} (in {changed[0]}): it was left as it is. "
                    "--runs names another folder."
                )
            return _moved(name, url, files, done)
        for file, about in files.items():
            if _is(part / file, about):
                continue
            note(f"{file}: {about['bytes'] / 1e6:,.1f} MB")
            (part / file).parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(f"{there}/{file}", str(part / file))
            if not _is(part / file, about):
                raise StoreError(f"{url}/{name}/{file} is not what was pushed (its hash differs). Push the run again; nothing was pulled.")
            done.add(about["bytes"])
        for stale in [p for p in part.rglob("*") if p.is_file() and p.relative_to(part).as_posix() not in files]:
            stale.unlink()
        part.rename(target)
    return _moved(name, url, files, done)


def _moved(name: str, url: str, files: dict[str, dict[str, Any]], done: "_Sent") -> Moved:
    return Moved(name, url, len(files), sum(a["bytes"] for a in files.values()), done.files, done.bytes)


class _Sent:
    """Counts what was sent, and has the journal written now and then."""

    def __init__(self, write: Callable[[], None] = lambda: None) -> None:
        self.files = self.bytes = self._since = 0
        self._write = write

    def add(self, size: int) -> None:
        if self._since + size > NOTED_EVERY:
            self._write()
            self._since = 0
        self.files, self.bytes, self._since = self.files + 1, self.bytes + size, self._since + size


def _names(store: RunStore) -> Iterator[str]:
    """The files of a run that another machine needs: finished stages, checked against their records, then what lies beside them."""
    for done in sorted((store.path / "stages").glob("*/done.json")):
        stage = done.parent
        record = None if ".stale-" in stage.name else store.record(stage.name)
        if record is None:
            continue
        store.check_outputs(record)
        for file in sorted(stage.rglob("*")):
            parts = file.relative_to(stage).parts
            if file.is_file() and file != done and not any(p.endswith((".part", ".partial")) for p in parts):
                yield file.relative_to(store.path).as_posix()
        yield done.relative_to(store.path).as_posix()
    yield from (name for name in BESIDE if (store.path / name).is_file())


def _is(file: Path, about: dict[str, Any]) -> bool:
    return file.is_file() and file.stat().st_size == about["bytes"] and file_sha256(file) == about["sha256"]


def _why_not(fs: Any, root: str, url: str, name: str) -> str:
    if fs.exists(f"{root}/{name}"):
        return f"{url} has no whole run {name}: its push was cut off. Push it again from where it is; nothing was pulled."
    there = sorted({PurePosixPath(path).name for path in fs.ls(root, detail=False)}) if fs.exists(root) else []
    return f"{url} has no run {name}; there is {', '.join(there) or 'nothing'}."


def _read(fs: Any, path: str) -> dict[str, Any]:
    """A JSON file there; empty where it is missing or torn, which is the same: nothing that counts."""
    if _size(fs, path) is None:
        return {}
    try:
        data = json.loads(fs.cat_file(path))
    except ValueError:
        return {}
    return data if isinstance(data, dict) and data.get("schema") == SCHEMA else {}


def _write(fs: Any, path: str, data: dict[str, Any]) -> None:
    fs.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
    fs.pipe_file(path, json.dumps(data, indent=1).encode())


def _size(fs: Any, path: str) -> int | None:
    try:
        return int(fs.info(path)["size"])
    except FileNotFoundError:
        return None


@contextmanager
def _opened(url: str) -> Iterator[tuple[Any, str]]:
    """The file system of a URL and the path on it. What goes wrong there, each in its own way, becomes a StoreError."""
    shown = _without_password(url)
    try:
        fsspec = importlib.import_module("fsspec")
        ssh = url.startswith(("sftp://", "ssh://"))
        options = {"host_key_policy": _known_hosts()} if ssh else {"use_listings_cache": False}
        fs, root = fsspec.core.url_to_fs(url, skip_instance_cache=True, **options)
    except ImportError as error:
        raise StoreError(f"{shown} cannot be reached: {error}. To have it, {INSTALL}") from error
    except Exception as error:  # each file system raises its own kinds
        raise StoreError(f"{shown} cannot be opened: {_said(error)}") from error
    try:
        yield fs, root.rstrip("/")
    except (StoreError, RunStoreError):
        raise
    except Exception as error:  # as above
        raise StoreError(f"{shown}: {_said(error)}. The same command goes on where it was.") from error
    finally:
        if ssh:
            fs.client.close()


def _without_password(url: str) -> str:
    return re.sub(r"//([^/@:]*):[^/@]*@", r"//\1:***@", url)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".: ")


def _known_hosts() -> Any:
    """A server is trusted by ~/.ssh/known_hosts alone; fsspec would trust any."""
    paramiko = importlib.import_module("paramiko")

    def missing_host_key(policy: Any, client: Any, hostname: str, key: Any) -> None:
        file = Path.home() / ".ssh" / "known_hosts"
        if not (file.exists() and paramiko.HostKeys(str(file)).check(hostname, key)):
            raise paramiko.SSHException(f"the key of {hostname} is not in {file}: connect once with ssh, and compare the key")

    return type("KnownHosts", (paramiko.MissingHostKeyPolicy,), {"missing_host_key": missing_host_key})()
