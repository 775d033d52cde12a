import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from policy import PolicyError, server
from policy.__main__ import main
from policy.model import Model
from policy.server import ServeSettings

MODEL = Model(location="/models/m", is_local=True, max_positions=8192, has_chat_template=True)


def arguments(model: Model = MODEL, **settings: object) -> list[str]:
    return server.serve_arguments(model, ServeSettings(**settings))


def environment(caller: dict[str, str] | None = None, model: Model = MODEL, **settings: object) -> dict[str, str]:
    return server.serve_environment(model, ServeSettings(**settings), caller or {}, [], "/usr/bin/g++")


def value(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


def test_prefix_caching_is_on_and_a_request_alone_decides_how_to_sample():
    assert "--enable-prefix-caching" in arguments()
    assert value(arguments(), "--generation-config") == "vllm"


def test_a_cpu_starts_eager_and_a_gpu_compiles_unless_told_otherwise():
    assert "--enforce-eager" in arguments(device="cpu")
    assert "--enforce-eager" not in arguments(device="cuda")
    assert "--enforce-eager" not in arguments(device="cpu", eager=False)
    assert "--enforce-eager" in arguments(device="cuda", eager=True)


@pytest.mark.parametrize(
    ("device", "cpu_info", "dtype"),
    [
        ("cpu", "processor\t: 0\nflags\t\t: fpu avx avx2 fma\n", "float32"),
        ("cpu", "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512bw\n", None),
        ("cpu", "processor\t: 0\nFeatures\t: fp asimd bf16\n", None),
        ("cuda", "processor\t: 0\nflags\t\t: fpu avx avx2 fma\n", None),
    ],
)
def test_an_x86_cpu_without_avx512_computes_in_float32(tmp_path, device, cpu_info, dtype):
    (tmp_path / "cpuinfo").write_text(cpu_info)
    assert server.choose_dtype(device, cpu_info=tmp_path / "cpuinfo") == dtype
    assert server.choose_dtype("cpu", cpu_info=tmp_path / "missing") is None
    assert ("--dtype" in arguments(device=device, dtype=dtype)) == (dtype is not None)


@pytest.mark.parametrize("extra", [("--dtype", "bfloat16"), ("--dtype=bfloat16",)])
def test_a_dtype_after_two_dashes_wins(tmp_path, extra):
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu avx2\n")
    assert server.choose_dtype("cpu", extra, tmp_path / "cpuinfo") is None


def test_the_context_is_4096_tokens_or_what_a_smaller_model_has():
    assert value(arguments(), "--max-model-len") == "4096"
    assert value(arguments(Model("/m", True, max_positions=512)), "--max-model-len") == "512"
    assert value(arguments(max_model_len=8192), "--max-model-len") == "8192"


def test_a_context_beyond_the_model_is_refused_with_both_numbers():
    with pytest.raises(PolicyError, match=r"9000.*8192"):
        arguments(max_model_len=9000)


def test_a_model_without_chat_template_gets_chatml():
    assert "--chat-template" not in arguments()
    assert Path(value(arguments(Model("/m", True, has_chat_template=False)), "--chat-template")).is_file()


def test_the_chatml_template_writes_turns_and_the_start_of_an_answer():
    from jinja2 import Template

    messages = [{"role": "user", "content": "hi"}]
    text = Template(server.CHATML.read_text()).render(messages=messages, add_generation_prompt=True)
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_a_kv_cache_in_gib_becomes_bytes_on_any_device():
    for device in ("cpu", "cuda"):
        assert value(arguments(device=device, kv_cache_gib=0.5), "--kv-cache-memory-bytes") == str(2**29)
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment({"VLLM_CPU_KVCACHE_SPACE": "9"}, kv_cache_gib=0.5)


def test_without_a_choice_a_cpu_gets_one_gib_unless_the_caller_set_another():
    assert environment()["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert environment({"VLLM_CPU_KVCACHE_SPACE": "9"})["VLLM_CPU_KVCACHE_SPACE"] == "9"


def test_a_cpu_uses_all_of_its_cores():
    assert environment()["VLLM_CPU_NUM_OF_RESERVED_CPU"] == "0"


def test_a_local_model_needs_no_hub_and_a_hub_id_keeps_the_callers_choice():
    assert environment()["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in environment(model=Model("org/name", False))
    assert environment({"HF_HUB_OFFLINE": "1"}, model=Model("org/name", False))["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("host", "asked", "mode"), [("127.0.0.1", False, "1"), ("::1", False, "1"), ("0.0.0.0", False, "0"), ("0.0.0.0", True, "1")]
)
def test_dev_endpoints_are_open_on_loopback_or_when_asked_for(host, asked, mode):
    caller = {"VLLM_SERVER_DEV_MODE": "1"}
    assert environment(caller, host=host, dev_endpoints=asked)["VLLM_SERVER_DEV_MODE"] == mode


def test_our_token_becomes_vllms_key_and_stays_out_of_the_process_list():
    assert environment({"ETO_POLICY_TOKEN": "secret"})["VLLM_API_KEY"] == "secret"
    assert "secret" not in arguments()


def test_libraries_are_preloaded_once_and_before_the_callers():
    libraries = [Path("/lib/libtcmalloc_minimal.so.4"), Path("/lib/libiomp5.so")]
    settings = ServeSettings()
    result = server.serve_environment(MODEL, settings, {"LD_PRELOAD": "/x/libiomp5.so"}, libraries, None)
    assert result["LD_PRELOAD"] == "/lib/libtcmalloc_minimal.so.4:/x/libiomp5.so"


def test_without_a_compiler_nothing_is_compiled_on_a_cpu():
    assert "TORCHDYNAMO_DISABLE" not in environment()
    assert server.serve_environment(MODEL, ServeSettings(), {}, [], None)["TORCHDYNAMO_DISABLE"] == "1"
    assert "TORCHDYNAMO_DISABLE" not in server.serve_environment(MODEL, ServeSettings(device="cuda"), {}, [], None)
    with pytest.raises(PolicyError, match="C\\+\\+ compiler"):
        server.check(ServeSettings(eager=False), {"CXX": "no-such-compiler"})


def test_adapters_can_be_loaded_at_run_time_on_a_gpu():
    assert "--enable-lora" in arguments(device="cuda", adapters=True)
    assert environment(device="cuda", adapters=True)["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"


def test_adapters_are_refused_on_a_cpu():
    with pytest.raises(PolicyError, match="Merge"):
        server.check(ServeSettings(device="cpu", adapters=True), {})


def test_a_host_that_others_reach_needs_a_key_or_consent():
    with pytest.raises(PolicyError, match="ETO_POLICY_TOKEN"):
        server.check(ServeSettings(host="0.0.0.0"), {})
    with pytest.raises(PolicyError, match="ETO_POLICY_TOKEN"):
        server.check(ServeSettings(host="policy.example"), {"ETO_POLICY_TOKEN": ""})
    server.check(ServeSettings(host="0.0.0.0"), {"ETO_POLICY_TOKEN": "secret"})
    server.check(ServeSettings(host="0.0.0.0"), {"VLLM_API_KEY": "secret"})
    server.check(ServeSettings(host="0.0.0.0", allow_anonymous=True), {})
    server.check(ServeSettings(host="localhost"), {})


def test_arguments_after_two_dashes_go_to_vllm(monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr(server, "start", lambda model, settings: seen.update(extra=settings.extra))
    monkeypatch.setattr(server, "installed_device", lambda: "cpu")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert main(["serve", "--model", "org/name", "--port", str(port), "--", "--max-logprobs", "5"]) == 0
    assert seen["extra"] == ("--max-logprobs", "5")


def test_a_port_in_use_is_one_sentence_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.setattr(server, "installed_device", lambda: "cpu")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert main(["serve", "--model", "org/name", "--port", str(listener.getsockname()[1])]) == 2
    error = capsys.readouterr().err
    assert "--port" in error
    assert error.count("\n") == 1


def test_another_device_than_the_installed_one_is_refused(monkeypatch):
    monkeypatch.setattr(server, "installed_device", lambda: "cpu")
    monkeypatch.setattr(server, "version", lambda name: "0.0+cpu")
    assert server.choose_device("auto") == "cpu"
    with pytest.raises(PolicyError, match="requirements-gpu"):
        server.choose_device("cuda")


def test_help_imports_nothing_heavy():
    code = "import sys; from policy.__main__ import parser; parser().format_help(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "vllm", "numpy"} & set(modules)


def test_prepare_prints_the_directory_and_nothing_else(tmp_path):
    write_model(tmp_path)
    command = [sys.executable, "-m", "policy", "prepare", str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{tmp_path}\n"


def write_model(directory: Path) -> None:
    (directory / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    (directory / "model.safetensors").write_bytes(b"")
    (directory / "tokenizer.json").write_text("{}")
