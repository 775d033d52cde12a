"""What GRPO's stages make of episodes and settings."""

from builders import played
from orchestrator.config_training import GrpoSection, TrainSection
from orchestrator.prompts import load_prompt
from orchestrator.stages.learning import as_shown, train_settings
from orchestrator.stages.playing import mixed


def test_only_tasks_whose_samples_earned_differently_teach() -> None:
    episodes = [
        played(["a"], reward, task_id=task, sample=n)
        for task, rewards in (("t:0", (0, 1)), ("t:1", (1, 1)))
        for n, reward in enumerate(rewards)
    ]
    assert mixed(episodes) == 1


def test_an_episode_is_trained_as_the_policy_was_shown_it() -> None:
    """With the worked example after the acknowledgement; what was recorded of the turns stays."""
    prompt = load_prompt("sciworld")
    plain = played(["look", "wait"], 1.0)
    assert as_shown(plain, prompt) == plain
    shown = as_shown(plain.model_copy(update={"example": prompt.example_sha256}), prompt)
    assert shown.messages == prompt.with_example(plain.messages)
    assert shown.messages[shown.prompt_messages :] == plain.turns
    assert [m.role for m in shown.turns] == ["assistant", "user"] * 2
    assert shown.steps == plain.steps


def test_settings_of_the_loss_stand_where_the_job_has_them() -> None:
    grpo = GrpoSection(learning_rate=1e-5, beta=0.04, scale_rewards="none")
    assert train_settings(grpo, "grpo") == {"learning_rate": 1e-5, "grpo": {"beta": 0.04, "scale_rewards": "none"}}
    dpo = TrainSection(beta=0.5, loss_type="ipo", data=[])
    assert train_settings(dpo) == {"loss": {"beta": 0.5, "type": "ipo"}}
