"""tools/benchmarks.py, tools/peers/compare.py, tools/serve_load.py: what they write."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from localllm.errors import LocalLLMError
from localllm.evaluate import load, overhead, serving
from localllm.evaluate.bench import Work
from localllm.evaluate.synthetic import random_model

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def tool(monkeypatch):
    """Loads a tool by its path."""

    def load(name):
        spec = importlib.util.spec_from_file_location(Path(name).stem, TOOLS / name)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look
        spec.loader.exec_module(module)
        return module

    return load


def program(path, text):
    """A program that prints a text, whatever it is asked."""
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    path.chmod(0o755)
    return path


def test_compare(tool, tmp_path):
    compare = tool("peers/compare.py")
    model = random_model(tmp_path / "model.gguf", "llama", "Q8_0")
    rows = [{"n_prompt": 4, "avg_ts": 1e9}, {"n_prompt": 0, "avg_ts": 2e-9}]
    bench = program(tmp_path / "llama-bench", json.dumps(rows))
    batched = program(
        tmp_path / "batched",
        "main: n_kv_max = 64\n|    PP |     TG |    B |   N_KV |   T_PP s |\n|-------|-------|\n"
        "|     1 |      2 |    3 |      9 |  0.1 |  10.00 |  0.2 |  12.50 |  0.3 |  20.00 |",
    )
    peers = [
        compare.Peer("fast", bench, ("--flag",), batched, ()),
        compare.Peer("other", bench, (), None, ()),
    ]
    works = [Work("prefill", 4, 1, 0), Work("decode", 2, 1, 0), Work("decode", 2, 3, 0)]
    document = compare.report(compare.compare(model, peers, works, threads=1, rounds=2))
    assert list(document) == ["prefill 4", "decode 2", "decode 2, batch 3"]
    assert document["prefill 4"]["contestants"]["other"]["measured"] == [1e9, 1e9]
    assert document["prefill 4"]["ratio_to_best"] < 1 < document["decode 2"]["ratio_to_best"]
    assert list(document["decode 2, batch 3"]["ratios"]) == ["fast"]
    assert document["decode 2, batch 3"]["contestants"]["fast"]["median"] == 12.5
    assert "fast" in compare.table(document)


def test_compare_says_which_program_failed(tool, tmp_path):
    compare = tool("peers/compare.py")
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no such model >&2\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(SystemExit, match=r"broken failed:\nno such model"):
        compare.run(broken)
    with pytest.raises(SystemExit, match="no row for batch 8"):
        compare.batched_rate("| 1 | 2 |", 8)


def test_the_page(tool, tmp_path, monkeypatch):
    benchmarks = tool("benchmarks.py")
    small = random_model(tmp_path / "small.gguf", "llama", "Q8_0", context=4096)
    monkeypatch.setattr(benchmarks, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(benchmarks, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(benchmarks, "REPETITIONS", "1")
    quick = ("--prefill", "4", "--decode", "2", "--threads", "1")
    pieces = {"alone": quick, "start": (*quick, "--startup", "--copy")}
    monkeypatch.setattr(benchmarks, "PIECES", pieces | {"batch": (), "deep": ()})
    monkeypatch.setattr(
        benchmarks, "catalog_model", lambda path, entry, quant: path.symlink_to(small)
    )
    arguments = [
        "benchmarks.py",
        *(f"--only=qwen3-0.6b:Q8_0:{piece}" for piece in ("alone", "start")),
    ]
    monkeypatch.setattr("sys.argv", arguments)
    benchmarks.main()
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| decode 2 | qwen3-0.6b Q8_0 |" in text
    assert "| qwen3-0.6b Q8_0 | localllm, second start |" in text
    assert "| qwen3-0.6b Q8_0 | yes |" in text
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == [
        "qwen3-0.6b-Q8_0-alone.json",
        "qwen3-0.6b-Q8_0-start.json",
    ]
    kept = tmp_path / "results" / "qwen3-0.6b-Q8_0-alone.json"
    report = json.loads(kept.read_text())
    kept.write_text(json.dumps(report | {"version": "0.0.1"}))
    monkeypatch.setattr(benchmarks, "catalog_model", None)  # nothing is measured again
    monkeypatch.setattr("sys.argv", [*arguments, "--resume"])
    benchmarks.main()
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert f"localllm 0.0.1, localllm {report['version']}, Python " in text


def test_what_is_measured_again(tool, tmp_path, monkeypatch):
    benchmarks = tool("benchmarks.py")
    measured = []

    def localllm(*arguments):
        peer = arguments[arguments.index("--vs") + 1] if "--vs" in arguments else None
        measured.append(peer)
        return {"versus": peer}

    monkeypatch.setattr(benchmarks, "RESULTS", tmp_path)
    monkeypatch.setattr(benchmarks, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(benchmarks, "catalog_model", lambda path, entry, quant: path.touch())
    monkeypatch.setattr(benchmarks, "localllm", localllm)
    monkeypatch.setattr(benchmarks, "page", lambda: "")
    piece = "--only=qwen3-0.6b:Q8_0:alone"
    for arguments, expected in (
        ([], [None]),
        ([], [None]),  # as the code may have changed
        (["--resume"], []),
        (["--resume", "--vs", "llama.cpp"], ["llama.cpp"]),  # the report is without the peer
        (["--resume", "--vs", "llama.cpp"], []),
        (["--resume"], []),
        (["--vs", "llama.cpp"], ["llama.cpp"]),
    ):
        measured.clear()
        monkeypatch.setattr("sys.argv", ["benchmarks.py", piece, *arguments])
        benchmarks.main()
        assert measured == expected, arguments


def test_a_run_that_is_ended_leaves_nothing_older(tool, tmp_path, monkeypatch):
    benchmarks = tool("benchmarks.py")

    def ended(*arguments):
        raise SystemExit(1)

    monkeypatch.setattr(benchmarks, "RESULTS", tmp_path)
    monkeypatch.setattr(benchmarks, "catalog_model", lambda path, entry, quant: path.touch())
    monkeypatch.setattr(benchmarks, "localllm", ended)
    monkeypatch.setattr("sys.argv", ["benchmarks.py"])
    old = [benchmarks.place(*name.split(":")) for name in benchmarks.NAMES]
    for path in old:
        path.touch()
    with pytest.raises(SystemExit):
        benchmarks.main()
    assert not any(path.exists() for path in old)


def test_serve_load(tool, tmp_path, monkeypatch, capsys):
    serve_load = tool("serve_load.py")
    # Its answers are as long as the context: they must last while the long prompt is read.
    model = random_model(tmp_path / "model.gguf", "llama", "Q8_0", context=8192)
    for module, name, value in (
        (serving, "CLIENTS", (1, 2)),
        (serving, "LONG_PROMPT", 768),
        (serving, "PREFIX", 768),
        (serve_load, "CLIENTS", (1, 2)),
        (serving, "STREAMS", (2,)),
        (serving, "DISTINCT", 2),
        (load, "IDLE_EVENTS", 4),
        (overhead, "SINGLES", 2),
    ):
        monkeypatch.setattr(module, name, value)
    flags = "--threads 1 --rounds 1 --requests 2 --sharing 2 --soak 10"
    monkeypatch.setattr("sys.argv", ["serve_load.py", str(model), *flags.split()])
    serve_load.main()
    printed = capsys.readouterr().out
    for expected in (
        "model.gguf, 1 threads, context 8192",
        "\n2 clients\n  localllm ",
        "while a prompt of 768 is read",
        "\n2 streams\n  localllm ",
        "prefix of 768 tokens",
        "HTTP adds, ms",
        "Resident memory of the server: ",
    ):
        assert expected in printed


def test_serve_load_says_why_a_server_does_not_run(tool, tmp_path):
    serve_load = tool("serve_load.py")
    broken = serve_load.Contestant("broken", ("/bin/sh", "-c", "echo no such model >&2"), {})
    with (
        pytest.raises(LocalLLMError, match="broken does not run:\nno such model"),
        serve_load.running(broken),
    ):
        pass
