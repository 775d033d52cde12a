"""What the tests of environments share: a client of a running service, an episode as it is seen, the service's processes.

It needs httpx, which the service itself does not: it stands in each environment's requirements for tests.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx

from env_core.process_tree import command, tree
from env_core.running import RunningService

Reply = dict[str, Any]
#: Starts a service with options and environment variables, and stops it at the end.
Serve = Callable[..., contextlib.AbstractContextManager[RunningService]]


@contextlib.contextmanager
def client_of(service: RunningService) -> Iterator[httpx.Client]:
    """A client of a service that others use after it: it deletes all sessions at its end."""
    with httpx.Client(base_url=service.url, timeout=120) as client:
        yield client
        for state in client.get("/sessions").json()["sessions"]:
            client.delete(f"/sessions/{state['session_id']}")


def begin(client: httpx.Client, task_id: str, **fields: object) -> Reply:
    """Begin an episode in a new session; return the reply."""
    reply: Reply = _answer(client.post("/reset", json={"task_id": task_id, **fields}))
    return reply


def act(client: httpx.Client, session_id: str, action: str, **fields: object) -> Reply:
    """Take an action; return the reply."""
    reply: Reply = _answer(client.post("/step", json={"session_id": session_id, "action": action, **fields}))
    return reply


def expert(client: httpx.Client, task_id: str) -> list[str]:
    """Return the expert's actions."""
    actions: list[str] = _answer(client.get(f"/tasks/{task_id}/expert"))["actions"]
    return actions


def seen(reply: Reply) -> tuple[str, float, bool, Reply]:
    """Return what must be the same each time an episode is played: all but the session's id."""
    metadata = {name: value for name, value in reply["metadata"].items() if name != "session_id"}
    return reply["observation"]["text"], reply["reward"], reply["done"], metadata


def play(
    client: httpx.Client, task_id: str, actions: Sequence[str], *, include: Sequence[str] = (), max_steps: int | None = None
) -> list[tuple[str, float, bool, Reply]]:
    """Play actions, to the end of the episode at most; return all that was seen."""
    reply = begin(client, task_id, include=list(include), max_steps=max_steps)
    session = reply["metadata"]["session_id"]
    stream = [seen(reply)]
    for action in actions:
        reply = act(client, session, action, include=list(include))
        stream.append(seen(reply))
        if reply["done"]:
            break
    client.delete(f"/sessions/{session}")
    return stream


def processes(service: RunningService, part: str) -> list[int]:
    """Return the service's processes whose command line has `part` in it."""
    return [pid for pid in tree(service.process.pid)[1:] if part in command(pid)]


def workers(service: RunningService) -> list[int]:
    """Return the service's worker processes."""
    return processes(service, "env_core.worker")


class AgentGym:
    """Speaks as AgentGym's clients do: they take every answer for a good one, so that errors come with status 200 too."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url + "/agentgym", timeout=120)

    def post(self, path: str, **body: object) -> Any:
        """Ask with a body."""
        return _answer(self._http.post(path, json=body))

    def get(self, path: str, **query: Any) -> Any:
        """Ask with a query."""
        return _answer(self._http.get(path, params=query))


def _answer(reply: httpx.Response) -> Any:
    assert reply.status_code == 200, reply.text  # noqa: S101 - this is for tests
    return reply.json()
