"""Reports of run directories: finished, half-way, torn, and with hostile text inside."""

import json
import math
import random
import re
import shutil
from html.parser import HTMLParser

import pytest
from orchestrator.jsonl import DataFileError
from orchestrator.report import build_report, render_table, write_report
from rich.console import Console

TYPES = {
    "task-1-boil": ("boil water", ["open door to kitchen", "go to kitchen", "pick up thermometer", "activate stove"]),
    "task-4-find-plant": ("find a plant", ["go to outside", "focus on elephant", "pick up flower pot 3"]),
    "task-5-grow-fruit": ("grow a lemon", ["go to greenhouse", "pick up seed jar", "move seed to flower pot 1", "wait"]),
    "task-10-use-thermometer": ("measure the temperature of chocolate", ["focus on thermometer", "use thermometer"]),
}


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _lines(path, records):
    _write(path, "".join(json.dumps(r) + "\n" for r in records))


def _prompt(task):
    return [
        {"role": "user", "content": "You are an agent for science world. Interact with the environment to solve a task."},
        {"role": "assistant", "content": "OK"},
        {"role": "user", "content": f"Your task is to {task}. First, focus on the substance.\nThis room is called the hallway."},
    ]


def _episode(policy, split, task_type, variation, skill, sample=0):
    """A played episode: the same task starts the same way under every policy, then skill decides."""
    task, actions = TYPES[task_type]
    common, own = random.Random(f"{task_type}{variation}"), random.Random(f"{policy}{split}{task_type}{variation}{sample}")
    hard = common.random()
    goal = round(min(1.0, max(0.0, skill + own.uniform(-0.3, 0.3) - 0.4 * (hard - 0.5))), 2)
    length = own.randint(3, 14)
    messages, steps, score = _prompt(task), [], 0.0
    for k in range(length):
        action = actions[k] if k < min(2, len(actions)) else own.choice([*actions, f"look at object {k}"])
        valid = own.random() > 0.25 * (1 - skill)
        thought = f"Thought: I should now {action} because step {k + 1} of the plan asks for it.\nAction: {action}"
        messages.append({"role": "assistant", "content": thought if valid else "I am not sure what to do."})
        answer = f"You {action}. The door is open, you see:\n\ta substance called air" if valid else "No known action."
        messages.append({"role": "user", "content": f"Observation: {answer}"})
        new = round(goal * max(0, k - 1) / (length - 2), 4)  # the way there earns nothing
        steps.append(
            {
                "action": action if valid else None,
                "reward": new - score,
                "score": new,
                "valid": valid,
                "prompt_tokens": 900 + 60 * k,
                "completion_tokens": 30,
                "policy_s": 0.4,
                "env_s": 0.01,
            }
        )
        score = new
    return {
        "schema": "eto.episode/1",
        "env": "sciworld",
        "task_id": f"{task_type}:{variation}",
        "task_type": task_type,
        "split": split,
        "sample": sample,
        "seed": 0,
        "policy": policy,
        "model": {"name": "policy", "version": None if policy == "expert" else f"{policy}-0123456789"[:12]},
        "messages": messages,
        "prompt_messages": 3,
        "example": None,
        "steps": steps,
        "reward": score,
        "score": score,
        "success": score >= 0.75,
        "terminate_reason": "terminated" if score >= 0.75 else "step_limit",
        "usage": {"prompt_tokens": sum(s["prompt_tokens"] for s in steps), "completion_tokens": 30 * length},
        "started_at": "2026-03-01T10:00:00Z",
        "duration_s": 4.2,
        "code_version": "abc1234",
    }


def _episodes(policy, split, variations, skill):
    return [_episode(policy, split, t, v, skill) for t in TYPES for v in range(variations)]


def _pairs(policy, explored, expert_turns):
    return [
        {
            "schema": "eto.pair/1",
            "env": "sciworld",
            "task_id": e["task_id"],
            "outcome": "lose",
            "prompt": e["messages"][:3],
            "chosen": e["messages"][3:8][:expert_turns],
            "rejected": e["messages"][3:-1],
            "chosen_reward": 1.0,
            "rejected_reward": e["reward"],
            "chosen_policy": "expert",
            "rejected_policy": policy,
        }
        for e in explored
        if e["reward"] < 1
    ]


def _progress(method, steps):
    rng = random.Random(method)
    yield {"event": "start", "method": method, "examples": 320, "dropped": {}, "tokens": 1000, "steps": steps}
    for k in range(1, steps + 1):
        x = k / steps
        event = {"event": "step", "step": k, "steps": steps, "epoch": 3 * x, "learning_rate": 2e-5 * (1 - x)}
        event |= {"loss": 2.1 * math.exp(-3 * x) + 0.2 + rng.gauss(0, 0.03), "grad_norm": 1.0, "elapsed_s": 2.0 * k}
        if method == "dpo":
            event |= {"loss": 0.69 - 0.4 * x + rng.gauss(0, 0.03), "margin": 2.4 * x + rng.gauss(0, 0.1)}
            event |= {"accuracy": min(1.0, 0.5 + 0.45 * x + rng.gauss(0, 0.02)), "reward_chosen": x, "reward_rejected": -x}
            event |= {"logp_chosen": -82 - 4 * x + rng.gauss(0, 1), "logp_rejected": -96 - 24 * x + rng.gauss(0, 1)}
        yield event
    yield {"event": "end", "output": "checkpoint", "elapsed_s": 2.0 * steps, "final": {"loss": 0.2}}


