"""The live page, asked over HTTP: what it shows, whom it answers, and that no run directory breaks it."""

import json
import re
import shutil

import pytest
from fastapi.testclient import TestClient
from orchestrator.run_store import RunStore
from orchestrator.ui import records_index
from orchestrator.ui.app import create_app
from run_builder import make_run, played, played_by, write, write_lines

TOKEN = "0123456789abcdef-secret"  # noqa: S105 - of the tests
TASK = "task-1-boil:0"
PAGES = {
    "runs": "/",
    "run": "/runs/demo",
    "live": "/runs/demo/live",
    "numbers": "/runs/demo/numbers",
    "episodes": "/runs/demo/episodes",
    "search": "/runs/demo/episodes?q=kitchen",
    "episode": f"/runs/demo/episode?stage=evaluate-sft&task={TASK}",
    "side by side": f"/runs/demo/compare?task={TASK}&left=evaluate-base&right=evaluate-sft",
    "pairs": "/runs/demo/pairs",
    "pair": "/runs/demo/pair?stage=pairs-1&line=1",
    "compare": "/compare?a=demo:base&b=demo:sft",
    "report": "/runs/demo/report.html",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "demo", splits=("eto-seen",))


@pytest.fixture
def runs(finished, tmp_path):
    """A folder with a run of the test's own, to damage."""
    shutil.copytree(finished, tmp_path / "demo")
    return tmp_path


def client(runs, token=None):
    return TestClient(create_app(runs, token), base_url="http://127.0.0.1")


@pytest.fixture(scope="module")
def shown(finished):
    return client(finished.parent)


def text_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.text))


@pytest.mark.parametrize("page", PAGES)
def test_every_page_answers_and_runs_only_our_own_script_and_style(shown, page):
    answer = shown.get(PAGES[page])
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    if page != "report":  # a download, which has its own style inside
        assert " style=" not in answer.text
        assert not re.search(r"<script(?! src=\"/static/)|\son[a-z]+=", answer.text)
    assert not re.search(r"(src|href)=\"(https?:)?//", answer.text)
    assert "=&#34;" not in answer.text  # an attribute whose quotes were escaped


def test_the_list_tells_state_stages_and_the_last_score(shown):
    text = text_of(shown.get("/"))
    for part in ("demo", "9 of 9", "eto-1"):
        assert part in text


def test_a_runs_page_holds_the_reports_tables_charts_and_heat_map(shown):
    text = shown.get("/runs/demo").text
    for part in ('id="results"', 'id="types"', 'class="chart"', "Reward against steps", "task-10-use-thermometer", 'class="v'):
        assert part in text


def test_filters_and_search_choose_episodes(shown):
    everything = shown.get("/runs/demo/episodes").text
    assert "80 episodes" in everything
    assert "Shown: 1 to 50" in everything
    one_type = text_of(shown.get("/runs/demo/episodes?in=evaluate-sft&type=task-1-boil"))
    assert "4 episodes" in one_type
    found = text_of(shown.get("/runs/demo/episodes?in=evaluate-sft&q=THERMOMETER"))
    assert 0 < int(re.search(r"(\d+) episodes?, mean", found)[1]) < 16
    assert "No episode passes this filter" in shown.get("/runs/demo/episodes?q=nowhere-to-be-found").text


def test_the_instruction_which_is_the_same_everywhere_is_not_searched(shown):
    assert "No episode passes" in shown.get("/runs/demo/episodes?q=science+world").text


def test_a_trajectory_shows_thought_action_observation_and_reward_of_each_step(shown, finished):
    lines = (finished / "stages/evaluate-sft/episodes.jsonl").read_text().splitlines()
    episode = next(e for e in map(json.loads, lines) if e["task_id"] == TASK)
    text = text_of(shown.get(PAGES["episode"]))
    first = episode["messages"][3]["content"]
    assert first.partition("Action:")[0].removeprefix("Thought:").strip() in text
    assert episode["steps"][0]["action"] in text
    assert f"Ended after {len(episode['steps'])} turns" in text
    assert text.count("reward") >= len(episode["steps"])


def test_two_trajectories_stand_side_by_side_with_the_turn_where_they_part(shown):
    page = shown.get(PAGES["side by side"]).text
    assert page.count('id="parting"') == 1
    assert "First divergence, turn" in page
    assert 'id="parting"' in shown.get(PAGES["pair"]).text


