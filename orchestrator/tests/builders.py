"""Episodes for tests, as short as the rules allow."""

from orchestrator.records import Episode, Message, Step, TerminateReason

PROMPT = [
    Message(role="user", content="instruction"),
    Message(role="assistant", content="OK"),
    Message(role="user", content="task"),
]


def played(
    actions: list[str | None], reward: float, policy: str = "agent", task_id: str = "t:0", env: str = "sciworld", sample: int = 0
) -> Episode:
    """An episode of these actions in a world that is a function of them: the same actions, the same observations."""
    base = episode(len(actions), reward, policy, task_id, env, sample)
    messages = list(PROMPT)
    for turn, action in enumerate(actions):
        said = f"Thought: {policy} thinks\nAction: {action}" if action is not None else f"{policy} says nothing"
        messages += [Message(role="assistant", content=said), Message(role="user", content=f"Observation: {actions[: turn + 1]}")]
    steps = [s.model_copy(update={"action": a}) for s, a in zip(base.steps, actions, strict=True)]
    return base.model_copy(update={"messages": messages, "steps": steps})


def episode(turns: int, reward: float, policy: str = "agent", task_id: str = "t:0", env: str = "sciworld", sample: int = 0) -> Episode:
    """An episode of so many turns; each ends with an observation, as recorded ones do."""
    messages = list(PROMPT)
    for i in range(turns):
        messages += [Message(role="assistant", content=f"Action: {policy} {i}"), Message(role="user", content=f"Observation: {i}")]
    steps = [Step(action=f"{policy} {i}", reward=0.0, score=0.0, valid=True) for i in range(turns)]
    if steps:
        steps[-1] = steps[-1].model_copy(update={"reward": reward, "score": reward})
    return Episode(
        env=env,
        task_id=task_id,
        task_type="t",
        sample=sample,
        policy=policy,
        messages=messages,
        steps=steps,
        reward=reward,
        score=reward,
        success=reward >= 1.0,
        terminate_reason=TerminateReason.TERMINATED,
        started_at="2026-01-01T00:00:00+00:00",
        duration_s=0.0,
        code_version="test",
    )
