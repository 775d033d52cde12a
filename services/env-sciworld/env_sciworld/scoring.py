"""How the simulator's score becomes the episode's. The simulator gives -1..1; ETO keeps the best so far, in 0..1."""


def best_score(best_so_far: float, raw: float) -> float:
    """Return the episode's score after the simulator said `raw`, in whole hundredths as the library has it."""
    return min(1.0, max(best_so_far, round(100 * raw) / 100))


def is_success(score: float) -> bool:
    """Whether the task is solved."""
    return score >= 1.0