def test_the_neighbours_of_an_episode_are_those_of_the_filter(shown):
    listed = re.findall(r'href="(/runs/demo/episode\?[^"]+)"', shown.get("/runs/demo/episodes?in=evaluate-sft&sort=score").text)
    second = shown.get(listed[1].replace("&amp;", "&")).text
    assert "2 of 16" in second
    assert f'rel="prev" href="{listed[0]}"' in second
    assert f'rel="next" href="{listed[2]}"' in second


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/runs/none", 404),
        ("/runs/%00", 404),
        ("/runs/%ff", 404),
        ("/runs/" + 300 * "a", 404),
        ("/runs/%2e%2e%2fetc", 404),
        ("/runs/demo/episode?stage=../../etc&task=x", 404),
        ("/runs/demo/episode?stage=evaluate-sft&task=none", 404),
        ("/runs/demo/episode?stage=evaluate-sft", 422),
        ("/runs/demo/episodes?page=0", 422),
        ("/runs/demo/episodes?page=x", 422),
        ("/runs/demo/episodes?page=999999", 200),
        ("/runs/demo/episodes?q=%00%ff", 200),
        ("/runs/demo/episodes?in=no-such-stage", 200),
        ("/runs/demo/pair?stage=pairs-1&line=99999", 404),
        ("/runs/demo/pair?stage=..&line=1", 404),
        ("/compare?a=none:x&b=demo:sft", 200),
        ("/compare?a=demo:none&b=demo:sft", 200),
        ("/static/../app.py", 404),
        ("/openapi.json", 404),
    ],
)
def test_a_wrong_address_is_told_on_a_page(shown, address, status):
    answer = shown.get(address)
    assert answer.status_code == status
    assert "<h1>" in answer.text
    assert "Traceback" not in answer.text


def test_text_of_models_environments_and_files_is_escaped(runs):
    evil = "<img src=x onerror=alert(1)>\"'&{{7*7}}"
    hostile = played("sft", "eto-seen", "task-1-boil", 0, 0.5)
    hostile |= {"task_id": f"{evil}:0", "task_type": evil, "split": evil, "policy": evil}
    for message in hostile["messages"]:
        message["content"] = f"Thought: {evil}\nAction: {evil}"
    for step in hostile["steps"]:
        step["action"] = evil
    for stage in ("evaluate-sft", "evaluate-eto-1"):
        write_lines(runs / "demo/stages" / stage / "episodes.jsonl", [hostile])
    write(runs / "demo/manifest.json", json.dumps({"run_id": evil, "created_at": evil, "code_version": evil}))
    web, task = client(runs), {"task": f"{evil}:0"}
    pages = [
        web.get("/"),
        web.get("/runs/demo"),
        web.get("/runs/demo/episodes", params={"q": evil, "type": evil}),
        web.get("/runs/demo/episode", params={**task, "stage": "evaluate-sft"}),
        web.get("/runs/demo/compare", params={**task, "left": "evaluate-sft", "right": "evaluate-eto-1"}),
    ]
    for page in pages:
        assert page.status_code == 200
        assert "<img" not in page.text
        assert "{{7*7}}" in page.text or page is pages[0]
        assert ">49<" not in page.text


DAMAGE = {
    "nothing": b"",
    "half of it": None,
    "another kind of JSON": b"[1, 2]\n",
    "a number": b"7\n",
    "wrong types": b'{"stage": [], "kind": {}, "summary": 3, "event": "step", "step": "x", "name": {}, "created_at": [], "inputs": 1}\n',
    "not UTF-8": b"\xff\xfe\x00\x81\n",
    "brackets without end": b"[" * 100_000 + b"\n",
    "no numbers": b'{"event": "step", "step": 1e999, "steps": NaN, "loss": -Infinity, "summary": {"episodes": NaN, "pairs": "x"}}\n',
}
FILES = [
    "config.yaml",
    "manifest.json",
    "stages/evaluate-sft/done.json",
    "stages/evaluate-sft/episodes.jsonl",
    "stages/experts/done.json",
    "stages/pairs-1/pairs.jsonl",
    "stages/pairs-1/done.json",
    "stages/sft/checkpoint.progress.jsonl",
    "stages/sft/checkpoint/manifest.json",
]


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_never_breaks_a_page(tmp_path, file):
    path = make_run(tmp_path / "demo", variations=1, splits=("eto-seen",), steps=3) / file
    whole = path.read_bytes()
    for name, damage in DAMAGE.items():
        path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
        web = client(tmp_path)  # a new one, which remembers no report
        for page in PAGES.values():
            assert web.get(page).status_code in (200, 404, 409), (name, page)
    path.unlink()
    path.mkdir()
    assert all(client(tmp_path).get(page).status_code in (200, 404, 409) for page in PAGES.values())


def test_a_damaged_line_is_left_out_and_told(runs):
    file = runs / "demo/stages/evaluate-sft/episodes.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:3], b'{"schema": "eto.episode/1"}\n', *lines[3:]]))
    web = client(runs)
    for page in ("/runs/demo", "/runs/demo/episodes"):
        text = text_of(web.get(page))
        assert "evaluate-sft: 1 line of its file cannot be read" in text
    assert "16 episodes" in text_of(web.get("/runs/demo/episodes?in=evaluate-sft"))
    assert "The report cannot be counted" in web.get("/runs/demo").text


