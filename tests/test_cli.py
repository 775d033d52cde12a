"""`eto` at the command line: its help, its exit codes, what it says when something is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ETO = str(Path(sys.executable).with_name("eto"))


def eto(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run([ETO, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, timeout=120)


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; sys.argv = ['eto', '--help']; from orchestrator.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    code += (
        "print(sorted(m for m in ('aiohttp', 'fastapi', 'httpx', 'pydantic', 'yaml', 'jinja2', 'torch', 'uvicorn') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_command_has_a_help() -> None:
    commands = [
        "run",
        "report",
        "experts",
        "rollout",
        "pairs",
        "train",
        "services up",
        "services down",
        "services status",
        "runs list",
        "runs show",
        "runs compare",
        "runs rm",
        "ui",
        "doctor",
        "init",
    ]
    for command in commands:
        done = eto(*command.split(), "--help")
        assert done.returncode == 0, command
        assert "Usage:" in done.stdout, command


def test_status_as_json_is_a_list_of_services() -> None:
    rows = json.loads(eto("services", "status", "--json").stdout)
    assert {"env-sciworld", "policy"} <= {row["name"] for row in rows}
    assert all(row.keys() == {"name", "url", "pid", "ready"} for row in rows)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "none.yaml"], 2, "none.yaml cannot be read"),
        (["run", "bad.yaml"], 2, "line 2: trian_tasks: unknown key"),
        (["report", "."], 2, "is no run directory"),
        (["train", "bad.yaml"], 2, "is no job file"),
        (["services", "up", "nothing"], 2, "unknown service nothing; known: "),
        (["pairs", "--experts", "x", "--explored", "y", "--out", "z"], 2, "x"),
        (["experts", "--split", "s", "--out", "o", "--env-url", "http://127.0.0.1:9"], 1, "Is the service up"),
        (["rollout", "--split", "s"], 2, "Missing option"),
        (["rollout", "--split", "s", "--out", "o", "--prompt", "bad.yaml"], 2, "bad.yaml is no prompt file"),
        (["experts", "--split", "s", "--out", "o", "--prompt", "bad.yaml"], 2, "bad.yaml is no prompt file"),
    ],
)
def test_what_cannot_be_done_is_one_message_and_an_exit_code(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    (tmp_path / "bad.yaml").write_text("name: x\ntrian_tasks: {}\n")
    done = eto(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_job_that_the_trainer_refuses_is_told_with_its_reason(tmp_path: Path) -> None:
    job = {"method": "sft", "model": str(tmp_path), "data": str(tmp_path / "none.jsonl"), "output": str(tmp_path / "out")}
    (tmp_path / "job.json").write_text(json.dumps(job))
    done = eto("train", str(tmp_path / "job.json"))
    assert done.returncode == 1
    assert "none.jsonl cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_that_would_log_to_a_tracker_that_is_not_there_ends_before_it_begins(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        "name: one\ntrain_tasks: {split: eto-train}\nevaluate: [{split: eto-unseen}]\ntrainer: {report_to: [tensorboard, mlflow]}\n"
    )
    done = eto("run", str(config), "--runs", str(tmp_path / "runs"))
    assert done.returncode == 1
    assert "trainer.report_to names mlflow, not installed beside the trainer" in done.stderr
    assert "uv pip install" in done.stderr


def test_experts_as_json_print_only_their_summary(sciworld: str, tmp_path: Path) -> None:
    out, kind = tmp_path / "experts.jsonl", "task-6-lifespan-(longest-lived)"
    done = eto("experts", "--split", "eto-train", "--type", kind, "--per-type", "2", "--env-url", sciworld, "--out", str(out), "--json")
    assert json.loads(done.stdout) == {"out": str(out), "episodes": 2, "mean_score": 1.0, "success": 2}
    assert len(out.read_text().splitlines()) == 2
