#!.venv/bin/python
"""The screenshots of docs/screenshots: every page of `eto ui`, on a run of your own, at desktop and phone width.

    docs/screenshots/make.py RUN_DIRECTORY [--out docs/screenshots]

The run must have evaluated two policies. A copy of it, cut off in its last evaluation, stands for one that is being carried out.
"""

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from orchestrator.report import write_report
from orchestrator.report.load import load_run
from orchestrator.run_store import RunStore
from playwright.sync_api import Page, sync_playwright

#: Width and height of the window, and the height at which a long page is cut, in pixels.
SIZES = {"desktop": (1280, 860, 1500), "phone": (390, 844, 1700)}
QUALITY = 62
PATIENCE_MS = 120_000
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
TOKEN = "a-token-of-at-least-16"  # noqa: S105 - of a server that lives for a minute


def pages(run: Path) -> dict[str, str]:
    """Every page's name and address."""
    stages = load_run(run).stages
    before, last = [s for s in stages if s.kind == "evaluate" and s.episodes][-2:]
    # a task on which the later policy gained shows most
    old = {e.task_id: e for e in before.episodes}
    best = max((e for e in last.episodes if e.task_id in old), key=lambda e: (e.score - old[e.task_id].score, e.task_id))
    pairs = next(s for s in stages if s.kind == "pairs" and s.pairs)
    name, task = run.name, quote(best.task_id)
    return {
        "runs": "/",
        "run": f"/runs/{name}",
        "running": "/runs/under-way",
        "episodes": f"/runs/{name}/episodes",
        "episode": f"/runs/{name}/episode?stage={last.name}&task={task}",
        "side-by-side": f"/runs/{name}/compare?task={task}&left={before.name}&right={last.name}",
        "pairs": f"/runs/{name}/pairs",
        "pair": f"/runs/{name}/pair?stage={pairs.name}&line=1",
        "compare": f"/compare?a={name}:{before.policy}&b={name}:{last.policy}",
        "missing": "/runs/none",
    }


def cut_off(run: Path, copy: Path) -> None:
    """The run as it was in the middle of its last evaluation."""
    shutil.copytree(run, copy)
    last = [s for s in load_run(copy).stages if s.kind == "evaluate"][-1]
    file = copy / "stages" / last.name / "episodes.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[: len(lines) * 2 // 5]))
    (copy / "stages" / last.name / "done.json").unlink()
    manifest = copy / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "name": copy.name}))


@contextmanager
def served(runs: Path, **environment: str) -> Iterator[str]:
    """`eto ui` on a free port; its address."""
    command = [str(Path(sys.executable).with_name("eto")), "ui", "--runs", runs.name, "--port", "0"]
    known = {k: v for k, v in os.environ.items() if k != "ETO_UI_TOKEN"} | {"PYTHONUNBUFFERED": "1", **environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=known, cwd=runs.parent) as process:
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        try:
            yield process.stdout.readline().split(": ")[1].split("/  ")[0]
        finally:
            process.terminate()


def shoot(page: Page, file: Path, width: int, tallest: int) -> int:
    """Keep what the page shows as WebP; returns its bytes."""
    height = min(tallest, page.evaluate("document.documentElement.scrollHeight"))
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    session = page.context.new_cdp_session(page)
    options = {"format": "webp", "quality": QUALITY, "captureBeyondViewport": True, "clip": clip}
    file.write_bytes(base64.b64decode(session.send("Page.captureScreenshot", options)["data"]))
    return file.stat().st_size


def main() -> None:
    """Make them all, and the page that shows them."""
    parser = argparse.ArgumentParser(description="Screenshots of every page.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--scheme", choices=["light", "dark"], default="light")
    options = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("no chromium on PATH: apt install chromium")
    total = 0
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        runs = Path(scratch) / "runs"
        shutil.copytree(options.run, runs / options.run.name)
        cut_off(options.run, runs / "under-way")
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS, timeout=PATIENCE_MS)
        with RunStore(runs / "under-way").locked(), served(runs) as url, served(runs, ETO_UI_TOKEN=TOKEN) as guarded:
            addresses = {n: url + a for n, a in pages(runs / options.run.name).items()}
            # the page sends the report as a file to keep
            write_report(runs / options.run.name)
            addresses |= {"report": (runs / options.run.name / "report.html").as_uri(), "login": f"{guarded}/"}
            for size, (width, height, tallest) in SIZES.items():
                viewport = {"width": width, "height": height}
                with browser.new_context(viewport=viewport, color_scheme=options.scheme, locale="en-GB") as context:  # type: ignore[arg-type]
                    context.set_default_timeout(PATIENCE_MS)
                    page = context.new_page()
                    for name, address in addresses.items():
                        page.goto(address, wait_until="load")
                        if name in ("run", "running"):
                            page.locator("#results").wait_for()
                        total += shoot(page, options.out / f"{name}-{size}.webp", width, tallest)
                        print(f"{name}-{size}.webp", flush=True)
        browser.close()
    print(f"{total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
