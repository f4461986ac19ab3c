"""tools/peers/quantize.py: what it measures."""

import importlib.util
from pathlib import Path

from localllm.evaluate.synthetic import random_model

TOOL = Path(__file__).parents[2] / "tools" / "peers" / "quantize.py"


def test_both_are_measured(tmp_path, monkeypatch) -> None:
    spec = importlib.util.spec_from_file_location("peers_quantize", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setenv("PYTHONPATH", str(TOOL.parents[2]))
    model = random_model(tmp_path / "model.gguf", "llama", "F16")
    program = tmp_path / "llama-quantize"
    program.write_text('#!/bin/sh\ncp "$2" "$3"\n')
    program.chmod(0o755)
    row = tool.compare(model, "Q8_0", program, threads=1, rounds=2, folder=tmp_path)
    ours, theirs = row["localllm_seconds"], row["llama-quantize_seconds"]
    assert row["times_as_fast"] == theirs / ours > 0
    assert 10e6 < row["localllm_bytes"] < row["allowed_bytes"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama-quantize", "model.gguf"]
