"""Two trajectories of the same task, turn by turn: which ones are shown and where they part."""

from collections.abc import Sequence

from orchestrator.prompts import parse_action
from orchestrator.records import Episode, Message, Pair, Step
from orchestrator.report.model import Comparison, Side, Turn

#: A message longer than this is cut: the page is for reading, episodes.jsonl has it all.
LONGEST_MESSAGE = 4000


def choose_evaluations(left: Sequence[Episode], right: Sequence[Episode], most: int = 6) -> list[Comparison]:
    """Up to `most` tasks that both policies played, where the scores differ most; never the gains alone.

    At most half are gains and a third losses as long as there are others; ties fill the rest.
    """
    before = {(e.split, e.key): e for e in left}
    both = [(before[k], e) for e in right if (k := (e.split, e.key)) in before]
    both.sort(key=lambda ab: (-abs(ab[1].score - ab[0].score), ab[1].split or "", ab[1].key))
    gains = [ab for ab in both if ab[1].score > ab[0].score]
    losses = [ab for ab in both if ab[1].score < ab[0].score]
    ties = [ab for ab in both if ab[1].score == ab[0].score]
    first = [*gains[: most // 2], *losses[: most // 3], *ties[: most - most // 2 - most // 3]]
    rest = [*gains[most // 2 :], *losses[most // 3 :], *ties[most - most // 2 - most // 3 :]]
    return [compare_episodes(a, b) for a, b in (first + rest)[:most]]


def choose_pairs(stage: str, pairs: Sequence[Pair], most: int = 3) -> list[Comparison]:
    """Up to `most` pairs, of different task types first, with the largest gap between chosen and rejected."""
    ordered = sorted(pairs, key=lambda p: (p.rejected_reward - p.chosen_reward, p.task_id, p.rejected_policy))
    seen: dict[str, int] = {}
    ranked = []
    for place, pair in enumerate(ordered):
        kind = pair.task_id.split(":")[0]
        ranked.append((seen.setdefault(kind, 0), place))
        seen[kind] += 1
    return [compare_pair(stage, ordered[place]) for _, place in sorted(ranked)[:most]]


def compare_episodes(left: Episode, right: Episode) -> Comparison:
    """Two policies on the same task."""
    sides = [
        Side(
            policy=e.policy,
            score=e.score,
            success=e.success,
            terminate_reason=e.terminate_reason.value,
            turns=read_turns(e.turns, e.steps),
        )
        for e in (left, right)
    ]
    return _comparison("evaluation", right.split or "", right.task_id, right.task_type, right.prompt, *sides)


def compare_pair(stage: str, pair: Pair) -> Comparison:
    """The two sides of a pair."""
    sides = [
        Side(policy=policy, score=reward, success=None, terminate_reason=None, turns=read_turns(turns, []))
        for policy, reward, turns in (
            (f"chosen: {pair.chosen_policy}", pair.chosen_reward, pair.chosen),
            (f"rejected: {pair.rejected_policy}", pair.rejected_reward, pair.rejected),
        )
    ]
    return _comparison("pair", stage, pair.task_id, None, pair.prompt, *sides)


def _comparison(
    kind: str, where: str, task_id: str, task_type: str | None, prompt: Sequence[Message], left: Side, right: Side
) -> Comparison:
    return Comparison(
        kind="pair" if kind == "pair" else "evaluation",
        where=where,
        task_id=task_id,
        task_type=task_type,
        task=_cut(prompt[-1].content) if prompt else "",
        left=left,
        right=right,
        diverges_at=_divergence(left.turns, right.turns),
    )


def _divergence(left: Sequence[Turn], right: Sequence[Turn]) -> int | None:
    """The first turn (from 1) with another action or another observation; thoughts may differ in wording."""
    for i, (a, b) in enumerate(zip(left, right, strict=False), 1):
        if (a.action, a.output, a.observation) != (b.action, b.output, b.observation):
            return i
    return None if len(left) == len(right) else min(len(left), len(right)) + 1


def read_turns(messages: Sequence[Message], steps: Sequence[Step]) -> list[Turn]:
    """What was thought, done and seen. `messages` begin after the prompt; `steps` may be missing, as a pair has none."""
    result: list[Turn] = []
    for i, message in enumerate(messages):
        if message.role != "assistant":
            continue
        after = messages[i + 1] if i + 1 < len(messages) else None
        step = steps[len(result)] if len(result) < len(steps) else None
        action = step.action if step is not None else parse_action(message.content)
        result.append(
            Turn(
                thought=_cut(_thought(message.content)) if action is not None else None,
                action=_cut(action) if action is not None else None,
                output=_cut(message.content) if action is None else None,
                observation=_cut(_observation(after.content)) if after is not None and after.role == "user" else None,
                reward=step.reward if step is not None else None,
                score=step.score if step is not None else None,
                valid=step.valid if step is not None else None,
            )
        )
    return result


def _thought(output: str) -> str:
    return output.partition("Action:")[0].strip().removeprefix("Thought:").strip()


def _observation(content: str) -> str:
    return content.removeprefix("Observation:").strip()


def _cut(text: str) -> str:
    left_out = len(text) - LONGEST_MESSAGE
    return text if left_out <= 0 else f"{text[:LONGEST_MESSAGE]} … ({left_out} characters left out)"
