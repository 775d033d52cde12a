"""WebShop's shapes in AgentGym's dialect: what its WebshopEnvClient sends and expects (github WooooDyy/AgentGym, agentenv-webshop)."""

import secrets
from typing import Annotated, Any

from env_core.dialects.agentgym import AgentGym, BusyAs503
from env_core.environment import Task, TaskSet
from env_core.errors import ServiceError
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

#: So many numbers are listed: some of AgentGym's clients never close theirs.
REMEMBERED = 10_000
Number = Annotated[int, Query(alias="env_idx")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore")


class ResetBody(_Body):
    """`session_id` is the goal's place; null asks for any goal."""

    env_idx: int
    session_id: int | None = None


class StepBody(_Body):
    """An action."""

    env_idx: int
    action: str


class CloseBody(_Body):
    """Which to forget."""

    env_idx: int


def routes(gym: AgentGym, tasks: TaskSet) -> APIRouter:
    """AgentGym's WebShop server plays synthetic goals: the first kind of goals that the catalogue has."""
    router = APIRouter(route_class=BusyAs503)
    created: dict[int, None] = {}

    def task_at(place: int | None) -> Task:
        goals = tasks.tasks(tasks.splits()[0].name)
        if place is None:
            return secrets.choice(goals)
        if not 0 <= place < len(goals):
            message = f"Goal {place} was asked for, but there are {len(goals)}; send a session_id from 0 to {len(goals) - 1}."
            raise ServiceError(404, "unknown_task", message)
        return goals[place]

    @router.get("/")
    async def alive() -> str:
        return "ok"

    @router.get("/list_envs")
    async def list_envs() -> list[int]:
        return list(created)

    @router.post("/create")
    async def create() -> int:
        number = gym.create()
        created[number] = None
        while len(created) > REMEMBERED:
            del created[next(iter(created))]
        return number

    @router.post("/reset")
    async def reset(body: ResetBody) -> list[Any]:
        reply = await gym.reset(body.env_idx, task_at(body.session_id))
        return [reply["observation"]["text"], None]

    @router.post("/step")
    async def step(body: StepBody) -> dict[str, Any]:
        reply = await gym.step(body.env_idx, body.action)
        return {"state": reply["observation"]["text"], "reward": reply["reward"], "done": reply["done"], "info": None}

    @router.post("/close")
    async def close(body: CloseBody) -> bool:
        gym.close(body.env_idx)
        created.pop(body.env_idx, None)
        return True

    @router.get("/observation")
    async def observation(env_idx: Number) -> str:
        text: str = gym.last(env_idx)["observation"]["text"]
        return text

    @router.get("/available_actions")
    async def available_actions(env_idx: Number) -> dict[str, Any]:
        found: dict[str, Any] = gym.last(env_idx)["metadata"]["info"]["available_actions"]
        return found

    @router.get("/instruction_text")
    async def instruction_text(env_idx: Number) -> str:
        return f"Instruction: {gym.last(env_idx)['metadata']['info']['instruction']}"

    @router.get("/state")
    async def state(env_idx: Number) -> dict[str, str]:
        return {
            "url": f"/sessions/agentgym-{env_idx}/page",
            "html": await gym.page(env_idx),
            "instruction_text": await instruction_text(env_idx),
        }

    return router
