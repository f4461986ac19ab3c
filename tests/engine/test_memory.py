from types import SimpleNamespace

import pytest

from localllm.engine import machine, memory
from localllm.engine.memory import choose_context, estimate, kv_bytes
from localllm.errors import LocalLLMError, UsageError

GIB = 2**30


def model(weights=4 * GIB, context_length=131_072):
    """Llama 3.1 8B's shape in 4 GiB."""
    file = SimpleNamespace(path="big.gguf", tensors={"w": SimpleNamespace(nbytes=weights)})
    config = SimpleNamespace(
        layers=32,
        kv_heads=8,
        causal=True,
        head_dim=128,
        heads=32,
        width=4096,
        ffn=14_336,
        vocab=128_256,
        context_length=context_length,
    )
    return file, config


def test_a_token_of_llama_8b_takes_128_kib():
    _, config = model()
    assert kv_bytes(config, 1, "f16") == 128 * 1024
    assert kv_bytes(config, 1, "f32") == 256 * 1024
    assert 0.5 < kv_bytes(config, 1, "int8") / kv_bytes(config, 1, "f16") < 0.55


def test_the_default_context_is_what_fits():
    assert choose_context(*model(), None, 64 * GIB) == memory.DEFAULT_CONTEXT
    assert choose_context(*model(context_length=2048), None, 64 * GIB) == 2048
    tight = choose_context(*model(), None, int(4.6 * GIB))
    assert 512 <= tight < 4096
    assert tight % 256 == 0
    assert estimate(*model(), tight).total <= 4.6 * GIB


def test_an_asked_context_is_kept_whatever_it_is():
    assert choose_context(*model(), 100_000, 64 * GIB) == 100_000
    assert choose_context(*model(context_length=2048), 4096, 64 * GIB) == 4096
    assert choose_context(*model(), 1, 64 * GIB) == 1


def test_too_little_memory_says_both_numbers_and_what_would_fit():
    with pytest.raises(LocalLLMError) as caught:
        choose_context(*model(), 32_768, 6 * GIB)
    text = str(caught.value)
    assert "big.gguf: not enough memory: it needs 8.75 GB" in text
    assert "4.29 GB weights, 4.29 GB KV cache for 32768 tokens" in text
    assert "6.44 GB are available" in text
    assert "would fit; --kv-type int8 halves" in text
    fitting = int(text.split("--ctx ")[1].split()[0])
    assert choose_context(*model(), fitting, 6 * GIB) == fitting
    with pytest.raises(LocalLLMError, match="would fit; --kv-type f16 halves"):
        choose_context(*model(), 32_768, 6 * GIB, "f32")


@pytest.mark.parametrize("asked", [None, 512, 4096])
def test_a_model_too_large_for_the_machine(asked):
    with pytest.raises(LocalLLMError, match="a smaller quantisation or a smaller model"):
        choose_context(*model(weights=40 * GIB), asked, 16 * GIB)


@pytest.mark.parametrize("asked", [0, -1])
def test_impossible_contexts(asked):
    with pytest.raises(UsageError, match=f"--ctx {asked}: must be >= 1"):
        choose_context(*model(), asked, 64 * GIB)


def test_threads_and_memory_of_this_machine():
    assert machine.default_threads() >= 1
    assert machine.available_memory() > 0


def test_limits_of_a_container_count(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    free = machine.available_memory()
    assert free > 10_000_000
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert machine.default_threads() == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.default_threads() >= 1
    (tmp_path / "memory.max").write_text("8000000\n")
    (tmp_path / "memory.current").write_text("5000000\n")
    (tmp_path / "memory.stat").write_text("anon 1000000\ninactive_file 3000000\nactive_file 1000\n")
    assert machine.available_memory() == 8_000_000 - 5_000_000 + 3_001_000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.available_memory() > 8_000_000
