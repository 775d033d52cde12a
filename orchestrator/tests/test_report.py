"""Reports of run directories: finished, half-way, torn, and with hostile text inside."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from orchestrator.jsonl import DataFileError
from orchestrator.report import build_report, render_table, write_report
from rich.console import Console
from run_builder import TYPES, make_run, played, played_by, prompt, write, write_done, write_lines


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture
def run_dir(finished_run, tmp_path):
    """A run of the test's own, to damage."""
    return shutil.copytree(finished_run, tmp_path / "demo")


class _Page(HTMLParser):
    """Collects what a page refers to, its elements and whether they nest."""

    VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})

    def __init__(self, text):
        super().__init__()
        self.refers, self.elements, self.open, self.ids = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.refers += [v for k, v in attributes if k in ("src", "href", "action", "data")]
        self.ids += [v for k, v in attributes if k == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_every_policy_has_a_row_per_split_in_the_order_of_the_pipeline(finished_run):
    report = build_report(finished_run)
    assert [(r.policy, r.split) for r in report.policies] == [(p, s) for p in ("base", "sft", "eto-1") for s in ("eto-seen", "eto-unseen")]
    assert [s.name for s in report.stages] == [
        "init", "experts", "evaluate-base", "sft", "evaluate-sft", "explore-1", "pairs-1", "dpo-1", "evaluate-eto-1",
    ]  # fmt: skip


def test_a_row_counts_what_the_episodes_say(finished_run):
    row = build_report(finished_run).policies[0]
    lines = (finished_run / "stages" / "evaluate-base" / "episodes.jsonl").read_text().splitlines()
    episodes = [e for line in lines if (e := json.loads(line))["split"] == "eto-seen"]
    steps = [s for e in episodes for s in e["steps"]]
    assert row.n == row.score.n == row.tasks == len(episodes) == 16
    assert row.score.mean == pytest.approx(sum(e["score"] for e in episodes) / 16)
    assert row.score.low <= row.score.mean <= row.score.high
    assert row.successes == sum(e["success"] for e in episodes)
    assert row.mean_steps == pytest.approx(len(steps) / 16)
    assert row.invalid_steps == sum(not s["valid"] for s in steps) > 0
    assert row.invalid_rate == pytest.approx(row.invalid_steps / len(steps))
    assert sum(row.terminate_reasons.values()) == 16
    assert row.completion_tokens == sum(e["usage"]["completion_tokens"] for e in episodes)
    assert row.model_version == "base-0123456"


def test_consecutive_policies_are_compared_on_the_same_tasks(finished_run):
    report = build_report(finished_run)
    assert [(d.policy, d.previous) for d in report.differences if d.split == "eto-seen"] == [
        ("sft", "base"),
        ("eto-1", "sft"),
    ]
    rows = {(r.policy, r.split): r for r in report.policies}
    for d in report.differences:
        expected = rows[d.policy, d.split].score.mean - rows[d.previous, d.split].score.mean
        assert d.paired.mean == pytest.approx(expected)
        assert d.paired.n == 16


def test_reward_against_steps_rises_from_zero_to_the_best_score(finished_run):
    for row in build_report(finished_run).policies:
        curve = row.best_score_by_step
        assert curve[0] == 0
        assert curve == sorted(curve)
        assert curve[-1] == pytest.approx(row.score.mean)


def test_task_types_add_up_to_the_whole(finished_run):
    report = build_report(finished_run)
    for row in report.policies:
        cells = [t.cells[row.policy] for t in report.task_types if t.split == row.split]
        assert sum(c.n for c in cells) == row.n
        assert sum(c.n * c.score for c in cells) / row.n == pytest.approx(row.score.mean)


def test_pairs_curves_and_versions_are_told(finished_run):
    report = build_report(finished_run)
    assert report.pairs[0].win == 1
    assert report.pairs[0].dropped == {"no expert": 1}
    assert [(c.stage, c.method, len(c.steps)) for c in report.curves] == [("sft", "sft", 30), ("dpo-1", "dpo", 30)]
    assert {"loss", "margin", "accuracy", "logp_chosen", "logp_rejected"} <= report.curves[1].series.keys()
    assert report.run.versions == {"torch": "2.9.0", "trl": "0.25.0"}
    assert (report.run.env, report.run.model, report.run.experts) == ("sciworld", "tiny-llama", 16)


def test_trajectories_compare_sft_with_the_last_policy_and_show_losses_too(finished_run):
    shown = build_report(finished_run).comparisons
    evaluations = [c for c in shown if c.kind == "evaluation"]
    assert len(evaluations) == 6
    assert {(c.left.policy, c.right.policy) for c in evaluations} == {("sft", "eto-1")}
    assert any(c.right.score > c.left.score for c in evaluations)
    assert any(c.right.score < c.left.score for c in evaluations)
    assert 1 <= sum(c.kind == "pair" for c in shown) <= 3


def test_trajectories_part_where_action_or_observation_first_differs(finished_run):
    for comparison in build_report(finished_run).comparisons:
        at = comparison.diverges_at
        assert at is not None
        pairs = list(zip(comparison.left.turns, comparison.right.turns, strict=False))
        assert all((a.action, a.observation) == (b.action, b.observation) for a, b in pairs[: at - 1])
        if at <= len(pairs):
            a, b = pairs[at - 1]
            assert (a.action, a.output, a.observation) != (b.action, b.output, b.observation)


def test_writing_twice_gives_the_same_bytes(run_dir):
    names = ("report.json", "report.html")
    write_report(run_dir)
    first = [(run_dir / n).read_bytes() for n in names]
    lines = run_dir / "stages" / "evaluate-sft" / "episodes.jsonl"
    lines.write_text("".join(reversed(lines.read_text().splitlines(keepends=True))))  # the order of ending is chance
    write_report(run_dir)
    assert [(run_dir / n).read_bytes() for n in names] == first
    assert not list(run_dir.glob("*.part"))


def test_the_json_is_the_report_without_nan(run_dir):
    progress = run_dir / "stages" / "sft" / "checkpoint.progress.jsonl"
    with open(progress, "a") as f:
        f.write('{"event": "step", "step": 31, "steps": 31, "loss": NaN, "grad_norm": Infinity}\n')
    done = run_dir / "stages" / "dpo-1" / "done.json"
    done.write_text(done.read_text().replace("0.21", "NaN"))

    def refuse(constant):
        raise AssertionError(constant)

    report = write_report(run_dir)
    content = json.loads((run_dir / "report.json").read_text(), parse_constant=refuse)
    assert content["schema"] == "eto.report/1"
    assert content["policies"][0]["n"] == 16
    assert report.curves[0].series["loss"][-1] is None
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r"<style>.*?</style>", "", (run_dir / "report.html").read_text(), flags=re.S))


