"""What results say about the code that made them."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import __version__, places


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    places.code_version.cache_clear()
    yield
    places.code_version.cache_clear()


@pytest.mark.parametrize(("told", "expected"), [("abc123", "abc123"), ("", __version__)])
def test_without_git_the_version_is_the_images_or_the_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: str, expected: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ETO_CODE_VERSION", told)
    assert places.code_version() == expected


def test_outside_of_a_checkout_the_version_is_the_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ETO_ROOT", str(tmp_path))
    monkeypatch.delenv("ETO_CODE_VERSION", raising=False)
    assert places.code_version() == __version__


@pytest.mark.parametrize(("changed", "mark"), [("docs/results.md", ""), ("code.py", "+dirty")])
def test_changed_code_is_marked_and_changed_docs_are_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changed: str, mark: str) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tmp_path / "docs").mkdir()
    for file in ("docs/results.md", "code.py"):
        (tmp_path / file).write_text("")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *command], check=True)
    (tmp_path / changed).write_text("# other")
    monkeypatch.setenv("ETO_ROOT", str(tmp_path))
    commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert places.code_version() == commit + mark
