"""Sessions that outlive the service's process."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

TESTS = str(Path(__file__).parent)
QUIET = ("--log-level", "critical")


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "state" / "journal.sqlite"


def call(service, path, body):
    return httpx.post(service.url + path, json=body, timeout=30)


def begin(service, **fields):
    return call(service, "/reset", {"task_id": "count:9", **fields}).json()["metadata"]["session_id"]


def test_sessions_go_on_after_the_service_was_killed(serve, journal):
    with serve(*QUIET, "--journal", str(journal)) as service:
        sessions = [begin(service, seed=seed, episode_id=f"e{seed}") for seed in range(5)]
        for session in sessions:
            call(service, "/step", {"session_id": session, "action": "add 2"})
        before = httpx.get(f"{service.url}/sessions").json()
        service.process.kill()
        service.process.wait()
    with serve(*QUIET, "--journal", str(journal)) as service:
        assert sorted(httpx.get(f"{service.url}/sessions").json()["sessions"], key=str) == sorted(before["sessions"], key=str)
        for seed, session in enumerate(sessions):
            reply = call(service, "/step", {"session_id": session, "action": "add 1"}).json()
            assert reply["observation"]["text"] == f"The count is {seed + 3}."
            assert reply["metadata"]["step"] == 2
            assert reply["metadata"]["info"] == {"task_type": "count"}


def test_a_request_repeated_after_a_restart_gets_the_stored_reply(serve, journal):
    with serve(*QUIET, "--journal", str(journal)) as service:
        reset = call(service, "/reset", {"task_id": "count:3", "request_id": "r"})
        body = {"session_id": reset.json()["metadata"]["session_id"], "action": "add 3", "request_id": "s"}
        last = call(service, "/step", body)
        assert last.json()["done"]
        service.process.kill()
        service.process.wait()
    with serve(*QUIET, "--journal", str(journal)) as service:
        assert call(service, "/reset", {"task_id": "count:3", "request_id": "r"}).content == reset.content
        assert call(service, "/step", body).content == last.content


def test_what_was_deleted_or_reset_stays_so_after_a_restart(serve, journal):
    with serve(*QUIET, "--journal", str(journal)) as service:
        deleted, again, forked = begin(service), begin(service), begin(service)
        call(service, "/step", {"session_id": again, "action": "add 2"})
        call(service, "/step", {"session_id": forked, "action": "add 4"})
        httpx.delete(f"{service.url}/sessions/{deleted}")
        call(service, "/reset", {"task_id": "count:7", "session_id": again})
        fork = call(service, f"/sessions/{forked}/fork", {}).json()["metadata"]["session_id"]
    with serve(*QUIET, "--journal", str(journal)) as service:
        assert call(service, "/step", {"session_id": deleted, "action": "add 1"}).status_code == 404
        assert call(service, "/step", {"session_id": again, "action": "add 1"}).json()["observation"]["text"] == "The count is 1."
        for session in (forked, fork):
            assert call(service, "/step", {"session_id": session, "action": "add 1"}).json()["observation"]["text"] == "The count is 5."


def test_a_session_that_another_world_would_continue_ends_with_a_clear_error(serve, journal):
    with serve(*QUIET, "--journal", str(journal)) as service:
        session = begin(service)
        call(service, "/step", {"session_id": session, "action": "pid"})
    with serve(*QUIET, "--journal", str(journal)) as service:
        refused = call(service, "/step", {"session_id": session, "action": "add 1"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (502, "replay_diverged")


def test_a_step_that_cannot_be_written_is_not_taken(serve, journal):
    with serve(*QUIET, "--journal", str(journal)) as service:
        session = begin(service)
        subprocess.run(["prlimit", f"--pid={service.process.pid}", "--fsize=1:unlimited"], check=True)  # as a full disk
        refused = call(service, "/step", {"session_id": session, "action": "add 1"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "journal_unavailable")
        subprocess.run(["prlimit", f"--pid={service.process.pid}", "--fsize=unlimited:unlimited"], check=True)
        taken = call(service, "/step", {"session_id": session, "action": "add 1"}).json()
        assert (taken["observation"]["text"], taken["metadata"]["step"]) == ("The count is 1.", 1)


def run_cli(journal, **variables):
    command = [sys.executable, "-m", "counter_env", "serve", "--port", "0", "--journal", str(journal)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env={**os.environ, "PYTHONPATH": TESTS, **variables})


def test_a_journal_in_use_is_one_sentence_and_status_2(serve, journal):
    with serve(*QUIET, "--journal", str(journal)):
        done = run_cli(journal)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "another service may have it open" in done.stderr


@pytest.mark.parametrize("kind", ["not a database", "another environment", "a folder"])
def test_a_journal_that_is_none_of_ours_is_one_sentence_and_status_2(tmp_path, kind):
    journal = tmp_path / "journal"
    if kind == "not a database":
        journal.write_text("hello " * 1000)
    elif kind == "a folder":
        journal.mkdir()
    else:
        with sqlite3.connect(journal) as db:
            db.executescript("CREATE TABLE journal (environment TEXT); INSERT INTO journal VALUES ('other'); PRAGMA user_version=1")
    done = run_cli(journal)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert str(journal) in done.stderr
    if kind == "not a database":
        assert journal.read_text() == "hello " * 1000, "it is left as it was"
    shutil.rmtree(journal) if journal.is_dir() else journal.unlink()
