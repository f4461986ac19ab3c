"""`localllm serve` under load, beside llama.cpp's server on the same file and threads.

    python tools/serve_load.py [MODEL.gguf] [--llama-server PATH] [--threads N] [--rounds N]
        [--only throughput|fairness|prefix|overhead]... [--soak N] [--json]

The servers run as processes and take turns under load; between turns they must be idle. Prompts are
cut from the project's own documents and begin differently, so that nothing is found in a cache that
is not meant to be; answers are the likeliest tokens and have given lengths. localllm drafts no
tokens here: random weights repeat themselves, which flatters drafts. llama-server runs with its
weights repacked and as they are in the file. The client runs on the same cores, for everyone alike;
what it takes of them is shown.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from localllm.cli.settings import packed_cache
from localllm.engine.engine import Engine
from localllm.engine.machine import default_threads
from localllm.errors import LocalLLMError
from localllm.evaluate.load import Prompts
from localllm.evaluate.overhead import overhead
from localllm.evaluate.serving import ANSWERS, CLIENTS, Load, fairness, prefix, soak, throughput
from localllm.evaluate.streams import Server
from localllm.evaluate.tables import aligned, spread
from localllm.gguf import GGUFFile
from localllm.hub.names import resolve
from localllm.models import load_definition
from localllm.tokenize import load_tokenizer
from localllm.units import in_bytes, rate

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = ("throughput", "fairness", "prefix", "overhead")
OURS = "localllm"


@dataclass(frozen=True)
class Contestant:
    """A server program: its name, its command but for the port, and its environment."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]


@dataclass(frozen=True)
class Setting:
    """What is measured on: the file, threads, context of one text, and the text of the prompts."""

    model: Path
    threads: int
    context: int
    prompts: Prompts

    @classmethod
    def of(cls, model: Path, threads: int) -> Setting:
        """The setting for a model file.

        Raises:
            LocalLLMError: so few of its tokens have a text that streams would show nothing.
        """
        file = GGUFFile.open(model)
        pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
        text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
        trained = load_definition(file).config.context_length
        tokenizer = load_tokenizer(file)
        with_text = sum(bool(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size))
        if 2 * with_text < tokenizer.vocab_size:
            raise LocalLLMError(f"{model}: most of its tokens have no text: nothing is streamed")
        prompts = Prompts(tokenizer.encode(text, add_special=False))
        return cls(model, threads, min(8192, trained), prompts)

    def ours(self) -> Contestant:
        """localllm."""
        command = (
            *(sys.executable, "-c", "from localllm.cli.app import main; main()"),
            *("serve", str(self.model), "--threads", str(self.threads), "--kv-type", "f16"),
            *("--ctx", str(self.context), "--parallel", str(ANSWERS), "--draft", "none"),
        )
        path = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}".rstrip(":")
        return Contestant(OURS, command, {"PYTHONPATH": path})

    def peers(self, program: Path | None, slots: int) -> Iterator[Contestant]:
        """llama-server with so many slots, as it is and without repacking."""
        if program is None:
            return
        command = (
            *(str(program), "-m", str(self.model), "-t", str(self.threads)),
            *("-tb", str(self.threads), "-np", str(slots), "-c", str(slots * self.context)),
            *("--no-webui", "--cache-ram", "0", "--threads-http", "40"),
        )
        libraries = f"{program.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":")
        for name, flags in (("llama-server", ()), ("llama-server, no repack", ("--no-repack",))):
            yield Contestant(name, command + flags, {"LD_LIBRARY_PATH": libraries})


@dataclass(frozen=True)
class Running:
    """A server that listens."""

    server: Server
    process: psutil.Process

    def idle_cpu(self, seconds: float = 2.0) -> float:
        """Share of a core that it takes while nobody asks."""
        before = sum(self.process.cpu_times()[:2])
        time.sleep(seconds)
        return (sum(self.process.cpu_times()[:2]) - before) / seconds