def test_the_page_is_self_contained_and_well_formed(run_dir):
    write_report(run_dir)
    text = (run_dir / "report.html").read_text()
    page = _Page(text)
    assert page.open == []
    assert all(r.startswith("#") or r == "data:," for r in page.refers)
    assert {r[1:] for r in page.refers if r.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert not {"script", "iframe", "img", "object"} & set(page.elements)
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert page.elements.count("svg") == page.elements.count("desc")


def test_text_of_models_environments_and_files_is_escaped_everywhere(run_dir):
    attack = "</style></title></pre><script>alert(1)</script><img src=x onerror=alert(1)>'\""
    stages = run_dir / "stages"
    for name in ("evaluate-sft", "evaluate-eto-1"):
        path = stages / name / "episodes.jsonl"
        episodes = [json.loads(line) for line in path.read_text().splitlines()]
        for e in episodes:
            e["policy"] = e["split"] = e["task_type"] = attack
            e["task_id"] += attack
            for m in e["messages"]:
                m["content"] += attack
            for s in e["steps"]:
                s["action"] = attack
        write_lines(path, episodes)
        done = json.loads((stages / name / "done.json").read_text())
        done["summary"] = {attack: attack, "policy": attack + name}
        write(stages / name / "done.json", json.dumps(done | {"started_at": attack, "inputs": {attack: attack}}))
    pairs = [json.loads(line) for line in (stages / "pairs-1" / "pairs.jsonl").read_text().splitlines()]
    write_lines(stages / "pairs-1" / "pairs.jsonl", [p | {"rejected_policy": attack, "prompt": [prompt(attack)[2]]} for p in pairs])
    with open(stages / "sft" / "checkpoint.progress.jsonl", "a") as f:
        f.write(json.dumps({"event": "step", "step": 31, attack: 1.0}) + "\n")
        f.write(json.dumps({"event": "error", "message": attack}) + "\n")
    manifest = {"name": attack, "run_id": attack, "created_at": attack, "code_version": attack, "config_sha256": attack}
    write(run_dir / "manifest.json", json.dumps(manifest))
    with open(run_dir / "config.yaml", "a") as f:
        f.write(f"# {attack}\n")
    render_table(write_report(run_dir))
    text = (run_dir / "report.html").read_text()
    page = _Page(text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert page.open == []
    assert not {"script", "img"} & set(page.elements)


def test_a_page_forbids_scripts_even_if_one_slipped_in(run_dir):
    write_report(run_dir)
    assert "default-src 'none'" in (run_dir / "report.html").read_text()


def test_a_torn_last_line_is_passed_over(run_dir):
    for path in (run_dir / "stages").rglob("*.jsonl"):
        with open(path, "a") as f:
            f.write(path.read_text().splitlines()[0][:40])
    report = build_report(run_dir)
    assert [r.n for r in report.policies] == [16] * 6
    assert len(report.curves[0].steps) == 30


def test_a_resumed_training_counts_each_step_once_and_the_later_one(run_dir):
    path = run_dir / "stages" / "sft" / "checkpoint.progress.jsonl"
    with open(path, "a") as f:
        f.write('{"event": "st{"event": "start", "method": "sft"}\n')  # torn by a kill, then resumed
        f.write('{"event": "step", "step": 30, "steps": 30, "loss": 0.125}\n')
    curve = build_report(run_dir).curves[0]
    assert curve.steps == list(range(1, 31))
    assert curve.series["loss"][-1] == 0.125


def test_damage_inside_a_data_file_is_an_error_that_names_the_line(run_dir):
    path = run_dir / "stages" / "evaluate-sft" / "episodes.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "{}\n", *lines[1:]]))
    with pytest.raises(DataFileError, match="line 2"):
        build_report(run_dir)


def test_unfinished_stages_are_shown_as_such_with_what_they_have(run_dir):
    (run_dir / "stages" / "evaluate-eto-1" / "done.json").unlink()
    (run_dir / "stages" / "explore-2").mkdir()
    report = write_report(run_dir)
    assert [s.name for s in report.stages if not s.finished] == ["evaluate-eto-1", "explore-2"]
    assert "stage evaluate-eto-1 is unfinished" in report.notes
    assert [(r.policy, r.finished, r.n) for r in report.policies][-1] == ("eto-1", False, 16)
    assert "unfinished" in (run_dir / "report.html").read_text()


def test_what_ended_the_run_or_a_stage_early_is_told(run_dir):
    stages = run_dir / "stages"
    trained = json.loads((stages / "dpo-1" / "done.json").read_text())
    trained["summary"]["stopped"] = "the policy collapsed: at step 7 ..."
    write(stages / "dpo-1" / "done.json", json.dumps(trained))
    write_done(stages, "check-1", "check", 90, {"policy": "eto-1", "stopped": "invalid turns rose from 21% to 57% ...", "good": "sft"})
    told = ["dpo-1: the policy collapsed: at step 7 ...", "the run ended with check-1: invalid turns rose from 21% to 57% ..."]
    assert write_report(run_dir).notes == told
    assert told[1] in (run_dir / "report.html").read_text()
    assert "the run ended with check-1" in (run_dir / "report.md").read_text()


@pytest.mark.parametrize("kept", [[], ["init"], ["init", "experts"], ["sft"], ["evaluate-sft"], ["pairs-1", "dpo-1"]])
def test_a_run_with_only_some_stages_has_a_report(run_dir, kept):
    for folder in (run_dir / "stages").iterdir():
        if folder.name not in kept:
            shutil.rmtree(folder)
    report = write_report(run_dir)
    assert sorted(s.name for s in report.stages) == sorted(kept)
    assert _Page((run_dir / "report.html").read_text()).open == []


def test_an_empty_directory_has_a_report_with_notes(tmp_path):
    report = write_report(tmp_path)
    assert report.notes == ["config.yaml is missing", "manifest.json is missing"]
    assert report.run.name == tmp_path.name


def test_broken_manifests_and_config_become_notes(run_dir):
    write(run_dir / "manifest.json", "{")
    write(run_dir / "config.yaml", "a: [")
    write(run_dir / "stages" / "sft" / "done.json", "")
    report = write_report(run_dir)
    assert "manifest.json is not JSON" in report.notes
    assert "config.yaml is not YAML" in report.notes
    assert "stage sft is unfinished" in report.notes


def test_a_single_episode_has_a_row_but_no_interval(tmp_path):
    write_lines(tmp_path / "stages" / "evaluate-base" / "episodes.jsonl", [played("base", "s", "task-1-boil", 0, 0.5)])
    report = write_report(tmp_path)
    assert report.policies[0].n == 1
    assert "[" not in _terminal(report).splitlines()[-2]


def test_an_episode_without_steps_is_counted(tmp_path):
    episode = played("base", "s", "task-1-boil", 0, 0.0) | {"steps": [], "terminate_reason": "context_overflow"}
    episode["messages"] = episode["messages"][:3]
    episode |= {"score": 0.0, "reward": 0.0}
    for policy in ("base", "sft"):
        write_lines(tmp_path / "stages" / f"evaluate-{policy}" / "episodes.jsonl", [episode | {"policy": policy}])
    report = write_report(tmp_path)
    assert [(r.mean_steps, r.invalid_rate, r.score.mean) for r in report.policies] == [(0.0, 0.0, 0.0)] * 2


def test_a_directory_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run at .*nowhere"):
        build_report(tmp_path / "nowhere")


def _terminal(report):
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render_table(report))
    return console.export_text()


def test_the_terminal_table_has_a_row_per_policy_and_split(finished_run):
    text = _terminal(build_report(finished_run))
    assert len(re.findall(r"eto-(?:un)?seen", text)) == 6
    assert text.count("[+") + text.count("[\N{MINUS SIGN}") == 4


def test_a_stage_that_was_set_aside_is_not_counted(run_dir):
    before = build_report(run_dir)
    shutil.copytree(run_dir / "stages" / "evaluate-sft", run_dir / "stages" / "evaluate-sft.stale-1")
    after = build_report(run_dir)
    assert (after.policies, [s.name for s in after.stages]) == (before.policies, [s.name for s in before.stages])


def test_several_samples_of_a_task_tell_the_best_of_them_and_count_tasks_once(run_dir):
    file = run_dir / "stages/evaluate-eto-1/episodes.jsonl"
    sampled = [played("eto-1", "eto-seen", t, v, 0.6, sample=k) for t in TYPES for v in range(3) for k in range(4)]
    write_lines(file, sampled)
    row = next(r for r in build_report(run_dir).policies if r.policy == "eto-1")
    tasks = {e["task_id"]: [x for x in sampled if x["task_id"] == e["task_id"]] for e in sampled}
    best = [max(x["score"] for x in own) for own in tasks.values()]
    solved = [any(x["success"] for x in own) for own in tasks.values()]
    assert (row.n, row.tasks, row.samples) == (48, 12, 4)
    assert row.best_of.mean == pytest.approx(sum(best) / 12)
    assert row.best_of.n == row.success_at.n == 12
    assert row.success_at.mean == pytest.approx(sum(solved) / 12)
    assert row.best_of.low <= row.best_of.mean <= row.best_of.high
    assert row.success.mean == pytest.approx(sum(x["success"] for x in sampled) / 48)
    write_report(run_dir)
    assert "Best of N" in (run_dir / "report.md").read_text()
    assert "Several samples of a task" in (run_dir / "report.html").read_text()
    file.write_text("".join(json.dumps(e) + "\n" for e in sampled[:-1]))  # the last task still lacks a sample
    assert next(r for r in build_report(run_dir).policies if r.policy == "eto-1").best_of.n == 11


def test_the_best_policy_is_named_by_its_dev_tasks_with_its_checkpoint(run_dir):
    for policy, skill, stage in (("sft", 0.9, "sft"), ("eto-1", 0.2, "dpo-1")):
        episodes = played_by(policy, "dev", 3, skill)
        write_lines(run_dir / f"stages/dev-{policy}/episodes.jsonl", episodes)
        write_done(run_dir / "stages", f"dev-{policy}", "dev", 9, {"policy": policy})
        done = run_dir / f"stages/dev-{policy}/done.json"
        done.write_text(json.dumps({**json.loads(done.read_text()), "inputs": {f"{stage}/checkpoint/manifest.json": "ab" * 32}}))
    report = build_report(run_dir)
    assert [(r.policy, r.best, r.n) for r in report.dev] == [("sft", True, 12), ("eto-1", False, 12)]
    assert report.best.checkpoint == "stages/sft/checkpoint"
    assert [s.name for s in report.stages if s.kind == "dev"] == ["dev-sft", "dev-eto-1"]
    assert {r.split for r in report.policies} == {"eto-seen", "eto-unseen"}  # dev scores are no results
    write_report(run_dir)
    assert "| sft | dev | 12 |" in (run_dir / "report.md").read_text()
    assert "sft (best)" in (run_dir / "report.html").read_text()
    console = Console(width=160, record=True)
    console.print(render_table(report))
    assert "best by the dev tasks (dev): sft" in console.export_text()
