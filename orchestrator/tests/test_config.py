from pathlib import Path

import pytest
from orchestrator.config import ConfigError
from orchestrator.config_file import load_config
from orchestrator.config_services import EnvSection, PolicySection
from orchestrator.prompts import load_prompt

GOOD = """name: one
train_tasks: {split: eto-train, per_type: 2}
evaluate:
  - {split: eto-unseen}
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "run.yaml"
    file.write_text(text)
    return file


def test_a_small_file_is_enough(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD), {"rollout.concurrency": 3, "model": "some/hub-id"})
    assert (config.name, config.rollout.concurrency, config.model) == ("one", 3, "some/hub-id")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "sft: {optimizer: muon, lora: {r: 4}}\n", r"line 5: sft: .*choose adamw, or leave lora out"),
        (GOOD + "rolout: {}\n", r"line 5: rolout: unknown key; known here: name, seed, model"),
        (GOOD + "rollout:\n  temperature: hot\n", r"line 6: rollout\.temperature: Input should be a valid number"),
        (GOOD + "rollout:\n  temperatur: 1\n", r"line 6: rollout\.temperatur: unknown key; known here: concurrency"),
        (GOOD + "policy: {device: tpu}\n", r"line 5: policy\.device: Input should be 'auto', 'cpu' or 'cuda'"),
        (GOOD.replace("eto-unseen}", "eto-unseen, per_type: 0}"), r"line 4: evaluate\.0\.per_type: .*greater than or equal to 1"),
        ("name: one\n", r"train_tasks: Field required"),
        ("name: ../one\n" + GOOD.split("\n", 1)[1], r"line 1: name: String should match"),
        (GOOD + "sft: {max_length: 9000}\n", r"sft\.max_length is 9000 but policy\.max_model_len is 4096"),
        (GOOD + "sft: {lora: {rank: 4}}\n", r"line 5: sft\.lora\.rank: unknown key; known here: r, alpha, dropout"),
        (GOOD + "model: {hidden_size: 100}\n", r"line 5: model: hidden_size / heads must be one of 32, 64"),
        (GOOD + "method: self-play\n", r"compares samples of a task, but explore has samples 1 and temperature 0"),
        (GOOD + "method: self-play\nexplore: {samples: 2, temperature: 1}\nmodel: {heads: 4}\n", r"a fresh model could not do anything"),
        (GOOD + "method: ppo\n", r"line 5: method: Input should be 'eto', 'step', 'self-play', 'rft', 'grpo' or 'sft'"),
        (GOOD + "dpo: {beta: -1}\n", r"line 5: dpo\.beta: Input should be greater than 0"),
        (GOOD + "dpo:\n  - {beta: 0.1}\n  - {betta: 0.5}\n", r"line 7: dpo\.1\.betta: unknown key; known here: epochs"),
        (GOOD + "policy: {url: 'host:8000'}\n", r"line 5: policy\.url: 'host:8000' is no URL of a server: write http://HOST:PORT"),
        (GOOD + "policy: {url: [http://a, http://a/v1]}\n", r"line 5: policy\.url: name each server once"),
        (GOOD + "policy: {url: []}\n", r"line 5: policy\.url: name each server once"),
        (GOOD + "dev: {split: eto-unseen}\n", r"dev\.split eto-unseen is trained or evaluated on"),
        (GOOD + "dev: {split: eto-train}\n", r"dev\.split eto-train is trained or evaluated on.*hold out training tasks"),
        (GOOD + "dev: {split: eto-seen, held_out: 2}\n", r"line 5: dev: give a split, or held_out .* not both"),
        (GOOD + "dev: {held_out: 2, per_type: 2}\n", r"line 5: dev: types and per_type choose from a split"),
        (GOOD + "dev: {hold_out: 2}\n", r"line 5: dev\.hold_out: unknown key; known here: split, types, per_type, held_out"),
        (GOOD + "early_stop: {patience: 1}\n", r"early_stop goes by the dev score: set dev too"),
        (GOOD.replace("eto-unseen}", "eto-unseen, samples: 4}"), r"4 samples of eto-unseen at temperature 0 would all be the same"),
        ("", "is empty"),
        ("a: [", "is no YAML"),
    ],
)
def test_a_fault_is_named_with_its_line_and_what_is_allowed(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


def test_dpo_may_have_a_section_for_each_iteration(tmp_path: Path) -> None:
    assert [s.beta for s in load_config(write(tmp_path, GOOD + "dpo: {beta: 0.1}\n")).dpo] == [0.1]
    assert [s.beta for s in load_config(write(tmp_path, GOOD + "dpo: [{beta: 0.1}, {beta: 0.5}]\n")).dpo] == [0.1, 0.5]


def test_the_policy_may_be_served_at_one_url_or_at_several(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, GOOD)).policy.url is None
    assert load_config(write(tmp_path, GOOD + "policy: {url: http://a:8000/v1/}\n")).policy.url == ["http://a:8000"]
    assert load_config(write(tmp_path, GOOD + "policy: {url: [http://a, https://b/x]}\n")).policy.url == ["http://a", "https://b/x"]


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")


def test_the_shipped_configurations_are_valid() -> None:
    root = Path(__file__).parents[2]
    files = sorted((root / "configs").glob("*.yaml"))
    assert files
    for file in files:
        env = load_config(file).env
        load_prompt(env.name, root / env.prompt if env.prompt else None)


def test_addresses_come_from_the_environment_where_the_file_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETO_WEBSHOP_URL", "http://shop:8001")
    monkeypatch.setenv("ETO_POLICY_URL", "http://a:8000/v1,http://b:8000")
    assert EnvSection.model_validate({"name": "webshop"}).addresses == ["http://shop:8001"]
    assert EnvSection.model_validate({"name": "webshop", "url": None}).addresses == ["http://127.0.0.1:8001"]
    assert EnvSection.model_validate({"name": "alfworld"}).addresses == ["http://127.0.0.1:8003"]
    assert PolicySection().addresses == ["http://a:8000", "http://b:8000"]
    assert PolicySection.model_validate({"url": None}).addresses == ["http://127.0.0.1:8000"]
