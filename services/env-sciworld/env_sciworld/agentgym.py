"""ScienceWorld in AgentGym's shapes: rewards and scores in hundredths, the first look apart from the task's description.

As everywhere in this service the score is the best so far and never falls, where AgentGym passes on the simulator's (-100 after a wrong
focus). An episode has the library's limit of 100 steps, as AgentGym's has.
"""

import functools
from collections.abc import Sequence
from typing import Any

from env_core.dialects.agentgym import AgentGym, ErrorsAs200
from env_core.environment import Task
from env_core.errors import invalid_request
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from env_sciworld.tables import task_types
from env_sciworld.taskset import task_of_variation

MAX_STEPS = 100
#: AgentGym's server leaves these out, so its `data_idx` does not count them (agentenv_sciworld/environment.py).
LEFT_OUT = frozenset({"5-1", "5-2", "9-1", "9-2", "9-3", "10-1", "10-2"})


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore")


class ResetBody(_Body):
    """Number `id` plays game `data_idx`."""

    id: int
    data_idx: int


class StepBody(_Body):
    """Number `id` takes an action."""

    id: int
    action: str


class CloseBody(_Body):
    """Number `id` is done with."""

    id: int


@functools.cache
def games() -> Sequence[Task]:
    """Return the tasks in the order of AgentGym's `data_idx`: by the simulator's number of the task type, then by variation."""
    from scienceworld.constants import ID2TASK  # type: ignore[import-untyped]

    by_name = {task_type.simulator_name: task_type for task_type in task_types().values()}
    kinds = [by_name[name] for number, name in ID2TASK.items() if number not in LEFT_OUT]
    return [task_of_variation(kind, variation) for kind in kinds for variation in range(kind.variations)]


def agentgym_routes(gym: AgentGym) -> APIRouter:
    """The routes of AgentGym's ScienceWorld server."""
    router = APIRouter(route_class=ErrorsAs200)

    @router.get("/")
    async def hello() -> str:
        return "This is environment ScienceWorld."

    @router.post("/create")
    async def create() -> dict[str, int]:
        return {"id": gym.create()}

    @router.post("/reset")
    async def reset(body: ResetBody) -> dict[str, Any]:
        if not 0 <= body.data_idx < len(games()):
            raise invalid_request(f"Game {body.data_idx} was asked for, but there are {len(games())}; send a data_idx below that.")
        task = games()[body.data_idx]
        reply = await gym.reset(body.id, task, max_steps=MAX_STEPS)
        return _detail(reply)

    @router.post("/step")
    async def step(body: StepBody) -> dict[str, Any]:
        return _outcome(await gym.step(body.id, body.action))

    @router.post("/close")
    async def close(body: CloseBody) -> bool:
        gym.close(body.id)
        return True

    @router.get("/observation")
    async def observation(id: int) -> str:
        return str(_outcome(gym.last(id))["observation"])

    @router.get("/detail")
    async def detail(id: int) -> dict[str, Any]:
        return _detail(gym.last(id))

    @router.get("/task_description")
    async def task_description(id: int) -> dict[str, str]:
        return {"task_description": _info(gym.last(id))["task_description"]}

    @router.get("/action_hint")
    async def action_hint(id: int) -> dict[str, list[str]]:
        hint: dict[str, list[str]] = await gym.inspect(id, "action_hint")
        return hint

    @router.get("/goals")
    async def goals(id: int) -> dict[str, str]:
        return {"goals": await gym.inspect(id, "goals")}

    @router.get("/object_tree")
    async def object_tree(id: int) -> dict[str, Any]:
        return {"object_tree": await gym.inspect(id, "object_tree")}

    @router.get("/state")
    async def state(id: int) -> dict[str, Any]:
        hint = await gym.inspect(id, "action_hint")
        last = gym.last(id)
        return {
            **await gym.inspect(id, "look"),
            "task_description": _info(last)["task_description"],
            "goal_progress": await gym.inspect(id, "goals"),
            "possible_actions": hint["possible_actions"][:10],
            "possible_objects": hint["possible_objects"][:10],
            "current_moves": last["metadata"]["step"],
            "environment_info": _detail(last),
        }

    return router


def _info(reply: dict[str, Any]) -> dict[str, Any]:
    info: dict[str, Any] = reply["metadata"]["info"]
    return info


def _outcome(reply: dict[str, Any]) -> dict[str, Any]:
    metadata = reply["metadata"]
    text: str = reply["observation"]["text"]
    if metadata["step"] == 0:
        text = text.removeprefix(_info(reply)["task_description"]).removeprefix("\n")
    hundredths = {"reward": round(100 * reply["reward"]), "score": round(100 * metadata["score"])}
    return {"observation": text, **hundredths, "done": reply["done"]}


def _detail(reply: dict[str, Any]) -> dict[str, Any]:
    task_name, _, variation = reply["metadata"]["task_id"].rpartition(":")
    return {
        "task_name": task_types()[task_name].simulator_name,
        "var_num": int(variation),
        "task_description": _info(reply)["task_description"],
        **_outcome(reply),
        "deleted": False,
    }