@contextmanager
def running(contestant: Contestant) -> Iterator[Running]:
    """Start a server, and end it.

    Raises:
        LocalLLMError: it does not listen; says what it said last.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        tempfile.TemporaryFile("w+", errors="replace") as said,
        subprocess.Popen(
            [*contestant.command, "--port", str(port)],
            env=os.environ | contestant.environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        ) as process,
    ):
        try:
            deadline = time.monotonic() + 300
            while not healthy(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    raise LocalLLMError(f"{contestant.name} does not run:\n{said.read()[-800:]}")
                time.sleep(0.1)
            server = Server(contestant.name, "127.0.0.1", port)
            yield Running(server, psutil.Process(process.pid))
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def healthy(port: int) -> bool:
    """Whether a server on this port is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@contextmanager
def all_running(contestants: Iterable[Contestant]) -> Iterator[list[Running]]:
    """Every server."""
    with ExitStack() as stack:
        yield [stack.enter_context(running(one)) for one in contestants]


def measure(setting: Setting, options: argparse.Namespace) -> dict[str, Any]:
    """The report: a part for each section that was asked for."""
    load = Load(setting.prompts, setting.context, options.rounds, say)
    found: dict[str, Any] = {
        "model": str(setting.model),
        "threads": setting.threads,
        "context": setting.context,
        "rounds": options.rounds,
    }
    wanted = options.only or SECTIONS
    peers = options.llama_server
    if {"throughput", "prefix"} & set(wanted):
        with all_running([setting.ours(), *setting.peers(peers, ANSWERS)]) as everyone:
            servers = [one.server for one in everyone]
            if "throughput" in wanted:
                found["throughput"] = throughput(load, servers, options.requests)
            if "prefix" in wanted:
                found["prefix"] = prefix(load, servers, options.sharing)
            found["idle_cpu"] = {one.server.name: one.idle_cpu() for one in everyone}
    if "fairness" in wanted:  # the long prompt has a slot of its own
        with all_running([setting.ours(), *setting.peers(peers, ANSWERS + 1)]) as everyone:
            found["fairness"] = fairness(load, [one.server for one in everyone])
    if "overhead" in wanted:
        with running(setting.ours()) as one:
            engine = Engine.load(
                setting.model,
                context=setting.context,
                texts=ANSWERS,
                threads=setting.threads,
                packed=packed_cache(None),  # as the server has them
                drafter=None,
            )
            found["overhead"] = overhead(load, one.server, engine)
    if options.soak:
        with running(setting.ours()) as one:
            found["soak"] = soak(
                load, one.server, options.soak, lambda: one.process.memory_info().rss
            )
    return found


def say(text: str) -> None:
    """What is being measured."""
    print(text, file=sys.stderr, flush=True)


def tables(report: dict[str, Any]) -> Iterator[str]:
    """A table for each section of a report."""
    yield (
        f"{Path(report['model']).name}, {report['threads']} threads, "
        f"context {report['context']}, medians of {report['rounds']} (least-most)"
    )
    if "throughput" in report:
        yield throughput_table(report["throughput"])
    if "idle_cpu" in report:
        shares = (f"{name} {share:.1%}" for name, share in report["idle_cpu"].items())
        yield "CPU while nobody asks, of one core: " + "; ".join(shares)
    if "fairness" in report:
        yield fairness_table(report["fairness"])
    if "prefix" in report:
        yield prefix_table(report["prefix"])
    if "overhead" in report:
        yield overhead_table(report["overhead"])
    if "soak" in report:
        first, *later = report["soak"]
        yield (
            f"Resident memory of the server: {in_bytes(first)} when warm, then "
            + ", ".join(map(in_bytes, later))
            + f": {later[-1] / first - 1:+.1%}"
        )


def throughput_table(found: dict[str, Any]) -> str:
    """Contestants below each other for every number of clients."""
    one_client = found[str(CLIENTS[0])]
    rows = [
        [
            *("", "tokens/s", "of one client", "localllm is", "requests/s"),
            *("first token", "p99, s", "between, ms", "p99", "client CPU"),
        ]
    ]
    for clients, by_name in found.items():
        rows.append([f"{clients} clients" if clients != "1" else "1 client", *[""] * 9])
        ours = by_name[OURS]["tokens_per_second"]["median"]
        for name, figures in by_name.items():
            value = {key: figure["median"] for key, figure in figures.items()}
            speed = value["tokens_per_second"]
            alone = one_client[name]["tokens_per_second"]["median"]
            rows.append(
                [
                    "  " + name,
                    spread(figures["tokens_per_second"]),
                    f"{speed / alone:.2f}x",
                    f"{ours / speed:.2f}x" if name != OURS else "",
                    rate(value["requests_per_second"]),
                    f"{value['first_token_median']:.3f}",
                    f"{value['first_token_p99']:.3f}",
                    milliseconds(value["between_tokens_median"]),
                    milliseconds(value["between_tokens_p99"]),
                    f"{value['client_cpu']:.0%}",
                ]
            )
    return "Mixed requests\n" + aligned(rows)


