"""The live page in a real Chromium. ETO_UI_SHOTS=FOLDER keeps a screenshot of every page at both widths, light and dark."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe
from orchestrator.run_store import RunStore
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from run_builder import make_run, played_by, write_lines

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PATIENCE_MS = 120_000
TASK = "task-1-boil:0"
PAGES = {
    "runs": "/",
    "run": "/runs/demo",
    "running": "/runs/running",
    "episodes": "/runs/demo/episodes",
    "episode": f"/runs/demo/episode?stage=evaluate-sft&task={quote(TASK)}",
    "side-by-side": f"/runs/demo/compare?task={quote(TASK)}&left=evaluate-sft&right=evaluate-eto-1",
    "pairs": "/runs/demo/pairs",
    "pair": "/runs/demo/pair?stage=pairs-1&line=1",
    "compare": "/compare?a=demo:sft&b=demo:eto-1",
    "missing": "/runs/none",
}
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: apt install chromium"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "demo", variations=8, splits=("eto-seen",))
    make_run(folder / "running", splits=("eto-seen",))
    play(folder, 7)
    return folder


def play(runs: Path, episodes: int) -> None:
    """The run as it is after so many episodes of its last stage."""
    stage = runs / "running/stages/evaluate-eto-1"
    (stage / "done.json").unlink(missing_ok=True)
    write_lines(stage / "episodes.jsonl", played_by("eto-1", "eto-seen", 4, 0.6)[:episodes])


@pytest.fixture(scope="module")
def server(runs: Path) -> Iterator[str]:
    """`eto ui` as a person starts it."""
    command = [str(Path(sys.executable).with_name("eto")), "ui", "--runs", str(runs), "--port", "0"]
    environment = {k: v for k, v in os.environ.items() if k != "ETO_UI_TOKEN"} | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        yield said.split(": ")[1].split("/  ")[0]
        process.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=PATIENCE_MS)
        yield browser
        browser.close()


def context(browser: Browser, **settings: object) -> BrowserContext:
    made = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})  # type: ignore[arg-type]
    made.set_default_timeout(PATIENCE_MS)
    return made


@pytest.fixture
def page(browser: Browser, server: str) -> Iterator[Page]:
    with context(browser, base_url=server) as made:
        yield made.new_page()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_every_page_fits_says_nothing_wrong_and_asks_only_its_own_server(
    browser: Browser, server: str, runs: Path, size: str, scheme: str
) -> None:
    width, height = SIZES[size]
    shots = os.environ.get("ETO_UI_SHOTS")
    with (
        RunStore(runs / "running").locked(),
        context(browser, base_url=server, viewport={"width": width, "height": height}, color_scheme=scheme) as made,
    ):
        tab = made.new_page()
        faults, asked = [], []
        tab.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda e: faults.append(str(e)))
        tab.on("request", lambda r: asked.append(r.url))
        for name, address in PAGES.items():
            tab.goto(address)
            assert tab.evaluate("document.documentElement.scrollWidth") <= width, name
            dark = tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0] < 60")
            assert dark == (scheme == "dark"), name
            small = (
                "[...document.querySelectorAll('main a, main button, main input, main select')].filter(e => !e.textContent && !e.labels)"
            )
            assert tab.evaluate(f"{small}.length") == 0, name
            if shots:
                Path(shots).mkdir(parents=True, exist_ok=True)
                tab.screenshot(path=f"{shots}/{name}-{size}-{scheme}.png")
        assert [f for f in faults if "404" not in f] == []
        assert [url for url in asked if not url.startswith((server, "data:"))] == []


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_axe_finds_nothing_serious_on_any_page(browser: Browser, server: str, size: str, scheme: str) -> None:
    width, height = SIZES[size]
    found = []
    with context(browser, base_url=server, viewport={"width": width, "height": height}, color_scheme=scheme) as made:
        tab = made.new_page()
        for name, address in PAGES.items():
            tab.goto(address)
            for fault in Axe().run(tab).response["violations"]:
                if fault["impact"] in ("serious", "critical"):
                    found += [(name, fault["id"], node["html"][:160], node["failureSummary"][:300]) for node in fault["nodes"][:3]]
    assert found == []


def ready(page: Page) -> None:
    """Wait until the page's script hears keys, which it shows by its button."""
    expect(page.locator("[data-keys]")).to_be_visible(timeout=PATIENCE_MS)


