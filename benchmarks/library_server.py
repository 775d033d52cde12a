"""What one would write first: a server with one ScienceWorldEnv per session and the library's own step, each in a thread.

It is the comparison of benchmarks/core.py, and a service of nothing: no limits, no errors, no end of a session.
`python benchmarks/library_server.py PORT`.
"""

import itertools
import sys
from typing import Any

import uvicorn
from env_sciworld.tables import split_task_id, task_types
from fastapi import FastAPI
from pydantic import BaseModel
from scienceworld import ScienceWorldEnv  # type: ignore[import-untyped]

app = FastAPI()
numbers = itertools.count()
environments: dict[str, Any] = {}


class Reset(BaseModel):
    """Begin an episode in a new session, or in one that exists."""

    task_id: str
    session_id: str | None = None
    max_steps: int = 1000


class Step(BaseModel):
    """Take an action."""

    session_id: str
    action: str


@app.post("/reset")
def reset(request: Reset) -> dict[str, Any]:
    """Load a task. FastAPI runs this in a thread."""
    session_id = request.session_id or str(next(numbers))
    if session_id not in environments:
        environments[session_id] = ScienceWorldEnv("", envStepLimit=1000)
    name, variation = split_task_id(request.task_id)
    environments[session_id].load(task_types()[name].simulator_name, variation, "easy")
    observation, _ = environments[session_id].reset()
    return {"observation": {"text": observation}, "done": False, "metadata": {"session_id": session_id}}


@app.post("/step")
def step(request: Step) -> dict[str, Any]:
    """Take an action with the library's step. FastAPI runs this in a thread."""
    observation, reward, done, info = environments[request.session_id].step(request.action)
    return {"observation": {"text": observation}, "reward": reward, "done": done, "metadata": {"score": info["score"]}}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="critical")
