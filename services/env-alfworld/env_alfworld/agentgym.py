"""ALFWorld in AgentGym's shapes: the room without the welcome, a going without the number of the place, the commands that apply.

AgentGym's server numbers its games by two lists of its own (configs/mappings_{train,test}.json). Here `game` counts the games of train, in
their folders' order, then those of valid_train. Rewards are deltas: 1 once, at the step that wins, as in AgentGym, where that step is the last.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

from env_core.dialects.agentgym import AgentGym, ErrorsAs200
from env_core.environment import Task
from env_core.errors import invalid_request
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from env_alfworld.catalogue import GAME, LAYOUT

ARRIVAL = re.compile(r"^You arrive at loc [^.]*\. ")


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore")


class ResetBody(_Body):
    """Number `id` plays game number `game`. All worlds are text here, as they are in AgentGym."""

    id: int
    game: int
    world_type: Literal["Text", "Embody", "Hybrid"] = "Text"


class StepBody(_Body):
    """Number `id` takes an action."""

    id: int
    action: str


class CloseBody(_Body):
    """Number `id` is done with."""

    id: int


def agentgym_routes(gym: AgentGym, games: Sequence[Task]) -> APIRouter:
    """The routes of AgentGym's ALFWorld server."""
    router = APIRouter(route_class=ErrorsAs200)

    @router.get("/")
    async def hello() -> str:
        return "This is environment ALFWorld."

    @router.post("/create")
    async def create() -> dict[str, int]:
        return {"id": gym.create()}

    @router.post("/reset")
    async def reset(body: ResetBody) -> dict[str, Any]:
        if not 0 <= body.game < len(games):
            raise invalid_request(f"Game {body.game} was asked for, but there are {len(games)}; send a number below that.")
        reply = await gym.reset(body.id, games[body.game], ["valid_actions"])
        task = reply["metadata"]["info"]["game_file"].removeprefix(f"{LAYOUT}/").removesuffix(f"/{GAME}").partition("/")[2]
        return {
            "id": body.id,
            "observation": _text(reply),
            "available_actions": reply["metadata"]["valid_actions"],
            "task_type": task,  # AgentGym's word for TASK/TRIAL
        }

    @router.post("/step")
    async def step(body: StepBody) -> dict[str, Any]:
        reply = await gym.step(body.id, body.action, ["valid_actions"])
        return {
            "observation": _text(reply),
            "reward": float(reply["reward"]),
            "available_actions": reply["metadata"]["valid_actions"],
            "done": reply["done"],
        }

    @router.post("/close")
    async def close(body: CloseBody) -> bool:
        gym.close(body.id)
        return True

    @router.get("/observation")
    async def observation(id: int) -> str:
        return _text(gym.last(id))

    @router.get("/available_actions")
    async def available_actions(id: int) -> list[str]:
        actions: list[str] = gym.last(id)["metadata"]["valid_actions"]
        return actions

    @router.get("/detail")
    async def detail(id: int) -> dict[str, Any]:
        last = gym.last(id)
        task_id = last["metadata"]["task_id"]
        return {
            "world_type": "Text",
            "game": next(number for number, task in enumerate(games) if task.task_id == task_id),
            "observation": _text(last),
            "available_actions": last["metadata"]["valid_actions"],
            "done": last["done"],
            "reward": float(last["reward"]),
            "deleted": False,
        }

    return router


def _text(reply: dict[str, Any]) -> str:
    text: str = reply["observation"]["text"]
    if reply["metadata"]["step"] == 0:
        return "\n".join(text.split("\n\n")[1:])
    return ARRIVAL.sub("", text)