def fairness_table(found: dict[str, Any]) -> str:
    """Gaps between tokens before and while the prompt is read, and the prompt's own wait."""
    rows = [
        [
            *("", "idle, ms", "p99", "reading, ms", "p99", "p99 ratio"),
            *("prompt, s", "alone, s", "ratio"),
        ]
    ]
    for streams, by_name in found["streams"].items():
        rows.append([f"{streams} streams" if streams != "1" else "1 stream", *[""] * 8])
        for name, value in by_name.items():
            rows.append(
                [
                    "  " + name,
                    milliseconds(value["idle_median"]),
                    milliseconds(value["idle_p99"]),
                    milliseconds(value["reading_median"]),
                    milliseconds(value["reading_p99"]),
                    f"{value['p99_ratio']:.2f}x",
                    f"{value['first_token']:.2f}",
                    f"{value['first_token_alone']:.2f}",
                    f"{value['first_token_ratio']:.2f}x",
                ]
            )
    title = f"Between the tokens of answers, idle and while a prompt of {found['prompt']:,} is read"
    return f"{title}\n{aligned(rows)}"


def prefix_table(found: dict[str, Any]) -> str:
    """Seconds to the first token with and without a common prefix."""
    rows = [["", "distinct, s", "shared, s", "ratio"]]
    for clients, by_name in found["clients"].items():
        rows.append([f"{clients} clients" if clients != "1" else "1 client", "", "", ""])
        for name, value in by_name.items():
            cells = [f"{value[key]:.4f}" for key in ("without", "with")]
            rows.append(["  " + name, *cells, f"{value['ratio']:.3f}x"])
    return f"First token, prefix of {found['prefix']:,} tokens\n{aligned(rows)}"


def overhead_table(found: dict[str, Any]) -> str:
    """What a request takes with HTTP and without."""
    rows = [
        ["GET /health, ms", milliseconds(found["health_seconds"])],
        ["one token over HTTP, ms", milliseconds(found["request_seconds"])],
        ["one token without, ms", milliseconds(found["worker_seconds"])],
        ["HTTP adds, ms", milliseconds(found["added_seconds"])],
        [f"{ANSWERS} answers over HTTP, tokens/s", spread(found["http_tokens_per_second"])],
        [f"{ANSWERS} answers without, tokens/s", spread(found["engine_tokens_per_second"])],
        ["lost", f"{found['decode_overhead']:.1%}"],
    ]
    return "What HTTP adds\n" + aligned(rows)


def milliseconds(seconds: float) -> str:
    """`12.3`."""
    return f"{1000 * seconds:,.{2 if seconds < 0.01 else 1}f}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="GGUF file; default: tiny-chat")
    parser.add_argument("--llama-server", type=Path, metavar="PATH", help="measure it too")
    parser.add_argument("--threads", type=int, default=default_threads(), help="of everyone")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every contestant")
    parser.add_argument("--requests", type=int, default=32, help="of a turn of throughput")
    parser.add_argument("--sharing", type=int, default=200, help="requests that share a prefix")
    parser.add_argument(
        "--only", action="append", choices=SECTIONS, metavar="SECTION", help="repeatable"
    )
    parser.add_argument("--soak", type=int, metavar="N", help="memory over so many requests, too")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args()
    try:
        setting = Setting.of(resolve(options.model).path.resolve(), options.threads)
        report = measure(setting, options)
    except LocalLLMError as error:
        raise SystemExit(f"error: {error}") from None
    print(json.dumps(report) if options.json else "\n\n".join(tables(report)))


if __name__ == "__main__":
    main()
