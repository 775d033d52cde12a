"""What the pages say, tried."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("services/*/README.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_every_path_in_the_table_of_changes_exists() -> None:
    for page in ("CONTRIBUTING.md", "docs/differences.md"):
        paths = re.findall(r"`((?:services|orchestrator|docs|tests)/[^`]+)`", (ROOT / page).read_text())
        assert paths
        assert [p for p in paths if not (ROOT / p).exists()] == []


def test_the_readmes_curl_session_works_and_its_second_step_sees_the_first(sciworld: str) -> None:
    block = next(b for b in re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S) if "curl" in b)
    script = block.replace("http://127.0.0.1:8002", sciworld)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "You move to the kitchen" in done.stdout
    assert "This room is called the kitchen" in done.stdout
    assert '"step":2' in done.stdout.replace(" ", "")


def test_no_page_and_no_setting_names_a_machine_or_an_index() -> None:
    tracked = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True).stdout.split()
    for name in tracked:
        if (ROOT / name).suffix in {".md", ".yml", ".yaml", ".toml", ".txt", ".in", ""} and (ROOT / name).is_file():
            text = (ROOT / name).read_text(errors="ignore")
            assert not re.search(r"https?://[^ )\"]*(\.whl|\.tar\.gz|/simple)|(^|\s)--(extra-)?index-url", text), name
