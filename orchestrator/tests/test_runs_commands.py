"""`eto runs`, `eto doctor`, `eto init`, `eto report` at the command line, on run directories of files alone."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import yaml
from orchestrator.cli import app
from orchestrator.config import ConfigError
from orchestrator.config_file import load_config
from orchestrator.config_template import environments, template, write_template
from orchestrator.doctor import available_bytes
from orchestrator.report import build_report
from orchestrator.run_index import read_run
from orchestrator.run_store import RunStore, RunStoreError
from run_builder import make_run
from typer.testing import CliRunner

CONFIG = {"train_tasks": {"split": "eto-train"}, "evaluate": [{"split": "eto-seen"}], "iterations": 2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "demo", splits=("eto-seen",))


@pytest.fixture
def runs(finished, tmp_path):
    """A folder with two runs of the test's own."""
    for name in ("demo", "other"):
        shutil.copytree(finished, tmp_path / name)
    return tmp_path


def eto(*arguments, fails=None, answer=None):
    """What a command prints; `fails` is the error it must end with."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], input=answer)
    if fails is None:
        assert done.exception is None, done.output
    else:
        assert isinstance(done.exception, fails), done.output
        return str(done.exception)
    return done.stdout


def test_the_list_tells_each_runs_state_and_last_score(runs):
    (runs / "other/stages/evaluate-eto-1/done.json").unlink()
    rows = {r["name"]: r for r in json.loads(eto("runs", "list", "--runs", runs, "--json"))}
    assert (rows["demo"]["state"], rows["demo"]["done"], rows["demo"]["policy"]) == ("finished", 9, "eto-1")
    assert (rows["other"]["state"], rows["other"]["policy"]) == ("unfinished", "sft")
    assert "evaluate-eto-1" in eto("runs", "list", "--runs", runs)


def test_a_run_that_is_worked_on_is_running(runs):
    with RunStore(runs / "demo").locked():
        assert read_run(runs / "demo").state == "running"
    assert read_run(runs / "demo").state == "finished"


def test_looking_whether_a_run_is_busy_does_not_keep_an_orchestrator_out(runs):
    store = RunStore(runs / "demo")
    (runs / "demo/lock").touch()
    assert not store.busy()
    with store.locked():
        assert store.busy()


def test_the_stages_to_come_are_those_of_the_configuration(runs):
    (runs / "demo/config.yaml").write_text(yaml.safe_dump({**CONFIG, "name": "demo"}))
    info = read_run(runs / "demo")
    states = {s.name: s.state for s in info.stages}
    assert info.state == "unfinished"
    assert states["evaluate-eto-1"] == "done"
    assert states["evaluate-eto-2"] == "waiting"
    done = runs / "demo/stages/pairs-1/done.json"
    record = json.loads(done.read_text())
    done.write_text(json.dumps({**record, "summary": {**record["summary"], "pairs": 0}}))
    assert read_run(runs / "demo").state == "finished"  # nothing to learn from: such a run ends there


def test_show_prints_the_reports_numbers(runs):
    data = json.loads(eto("runs", "show", "demo", "--runs", runs, "--json"))
    policies = build_report(runs / "demo").policies
    assert [(p["policy"], p["n"], p["score"]["mean"]) for p in data["policies"]] == [(p.policy, p.n, p.score.mean) for p in policies]
    assert [s["name"] for s in data["stages"]] == [s.name for s in read_run(runs / "demo").stages]
    assert "9 of 9 stages done" in eto("runs", "show", runs / "demo")


def test_comparing_two_policies_of_a_run_gives_the_reports_paired_difference(runs):
    result = json.loads(eto("runs", "compare", "demo:base", "demo:sft", "--runs", runs, "--json"))
    wanted = next(d for d in build_report(runs / "demo").differences if d.policy == "sft").paired
    got = result["splits"][0]["score"]
    assert (result["a"], result["b"]) == ("demo:base", "demo:sft")
    assert {k: got[k] for k in ("n", "wins", "ties", "losses")} == {k: getattr(wanted, k) for k in ("n", "wins", "ties", "losses")}
    assert got["mean"] == pytest.approx(wanted.mean)
    assert got["mean"] == pytest.approx(result["splits"][0]["score_b"]["mean"] - result["splits"][0]["score_a"]["mean"])


def test_two_runs_with_the_same_episodes_do_not_differ(runs):
    result = json.loads(eto("runs", "compare", "demo", "other", "--runs", runs, "--json"))
    assert (result["a"], result["b"]) == ("demo:eto-1", "other:eto-1")
    assert (result["splits"][0]["score"]["mean"], result["splits"][0]["score"]["p"]) == (0.0, 1.0)


def test_runs_are_the_same_whatever_their_clocks_said_and_not_if_an_action_differs(runs):
    for manifest in runs.glob("*/stages/*/checkpoint/manifest.json"):
        manifest.write_text(json.dumps({"version": manifest.parts[-3], "method": "sft"}))
    file = runs / "other/stages/evaluate-sft/episodes.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for k, episode in enumerate(lines):
        episode |= {"duration_s": 99.0 + k, "started_at": "2027-01-01T00:00:00Z", "retries": 1}
        episode["steps"][0]["policy_s"] = 7.7
    file.write_text("".join(json.dumps(e) + "\n" for e in reversed(lines)))
    assert all(s["same"] for s in json.loads(eto("runs", "same", "demo", "other", "--runs", runs, "--json")))
    lines[3]["steps"][0]["action"] = "something else"
    file.write_text("".join(json.dumps(e) + "\n" for e in lines))
    done = CliRunner().invoke(app, ["runs", "same", "demo", "other", "--runs", str(runs), "--json"])
    (found,) = [s for s in json.loads(done.stdout) if not s["same"]]
    assert (done.exit_code, found["stage"], found["n"] - found["equal"]) == (1, "evaluate-sft", 1)
    assert found["different"] == f"{lines[3]['task_id']}, sample 0"


def test_a_run_to_reproduce_stands_in_place_of_a_configuration(runs, tmp_path):
    (runs / "demo/config.yaml").write_text(yaml.safe_dump({**CONFIG, "name": "demo"}))
    plan = json.loads(eto("run", "--reproduce", "demo", "--runs", runs, "--dry-run", "--json"))
    assert {s["state"] for s in plan} == {"to do"}  # another run: nothing of it is done
    assert "give a CONFIG" in eto("run", fails=ConfigError)
    assert "give a CONFIG" in eto("run", tmp_path / "x.yaml", "--reproduce", "demo", fails=ConfigError)


@pytest.mark.parametrize(
    ("arguments", "fault", "message"),
    [
        (["show", "none"], RunStoreError, "there are demo, other"),
        (["compare", "demo:none", "other"], ConfigError, "it has base, sft, eto-1"),
        (["rm", "none", "--yes"], RunStoreError, "there are demo, other"),
        (["rm", "demo"], ConfigError, "Give --yes"),
    ],
)
def test_what_cannot_be_done_is_told_with_what_can(runs, arguments, fault, message):
    assert message in eto("runs", *arguments, "--runs", runs, fails=fault)
    assert (runs / "demo").exists()


def test_runs_without_a_common_task_are_not_compared(runs):
    for file in (runs / "other/stages").glob("evaluate-*/episodes.jsonl"):
        file.write_text(file.read_text().replace('"eto-seen"', '"eto-unseen"'))
    assert "share no task" in eto("runs", "compare", "demo", "other", "--runs", runs, fails=ConfigError)


def test_rm_removes_a_run_and_nothing_else(runs):
    removed = json.loads(eto("runs", "rm", "demo", "--runs", runs, "--yes", "--json"))
    assert removed[0]["bytes"] > 1000
    assert os.listdir(runs) == ["other"]


def test_rm_refuses_a_run_that_is_worked_on_and_then_removes_none(runs):
    with RunStore(runs / "demo").locked():
        assert "nothing was removed" in eto("runs", "rm", "other", "demo", "--runs", runs, "--yes", fails=RunStoreError)
    assert sorted(os.listdir(runs)) == ["demo", "other"]


def test_rm_does_not_follow_a_link(runs, tmp_path):
    (runs / "link").symlink_to(runs / "demo")
    assert "is a link" in eto("runs", "rm", "link", "--runs", runs, "--yes", fails=RunStoreError)
    assert (runs / "demo/manifest.json").exists()


@pytest.mark.parametrize("env", environments())
def test_init_writes_a_configuration_that_eto_accepts_with_every_setting_at_its_default(tmp_path, env):
    path = tmp_path / "first run.yaml"
    write_template(path, env)
    config = load_config(path)
    assert (config.name, config.env.name) == ("first-run", env)
    chosen = {"name": config.name, "env": {"name": env}, "train_tasks": config.train_tasks, "evaluate": config.evaluate}
    assert config == type(config)(**chosen)
    settings = set(type(config).model_fields)
    assert settings <= yaml.safe_load(path.read_text()).keys()


def test_init_overwrites_nothing(tmp_path):
    path = tmp_path / "eto.yaml"
    path.write_text("mine")
    assert "was left as it is" in eto("init", path, fails=ConfigError)
    assert path.read_text() == "mine"
    assert "known: " in eto("init", tmp_path / "new.yaml", "--env", "none", fails=ConfigError)


@pytest.mark.parametrize("name", ["eto", "..", "ünïcode", "-x", "a b/c"])
def test_a_template_names_its_run_by_what_a_folder_may_be_called(tmp_path, name):
    path = tmp_path / "x.yaml"
    path.write_text(template(name, "sciworld"))
    assert load_config(path).name


def test_doctor_finds_a_port_that_is_taken_and_a_server_that_does_not_answer(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = {**CONFIG, "name": "x", "env": {"url": "http://127.0.0.1:9"}, "policy": {"port": taken.getsockname()[1]}}
        (tmp_path / "x.yaml").write_text(yaml.safe_dump(config))
        done = CliRunner().invoke(app, ["doctor", str(tmp_path / "x.yaml"), "--runs", str(tmp_path), "--json"])
    findings = {f["name"]: f for f in json.loads(done.stdout)}
    assert done.exit_code == 1
    assert findings["policy server"]["grade"] == "fail"
    assert "does not answer" in findings["environment"]["found"]
    assert findings["Python"]["grade"] == "ok"
    assert all(f["advice"] for f in findings.values() if f["grade"] != "ok")


def test_doctor_sees_the_limit_of_a_container(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable: 1000000 kB\n")
    (tmp_path / "memory.max").write_text("500000\n")
    (tmp_path / "memory.current").write_text("100000\n")
    assert available_bytes(tmp_path, tmp_path) == 400_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path, tmp_path) == 1_024_000_000


def test_doctor_tells_runs_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(app, ["doctor", "--runs", str(tmp_path / "file/runs"), "--json"])
    assert {f["name"]: f for f in json.loads(done.stdout)}["Runs"]["grade"] == "fail"


def test_the_report_is_also_markdown_whose_names_are_text(runs):
    evil = "a|b <b>*x*</b> [y](z)"
    manifest = runs / "demo/manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "name": evil}))
    printed = json.loads(eto("report", runs / "demo", "--json"))
    text = (runs / "demo/report.md").read_text()
    assert printed["run"]["name"] == evil
    assert "# a\\|b \\<b\\>\\*x\\*\\</b\\> \\[y\\](z)" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows if row.startswith("| eto-1 |")}) == 1
    assert f"| sft | eto-seen | {printed['policies'][1]['n']} |" in text


def test_the_plan_as_json_is_the_list_of_stages(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(template("x", "sciworld"))
    stages = json.loads(eto("run", path, "--dry-run", "--json"))
    assert [s["name"] for s in stages][:2] == ["experts", "evaluate-base"]
    assert json.loads(eto("init", tmp_path / "y.yaml", "--json")) == {"path": str(tmp_path / "y.yaml")}


def test_the_shell_completes_the_names_of_runs(runs):
    environment = {"_ETO_COMPLETE": "complete_bash", "COMP_WORDS": f"eto runs show --runs {runs} d", "COMP_CWORD": "5"}
    done = CliRunner().invoke(app, [], env=environment, prog_name="eto")
    assert done.stdout.split() == ["demo"]


def test_the_ui_is_refused_where_others_could_look_and_no_token_is_set(monkeypatch):
    monkeypatch.delenv("ETO_UI_TOKEN", raising=False)
    assert "Set ETO_UI_TOKEN" in eto("ui", "--host", "0.0.0.0", "--port", "0", fails=ConfigError)
    monkeypatch.setenv("ETO_UI_TOKEN", "short")
    assert "at least 16" in eto("ui", "--port", "0", fails=ConfigError)


def test_the_ui_tells_a_port_that_is_taken(monkeypatch):
    monkeypatch.delenv("ETO_UI_TOKEN", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "cannot be listened on" in eto("ui", "--port", taken.getsockname()[1], "--runs", Path("none"), fails=ConfigError)
