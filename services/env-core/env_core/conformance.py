"""Checks a running service against the protocol of docs/formats.md: `python -m env_core.conformance URL`.

It knows no environment: it plays the first tasks of the first split, with an expert's actions or valid ones where there are any.
Each check is a function; what it expects and does not find is printed, and the exit status is then 1.
The token, if the service wants one, comes from ETO_ENV_TOKEN.
"""

import argparse
import itertools
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

STEPS_PLAYED = 8
REPLY_KEYS = {"observation", "reward", "done", "metadata"}
METADATA_KEYS = {"session_id", "episode_id", "task_id", "seed", "step", "max_steps", "score", "success", "terminated", "truncated", "info"}


class NotMetError(Exception):
    """A check's expectation is not met; the text says which."""


def expect(met: bool, text: str) -> None:
    """Raise NotMetError with `text` unless `met`."""
    if not met:
        raise NotMetError(text)


@dataclass
class Service:
    """The service under test. `env` is its environment's name, `tasks` the first split's tasks."""

    url: str
    token: str | None = None
    env: str = ""
    split: str = ""
    tasks: list[dict[str, Any]] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)

    def call(self, method: str, path: str, body: Any = None, raw: bytes | None = None) -> tuple[int, Any, dict[str, str]]:
        """Return a reply's status, body (parsed where it is JSON) and headers in lower case."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310 - the user's own service
        try:
            with urllib.request.urlopen(request, timeout=300) as reply:  # noqa: S310
                status, content, found = reply.status, reply.read(), reply.headers
        except urllib.error.HTTPError as error:
            status, content, found = error.code, error.read(), error.headers
        is_json = (found.get_content_type() or "") == "application/json"
        return status, json.loads(content) if is_json and content else content, {k.lower(): v for k, v in found.items()}

    def good(self, method: str, path: str, body: Any = None) -> Any:
        """Return the body of a reply that must be 2xx."""
        status, content, _ = self.call(method, path, body)
        expect(200 <= status < 300, f"{method} {path} {json.dumps(body)} answered {status} {str(content)[:200]}")
        return content

    def refused(self, method: str, path: str, status: int, code: str, body: Any = None, raw: bytes | None = None) -> None:
        """Expect an error reply in the protocol's shape."""
        found, content, _ = self.call(method, path, body, raw)
        asked = f"{method} {path} {(raw or json.dumps(body).encode())[:100]!r}"
        expect(found == status, f"{asked} answered {found}, not {status}")
        error = content.get("error", {}) if isinstance(content, dict) else {}
        expect(set(error) == {"code", "message"}, f"{asked} answered {str(content)[:200]}, not {{error: {{code, message}}}}")
        expect(error["code"] == code, f"{asked} answered the code {error['code']}, not {code}")
        expect("Traceback" not in error["message"], f"{asked} answered with a stack trace")

    def reset(self, task: int = 0, **fields: Any) -> dict[str, Any]:
        """Begin an episode; the session is deleted after the check."""
        reply: dict[str, Any] = self.good("POST", "/reset", {"task_id": self.tasks[task]["task_id"], **fields})
        well_formed(reply)
        self.opened.append(reply["metadata"]["session_id"])
        return reply

    def step(self, reply: dict[str, Any], action: Any, **fields: Any) -> dict[str, Any]:
        """Take an action in the session of a reply."""
        session_id = reply["metadata"]["session_id"]
        following: dict[str, Any] = self.good("POST", "/step", {"session_id": session_id, "action": action, **fields})
        well_formed(following)
        return following

    def actions(self, task: int = 0) -> list[str]:
        """Return some actions that a task takes: an expert's, else what is valid at the start, else anything."""
        status, content, _ = self.call("GET", f"/tasks/{quote(self.tasks[task]['task_id'], safe='')}/expert")
        if status == 200:
            return list(content["actions"])[:STEPS_PLAYED]
        valid = self.reset(task, include=["valid_actions"])["metadata"].get("valid_actions") or ["look", "wait"]
        return list(itertools.islice(itertools.cycle(valid), STEPS_PLAYED))

    def play(self, task: int, actions: list[str], seed: int = 0) -> list[Any]:
        """Return what an episode shows, without what names the session."""
        reply = self.reset(task, seed=seed)
        seen = [shown(reply)]
        for action in actions:
            if reply["done"]:
                break
            reply = self.step(reply, action)
            seen.append(shown(reply))
        return seen

    def clean(self) -> None:
        """Delete what a check opened."""
        while self.opened:
            self.call("DELETE", f"/sessions/{self.opened.pop()}")


def shown(reply: dict[str, Any]) -> Any:
    """Return a reply without what names its session."""
    metadata = {name: value for name, value in reply["metadata"].items() if name not in ("session_id", "episode_id")}
    return {**reply, "metadata": metadata}


def well_formed(reply: Any) -> None:
    """Expect the shape of a reply to reset or step."""
    expect(isinstance(reply, dict) and set(reply) == REPLY_KEYS, f"a reply has the keys {sorted(reply)}, not {sorted(REPLY_KEYS)}")
    metadata = reply["metadata"]
    missing, more = METADATA_KEYS - set(metadata), set(metadata) - METADATA_KEYS - {"valid_actions"}
    expect(not missing and not more, f"metadata lacks {sorted(missing)} and has {sorted(more)} too many")
    expect(isinstance(reply["observation"].get("text"), str), "observation.text is no text")
    expect(0 <= metadata["score"] <= 1, f"metadata.score is {metadata['score']}, not in 0..1")
    expect(reply["done"] == (metadata["terminated"] or metadata["truncated"]), "done is not terminated or truncated")


def checks() -> Iterator[tuple[str, Callable[[Service], None]]]:
    """Return all checks with their names."""
    from env_core import conformance_checks

    for name, check in vars(conformance_checks).items():
        if name.startswith("check_"):
            yield name.removeprefix("check_").replace("_", " "), check


@contextmanager
def _cleaned(service: Service) -> Iterator[None]:
    try:
        yield
    finally:
        service.clean()


def run_checks(url: str, token: str | None = None) -> dict[str, str | None]:
    """Return, for each check, what is not met, or None."""
    service = Service(url.rstrip("/"), token)
    results: dict[str, str | None] = {}
    for name, check in checks():
        try:
            with _cleaned(service):
                check(service)
            results[name] = None
        except NotMetError as error:
            results[name] = str(error)
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:  # an answer of quite another shape
            results[name] = f"{type(error).__name__}: {error}"
    return results


def main(argv: list[str] | None = None) -> int:
    """Run the command and return the exit status."""
    parser = argparse.ArgumentParser(prog="env_core.conformance", description="Check a running environment service.")
    parser.add_argument("url", help="where the service answers, such as http://127.0.0.1:8002")
    results = run_checks(parser.parse_args(argv).url, os.environ.get("ETO_ENV_TOKEN"))
    for name, problem in results.items():
        print(f"{'FAIL' if problem else 'ok':4} {name}" + (f"\n       {problem}" if problem else ""))
    failed = sum(problem is not None for problem in results.values())
    print(f"{len(results) - failed} of {len(results)} checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    from env_core import conformance  # the checks import this module by its name, and must see the same NotMetError

    sys.exit(conformance.main())