def _done(stages, name, kind, number, summary):
    record = {"schema": "eto.stage/1", "stage": name, "kind": kind, "started_at": f"2026-03-01T1{number}:00:00Z"}
    record |= {"duration_s": 61.5 * (number + 1), "inputs": {"config.yaml": "ab" * 32}, "outputs": {}, "summary": summary}
    _write(stages / name / "done.json", json.dumps(record))


def make_run(run_dir, variations=4, splits=("eto-seen", "eto-unseen"), steps=30, iterations=1):
    """A finished run with a base, an SFT and ETO policies."""
    _write(run_dir / "config.yaml", "name: demo\nmodel: tiny-llama\nenv:\n  name: sciworld\niterations: 1\nseed: 0\n")
    manifest = {"schema": "eto.run/1", "name": "demo", "run_id": "demo-20260301-100000", "created_at": "2026-03-01T10:00:00Z"}
    _write(run_dir / "manifest.json", json.dumps(manifest | {"code_version": "abc1234", "config_sha256": "cd" * 32}))
    stages = run_dir / "stages"
    _done(stages, "init", "init", 0, {})
    experts = _episodes("expert", "eto-train", variations, 1.3)
    _lines(stages / "experts" / "episodes.jsonl", experts)
    _done(stages, "experts", "experts", 1, {"episodes": len(experts)})

    def evaluate(policy, skill, number):
        episodes = [e for i, s in enumerate(splits) for e in _episodes(policy, s, variations, skill - 0.08 * i)]
        random.Random(number).shuffle(episodes)
        _lines(stages / f"evaluate-{policy}" / "episodes.jsonl", episodes)
        _done(stages, f"evaluate-{policy}", "evaluate", number, {"policy": policy, "split": list(splits)})

    def train(name, kind, number):
        _lines(stages / name / "checkpoint.progress.jsonl", _progress(kind, steps))
        versions = {"torch": "2.9.0", "trl": "0.25.0"}
        checkpoint = {"schema": "eto.checkpoint/1", "base_model": "tiny-llama", "versions": versions}
        _write(stages / name / "checkpoint" / "manifest.json", json.dumps(checkpoint))
        _done(stages, name, kind, number, {"loss": 0.21})

    evaluate("base", 0.12, 2)
    train("sft", "sft", 3)
    evaluate("sft", 0.5, 4)
    for i in range(1, iterations + 1):
        explored = _episodes("sft" if i == 1 else f"eto-{i - 1}", "eto-train", variations, 0.5)
        _lines(stages / f"explore-{i}" / "episodes.jsonl", explored)
        _done(stages, f"explore-{i}", "explore", 5, {"episodes": len(explored)})
        pairs = _pairs("sft", explored, 5)
        _lines(stages / f"pairs-{i}" / "pairs.jsonl", pairs)
        counts = {"win": 1, "tie": 2, "lose": len(pairs), "pairs": len(pairs), "dropped": {"no expert": 1}}
        _done(stages, f"pairs-{i}", "pairs", 6, counts)
        train(f"dpo-{i}", "dpo", 7)
        evaluate(f"eto-{i}", 0.6 + 0.05 * i, 8)
    return run_dir


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
        _lines(path, episodes)
        done = json.loads((stages / name / "done.json").read_text())
        done["summary"] = {attack: attack, "policy": attack + name}
        _write(stages / name / "done.json", json.dumps(done | {"started_at": attack, "inputs": {attack: attack}}))
    pairs = [json.loads(line) for line in (stages / "pairs-1" / "pairs.jsonl").read_text().splitlines()]
    _lines(stages / "pairs-1" / "pairs.jsonl", [p | {"rejected_policy": attack, "prompt": [_prompt(attack)[2]]} for p in pairs])
    with open(stages / "sft" / "checkpoint.progress.jsonl", "a") as f:
        f.write(json.dumps({"event": "step", "step": 31, attack: 1.0}) + "\n")
        f.write(json.dumps({"event": "error", "message": attack}) + "\n")
    manifest = {"name": attack, "run_id": attack, "created_at": attack, "code_version": attack, "config_sha256": attack}
    _write(run_dir / "manifest.json", json.dumps(manifest))
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
    _write(run_dir / "manifest.json", "{")
    _write(run_dir / "config.yaml", "a: [")
    _write(run_dir / "stages" / "sft" / "done.json", "")
    report = write_report(run_dir)
    assert "manifest.json is not JSON" in report.notes
    assert "config.yaml is not YAML" in report.notes
    assert "stage sft is unfinished" in report.notes


def test_a_single_episode_has_a_row_but_no_interval(tmp_path):
    _lines(tmp_path / "stages" / "evaluate-base" / "episodes.jsonl", [_episode("base", "s", "task-1-boil", 0, 0.5)])
    report = write_report(tmp_path)
    assert report.policies[0].n == 1
    assert "[" not in _terminal(report).splitlines()[-2]


def test_an_episode_without_steps_is_counted(tmp_path):
    episode = _episode("base", "s", "task-1-boil", 0, 0.0) | {"steps": [], "terminate_reason": "context_overflow"}
    episode["messages"] = episode["messages"][:3]
    episode |= {"score": 0.0, "reward": 0.0}
    for policy in ("base", "sft"):
        _lines(tmp_path / "stages" / f"evaluate-{policy}" / "episodes.jsonl", [episode | {"policy": policy}])
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
