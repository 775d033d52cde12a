"""Plays an episode with OpenEnv's own client, and prints what it got as JSON: `python play.py URL RESET_JSON ACTIONS_JSON`.

OpenEnv pulls a web interface and a tool server, so it has an environment of its own, made from the root of the repository by
    python3.11 -m venv tests/openenv/.venv && tests/openenv/.venv/bin/pip install --require-hashes -r tests/openenv/requirements.txt
(the tests make it where it is missing). requirements.txt comes from requirements.in by `uv pip compile --generate-hashes`.
"""

import asyncio
import json
import sys
from typing import Any

from openenv.core import GenericEnvClient


async def play(url: str, reset: dict[str, Any], actions: list[str]) -> dict[str, Any]:
    """Return the rewards, the last observation's text, whether it was done, and the state."""
    async with GenericEnvClient(base_url=url) as client:
        result = await client.reset(**reset)
        rewards = []
        for action in actions:
            result = await client.step({"action": action})
            rewards.append(result.reward)
            if result.done:
                break
        return {"rewards": rewards, "text": result.observation["text"], "done": result.done, "state": await client.state()}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(play(sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])))))
