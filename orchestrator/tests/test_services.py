"""Services of this machine: what is adopted and what is started anew."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from orchestrator import process, services


def test_a_service_that_was_dying_while_it_was_looked_at_is_started_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ETO_STATE", str(tmp_path))
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    dying = process.start(process.Service("sleeper", command, "http://127.0.0.1:1", ready=_never), owner="run:a", notes={"loaded": "m"})

    async def ready() -> bool:
        """Of the first one the connections are closed, then it is gone."""
        if dying.alive():
            os.kill(dying.pid, signal.SIGKILL)
        running = process.find("sleeper")
        return running is not None and running.pid != dying.pid

    asked = process.Service("sleeper", [*command, "other weights"], "http://127.0.0.1:1", ready)
    running = asyncio.run(services.ensure(asked, owner="run:a", notes={"loaded": "m"}, same=lambda running: running.notes["loaded"] == "m"))
    try:
        assert running.pid != dying.pid
        assert running.alive()
        assert running.command == asked.command
    finally:
        process.stop(running)


async def _never() -> bool:
    return False


def test_without_a_policy_server_here_a_model_is_what_the_one_elsewhere_has_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETO_ROOT", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "models"))
    prepared = tmp_path / "models/eto/models/small"
    prepared.mkdir(parents=True)
    (prepared / "manifest.json").write_text("{}")
    assert asyncio.run(services.prepare_model("small")) == str(prepared)
    assert asyncio.run(services.prepare_model("somebody/large")) == "somebody/large"
    assert asyncio.run(services.prepare_model(str(prepared))) == str(prepared)