def test_keys_search_walk_open_and_go_back(page: Page) -> None:
    page.goto("/runs/demo/episodes?in=evaluate-sft")
    ready(page)
    page.keyboard.press("/")
    page.keyboard.type("thermometer")
    page.keyboard.press("Enter")
    page.wait_for_url("**/episodes?*q=thermometer*")
    ready(page)
    page.keyboard.press("j")
    page.keyboard.press("j")
    second = page.locator("[data-row] a").nth(1)
    expect(second).to_be_focused()
    task = second.text_content()
    page.keyboard.press("Enter")
    page.wait_for_url("**/episode?*")
    ready(page)
    assert page.locator("h1").text_content() == task
    page.keyboard.press("j")
    expect(page.locator("#turn-1 .number a")).to_be_focused()
    page.keyboard.press("n")
    page.wait_for_function("task => document.querySelector('h1').textContent !== task", arg=task)
    ready(page)
    assert "3 of " in (page.locator("nav.pager").first.text_content() or "")
    page.keyboard.press("u")
    page.wait_for_url("**/episodes?*q=thermometer*")


def test_the_list_of_keys_opens_and_closes(page: Page) -> None:
    page.goto("/")
    ready(page)
    page.keyboard.press("?")
    expect(page.locator("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()


def test_a_filter_applies_when_it_is_chosen_and_its_address_can_be_shared(page: Page, browser: Browser) -> None:
    page.goto("/runs/demo/episodes")
    page.get_by_label("Task type").select_option("task-1-boil")
    page.wait_for_url("**/episodes?type=task-1-boil")
    shown = page.locator("tbody tr").count()
    with context(browser) as other:
        tab = other.new_page()
        tab.goto(page.url)
        assert tab.locator("tbody tr").count() == shown
        assert tab.get_by_label("Task type").input_value() == "task-1-boil"


def test_d_leads_to_where_two_trajectories_part(page: Page) -> None:
    page.goto("/runs/demo/pair?stage=pairs-1&line=1")
    ready(page)
    page.keyboard.press("d")
    expect(page.locator("#parting")).to_be_in_viewport()


def test_a_page_follows_a_run_and_keeps_what_is_open(page: Page, runs: Path) -> None:
    play(runs, 7)
    with RunStore(runs / "running").locked():
        page.goto("/runs/running")
        expect(page.locator("#progress")).to_contain_text("is at 7")
        page.get_by_text("Resolved config").click()
        play(runs, 9)
        expect(page.locator("#progress")).to_contain_text("is at 9", timeout=PATIENCE_MS)
        expect(page.locator("#progress svg.chart")).to_be_visible()
        expect(page.locator("#results")).to_contain_text("eto-1 (unfinished)9", timeout=PATIENCE_MS)  # the report, counted anew
        expect(page.locator("#config pre").first).to_be_visible()
    expect(page.locator("#progress")).to_contain_text("was at 9", timeout=PATIENCE_MS)


def test_text_of_a_model_is_never_run(page: Page, runs: Path) -> None:
    evil = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
    episode = played_by("sft", "eto-seen", 1, 0.5)[0]
    for message in episode["messages"][3:]:
        message["content"] = f"Thought: {evil}\nAction: {evil}"
    make_run(runs / "hostile", variations=1, splits=("eto-seen",))
    write_lines(runs / "hostile/stages/evaluate-sft/episodes.jsonl", [episode])
    page.goto(f"/runs/hostile/episode?stage=evaluate-sft&task={quote(episode['task_id'])}")
    expect(page.locator("#turn-1")).to_contain_text("onerror")
    assert "taken" not in page.title()
    assert page.locator("main img").count() == 0
    shutil.rmtree(runs / "hostile")


def test_everything_works_without_script(browser: Browser, server: str) -> None:
    with context(browser, base_url=server, java_script_enabled=False) as made:
        tab = made.new_page()
        tab.goto("/runs/demo/episodes")
        tab.locator("select[name=success]").select_option("yes")
        tab.get_by_role("button", name="Show").click()
        successes = tab.locator("tbody td:nth-child(4)").all_text_contents()
        assert successes
        assert set(successes) == {"yes"}
        tab.locator("tbody a").first.click()
        expect(tab.locator("#turn-1")).to_be_visible()