@pytest.mark.parametrize("kept", [(), ("config.yaml",), ("stages",)])
def test_a_run_of_which_little_is_left_has_a_page_with_notes(runs, kept):
    for path in (runs / "demo").iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    answer = client(runs).get("/runs/demo")
    assert answer.status_code == (200 if kept else 404)
    if kept:
        assert "manifest.json is missing" in answer.text


def running(runs, episodes):
    """The run as it is while its last evaluation is played."""
    stage = runs / "demo/stages/evaluate-eto-1"
    (stage / "done.json").unlink(missing_ok=True)
    write_lines(stage / "episodes.jsonl", episodes)


def test_a_running_stage_shows_episodes_running_mean_and_chart(runs):
    episodes = played_by("eto-1", "eto-seen", 4, 0.6)
    running(runs, episodes[:5])
    web = client(runs)
    with RunStore(runs / "demo").locked():
        text = text_of(web.get("/runs/demo/live"))
        mean = sum(e["score"] for e in episodes[:5]) / 5
        assert "running" in text
        assert f"evaluate-eto-1 is at 5 episodes, mean score {mean:.3f}" in text
        assert "Running mean of the score, evaluate-eto-1" in text
        running(runs, episodes[:9])
        assert "is at 9 episodes" in text_of(web.get("/runs/demo/live"))
    assert "was at 9 episodes" in text_of(web.get("/runs/demo/live"))


def test_a_growing_file_is_read_once(runs, monkeypatch):
    parsed = []
    real = records_index.episode_row

    def counting(*of):
        parsed.append(of[3].task_id)
        return real(*of)

    monkeypatch.setattr("orchestrator.ui.library.episode_row", counting)
    episodes = played_by("eto-1", "eto-seen", 4, 0.6)
    running(runs, episodes[:5])
    web = client(runs)
    for _ in range(3):
        web.get("/runs/demo/episodes?in=evaluate-eto-1")
    first = len(parsed)
    with open(runs / "demo/stages/evaluate-eto-1/episodes.jsonl", "a") as file:
        file.write(json.dumps(episodes[5]) + "\n" + json.dumps(episodes[6])[:50])  # and a line that is being written
    text = text_of(web.get("/runs/demo/episodes?in=evaluate-eto-1"))
    assert "6 episodes" in text
    assert len(parsed) == first + 1


def test_a_file_that_was_written_anew_is_read_anew(runs):
    episodes = played_by("eto-1", "eto-seen", 4, 0.6)
    running(runs, episodes)
    web = client(runs)
    assert "16 episodes" in text_of(web.get("/runs/demo/episodes?in=evaluate-eto-1"))
    running(runs, episodes[:3])
    assert "3 episodes" in text_of(web.get("/runs/demo/episodes?in=evaluate-eto-1"))


def test_only_this_machines_names_are_answered_without_a_token(shown):
    for host, status in (("localhost:8080", 200), ("127.0.0.1", 200), ("[::1]:8080", 200), ("evil.example", 421), ("", 421)):
        assert shown.get("/", headers={"host": host}).status_code == status, host


def test_with_a_token_nothing_is_shown_without_it(runs):
    web = client(runs, TOKEN)
    for page in PAGES.values():
        answer = web.get(page)
        assert answer.status_code == 401
        assert "eto-1" not in answer.text
        assert "task-4-find-plant" not in answer.text
    assert web.get("/", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert web.get("/", headers={"authorization": "Bearer wrong"}).status_code == 401


def test_the_right_token_opens_the_page_that_was_asked_for(runs):
    web = client(runs, TOKEN)
    wrong = web.post("/login", content="token=no&next=/runs/demo")
    assert wrong.status_code == 401
    right = web.post("/login", content=f"token={TOKEN}&next=/runs/demo", follow_redirects=False)
    assert right.headers["location"] == "/runs/demo"
    assert TOKEN not in right.headers["set-cookie"]
    assert "HttpOnly" in right.headers["set-cookie"]
    assert web.get("/runs/demo").status_code == 200


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example/x", "/\\evil.example", "javascript:alert(1)"])
def test_a_login_never_leads_elsewhere(runs, target):
    answer = client(runs, TOKEN).post("/login", data={"token": TOKEN, "next": target}, follow_redirects=False)
    assert re.fullmatch(r"/([^/\\].*)?", answer.headers["location"])


def test_an_empty_folder_says_what_to_do(tmp_path):
    assert "eto init" in client(tmp_path / "none").get("/").text
