"""The environments that the soak tests of the core play, and the paths that they take there."""

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from env_core.running import RunningService, running_service, start_service
from playing import ROOT, call

SERVICES = ROOT / "services"
GOLD: dict[str, list[str]] = json.loads((SERVICES / "env-sciworld" / "tests" / "gold.json").read_text("utf-8"))
READY_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Served:
    """How an environment's service is started. WebShop and ALFWorld play generated data, or real data where ETO_DATA names some.

    `pause_s` is how long an agent thinks between two steps on average: where steps are quick, an episode is over before anything can
    happen to it.
    """

    name: str
    module: str
    python: str
    variables: dict[str, str] = field(default_factory=dict)
    pause_s: float = 0.0

    def start(self, options: Sequence[str], **variables: str) -> RunningService:
        """Start the service."""
        return start_service(self.module, options, {**self.variables, **variables}, self.python)

    def running(self, options: Sequence[str], **variables: str) -> contextlib.AbstractContextManager[RunningService]:
        """Serve while the block runs."""
        return running_service(self.module, options, {**self.variables, **variables}, READY_TIMEOUT_S, self.python)


def _python(service: str) -> str:
    return str(SERVICES / service / ".venv" / "bin" / "python")


SAMPLE = {} if "ETO_DATA" in os.environ else {"ETO_WEBSHOP_CATALOGUE": "sample", "ETO_ALFWORLD_SAMPLE": "1"}
NONE_AHEAD = {"ETO_ALFWORLD_GAMES_AHEAD": "0"}  # else processes come and go, and are counted
COUNTER_PATH = os.pathsep.join(filter(None, [str(SERVICES / "env-core" / "tests"), os.environ.get("PYTHONPATH")]))
ENVIRONMENTS = {
    served.name: served
    for served in (
        Served("sciworld", "env_sciworld", _python("env-sciworld")),
        Served("webshop", "env_webshop", _python("env-webshop"), SAMPLE, pause_s=1.0),
        Served("alfworld", "env_alfworld", _python("env-alfworld"), {**SAMPLE, **NONE_AHEAD}, pause_s=1.0),
        Served("counter", "counter_env", _python("env-sciworld"), {"PYTHONPATH": COUNTER_PATH}, pause_s=1.0),
    )
}


async def paths(client: httpx.AsyncClient, env: str, tasks: int = 48) -> dict[str, list[str]]:
    """Return actions that lead to the end of an episode, by task id: gold paths, or those of the service's expert.

    WebShop's shopper also looks at the next page of results and at a description, which the expert has no need of.
    """
    if env == "sciworld":
        return dict(list(GOLD.items())[:tasks])
    if env == "counter":
        return {f"count:{goal}": ["add 1"] * goal for goal in range(5, 5 + tasks)}
    split = (await call(client, "GET", f"/{env}/splits"))[0]["name"]
    listed: list[dict[str, Any]] = (await call(client, "POST", f"/{env}/tasks", {"split": split}))["tasks"]
    found = {}
    for task in listed[:: max(1, len(listed) // tasks)][:tasks]:
        actions = (await call(client, "GET", f"/tasks/{task['task_id']}/expert"))["actions"]
        if actions and env == "webshop":
            actions = [actions[0], "click[Next >]", "click[< Prev]", *actions[1:-1], "click[Description]", "click[< Prev]", actions[-1]]
        if actions:
            found[task["task_id"]] = actions
    return found
