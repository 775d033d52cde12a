"""Stock alfworld and textworld, as alfworld's AlfredTWEnv puts them together: what tests, soak and benchmark compare with."""

from typing import Any


def stock_environment() -> Any:
    """Return an environment with `load(game file)`, `reset()` and `step(command)`. It must not share a thread's turn with another's."""
    import textworld  # type: ignore[import-untyped]
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler, AlfredInfos  # type: ignore[import-untyped]
    from textworld.envs.pddl import PddlEnv  # type: ignore[import-untyped]

    infos = textworld.EnvInfos(won=True, admissible_commands=True, extras=["gamefile"])
    return AlfredInfos(AlfredDemangler(PddlEnv(infos), shuffle=False))
