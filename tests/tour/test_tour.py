"""The README's way from a name to a measured choice, as it stands there, line by line."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from localllm.hub.names import resolve
from tests.hub.standin import Repo, standin
from tests.tour.checkpoint import write_checkpoint

README = Path(__file__).resolve().parents[2] / "README.md"
REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"
SHOWN = {  # what each command prints, among other things
    "pull": REPOSITORY,
    "convert": "mine.gguf",
    "imatrix": "mine.imatrix",
    "quantize": "Q4_K",
    "eval": "KL divergence",
    "report": "Q5_K_M",
    "chat": "42",
    "curl": "42",
    "stop": "",
}


def lines():
    """The commands of the tour, each whole."""
    block = re.search(r"```sh\n(localllm pull .*?)```", README.read_text(encoding="utf-8"), re.S)
    return block[1].replace("\\\n", " ").splitlines()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("name", ["convert", "imatrix"])
def test_the_python_of_the_documents(name, tmp_path):
    write_checkpoint(tmp_path / "Qwen3-0.6B")
    shutil.copy(resolve(None).path, tmp_path / "model.gguf")
    (tmp_path / "text.txt").write_text("Hello there. What is 12 + 30? " * 100)
    text = (README.parent / "docs" / f"{name}.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(README.parent)},
        cwd=tmp_path,
        check=True,
        timeout=120,
    )


@pytest.mark.skipif(not shutil.which("curl"), reason="the tour asks the server with curl")
def test_the_tour_of_the_readme(tmp_path):
    write_checkpoint(tmp_path / "my-finetune")
    files = {path.name: path.read_bytes() for path in (tmp_path / "my-finetune").iterdir()}
    command = tmp_path / "bin" / "localllm"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m localllm "$@"\n')
    command.chmod(0o755)
    port = free_port()
    seen = []
    with standin() as hub:
        hub.repos[REPOSITORY] = Repo(files)
        environment = {
            "PATH": f"{command.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(README.parent),
            "HOME": str(tmp_path),
            "HF_ENDPOINT": hub.url,
        }
        for line in lines():
            line = line.replace("8080", str(port))
            # the whole of the texts takes a minute
            line = re.sub("localllm (imatrix|eval|report)", r"\g<0> --chunks 2", line)
            if line.endswith("&"):
                words = [*line.removesuffix("&").split(), "--port", str(port)]
                server = subprocess.Popen(words, env=environment, cwd=tmp_path)
                continue
            ran = subprocess.run(
                line,
                shell=True,
                env=environment,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=240,
            )
            assert ran.returncode == 0, (line, ran.stderr)
            name = re.search(r"localllm (\w+)|curl", line)
            seen.append(name[1] or name[0])
            assert SHOWN[seen[-1]] in ran.stdout, (line, ran.stdout, ran.stderr)
        assert server.wait(60) == 0
    assert seen == list(SHOWN)
    answer = json.loads(
        subprocess.run(
            [str(command), "show", "mine-int4.gguf", "--json"],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
    )
    assert answer["architecture"] == "llama"
    assert (tmp_path / "choice.svg").read_text().startswith("<svg")
