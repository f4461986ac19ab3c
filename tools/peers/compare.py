"""localllm beside llama.cpp's and ik_llama.cpp's own benchmarks, on the same files and threads.

    python tools/peers/compare.py MODEL.gguf... --llama-bench PATH [--llama-batched-bench PATH]
        [--ik-bench PATH] [--ik-batched-bench PATH] [--threads N] [--rounds N] [--json]

Every contestant has one turn in a round: localllm in this process, the others as fresh processes of
one repetition each (they warm up by themselves); those that can repack weights at load run with it
and without. Medians of all rounds are shown, and what localllm's are times each. Batched decode is
measured where the batched programs are given. Libraries are looked for beside each program.

Two limits of the machine are measured in every round too, as tokens per second: decode cannot be
faster than memory gives the weights, nor prefill than the fastest dot products multiply them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from localllm.engine.machine import default_threads
from localllm.engine.pages import PAGE_SIZE
from localllm.evaluate.bench import Work
from localllm.evaluate.contestants import Localllm
from localllm.evaluate.machine_rates import MachineRates, measure
from localllm.evaluate.summary import summary
from localllm.evaluate.tables import aligned, spread
from localllm.gguf import GGUFFile
from localllm.models import load_definition
from localllm.models.config import ModelConfig
from localllm.ops.packed import PackedCache

Rates = dict[str, float]  # test -> tokens per second
LIMIT = "limit of the machine"


@dataclass(frozen=True)
class Peer:
    """A peer's programs, and the flags that it is run with.

    Attributes:
        name: as it is shown.
        bench: its `llama-bench`.
        flags: for that.
        batched: its `llama-batched-bench`; None: not measured.
        batched_flags: for that.
    """

    name: str
    bench: Path
    flags: tuple[str, ...]
    batched: Path | None
    batched_flags: tuple[str, ...]


def peers(options: argparse.Namespace) -> Iterator[Peer]:
    """Each with its weights repacked at load, and as they are in the file."""
    if options.llama_bench:
        for repack in (True, False):
            yield Peer(
                f"llama.cpp{'' if repack else ', no repack'}",
                options.llama_bench,
                ("--repack", str(int(repack))),
                options.llama_batched_bench,
                () if repack else ("--no-repack",),
            )
    if options.ik_bench:
        for repack in (True, False):
            yield Peer(
                f"ik_llama.cpp{', repack' if repack else ''}",
                options.ik_bench,
                ("-rtr", str(int(repack))),
                options.ik_batched_bench,
                ("-rtr",) if repack else (),
            )


def run(program: Path, *arguments: object) -> str:
    """What a program prints.

    Raises:
        SystemExit: it failed; says what it said last.
    """
    libraries = f"{program.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":")
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"LD_LIBRARY_PATH": libraries},
    )
    if done.returncode:
        raise SystemExit(f"{program} failed:\n{(done.stderr or done.stdout)[-800:]}")
    return done.stdout


def of_peer(peer: Peer, model: Path, works: list[Work], threads: int) -> Rates:
    """One repetition of every test that the peer's programs can do."""
    prefill, decode, batched = works
    common = ("-m", model, "-t", threads)
    found: Rates = {}
    printed = run(
        peer.bench,
        *common,
        *("-p", prefill.tokens, "-n", decode.tokens, "-r", 1, "-o", "json"),
        *peer.flags,
    )
    for row in json.loads(printed):
        found[str(prefill if row["n_prompt"] else decode)] = row["avg_ts"]
    if peer.batched:
        room = batched.batch * (batched.tokens + 1)
        printed = run(
            peer.batched,
            *common,
            *("-tb", threads, "-c", room, "-npp", 1, "-ntg", batched.tokens),
            *("-npl", batched.batch, *peer.batched_flags),
        )
        found[str(batched)] = batched_rate(printed, batched.batch)
    return found


def batched_rate(printed: str, batch: int) -> float:
    """Tokens per second of decoding in the table that `llama-batched-bench` prints.

    Raises:
        SystemExit: there is no such row.
    """
    for line in printed.splitlines():
        cells = re.findall(r"[\d.]+", line) if line.startswith("|") else []
        if len(cells) == 10 and int(cells[2]) == batch:  # PP TG B N_KV T_PP S_PP T_TG S_TG T S
            return float(cells[7])
    raise SystemExit(f"llama-batched-bench printed no row for batch {batch}:\n{printed[-800:]}")


def compare(
    model: Path, contestants: list[Peer], works: list[Work], threads: int, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Tokens per second by test, then contestant: one a round."""
    file = GGUFFile.open(model)
    config = load_definition(file).config
    demand = Demand.of(file, config, works[0].tokens)
    vocabulary = config.vocab
    pages = max(work.batch * -(-work.tokens // PAGE_SIZE) for work in works)
    with tempfile.TemporaryDirectory(prefix="localllm-") as folder:
        packed = PackedCache(
            Path(folder), 1 << 40
        )  # the weights as every start after the first has them
        ours = Localllm(model, pages * PAGE_SIZE, threads, "f16", packed)
    random = np.random.default_rng(0)
    Work("decode", 2, 1, 0).run(ours, random, vocabulary)
    rates: dict[str, dict[str, list[float]]] = {str(work): {} for work in works}
    for number in range(rounds):
        print(f"{model.name}: round {number + 1} of {rounds}", file=sys.stderr)
        turns = {"localllm": {str(work): work.run(ours, random, vocabulary) for work in works}}
        turns |= {peer.name: of_peer(peer, model, works, threads) for peer in contestants}
        turns[LIMIT] = limits(demand, works, measure([threads]))
        for name, found in turns.items():
            for test, rate in found.items():
                rates[test].setdefault(name, []).append(rate)
    ours.close()
    return rates


@dataclass(frozen=True)
class Demand:
    """What a model asks of the machine for one sequence.

    Attributes:
        operand: type of the dot products; see `MachineRates.peak`.
        operations: multiplications and additions of a prompt.
        bytes_read: of weights, for each token of the answer.
    """

    operand: str
    operations: float
    bytes_read: float

    @classmethod
    def of(cls, file: GGUFFile, config: ModelConfig, prompt: int) -> Demand:
        """For a prompt of so many tokens."""
        matrices = [t for t in file.tensors.values() if len(t.shape) > 1]
        embedding = next(t for t in matrices if t.name == "token_embd.weight")
        head = next((t for t in matrices if t.name == "output.weight"), embedding)
        # of stacked experts a token needs some
        used = config.experts.used if config.experts else 1
        shares = [
            (t, used / t.shape[0] if len(t.shape) == 3 else 1.0)
            for t in matrices
            if t not in (embedding, head)
        ]
        kinds = {t.type.name for t, _ in shares}
        halves = {"F16", "BF16"}
        weights = sum(math.prod(t.shape) * share for t, share in shares)
        return cls(
            operand="int8" if kinds - halves - {"F32"} else "bf16" if kinds & halves else "float32",
            operations=2 * (prompt * weights + math.prod(head.shape)),
            bytes_read=head.nbytes + sum(t.nbytes * share for t, share in shares),
        )


def limits(demand: Demand, works: list[Work], machine: MachineRates) -> Rates:
    """What the machine could do at most: prefill and decode of one sequence."""
    prefill, decode, _ = works
    found = {str(decode): machine.memory_read().median / demand.bytes_read}
    if dots := machine.peak(demand.operand):
        found[str(prefill)] = prefill.tokens * dots.rate / demand.operations
    return found


def report(rates: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, object]]:
    """Medians and spreads, and localllm's median over each peer's and over the best peer's."""
    document = {}
    for test, found in rates.items():
        medians = {name: median(measured) for name, measured in found.items()}
        ours = medians.pop("localllm")
        theirs = [rate for name, rate in medians.items() if name != LIMIT]
        document[test] = {
            "contestants": {name: summary(measured) for name, measured in found.items()},
            "ratios": {name: ours / rate for name, rate in medians.items()},
            "ratio_to_best": ours / max(theirs) if theirs else None,
        }
    return document


def table(document: dict[str, dict[str, object]]) -> str:
    """Contestants below each other for every test; the best peer has a star."""
    rows = [["", "tokens/s (least-most)", "localllm is times"]]
    for test, found in document.items():
        rows.append([test, "", ""])
        ratios = found["ratios"]
        for name, measured in found["contestants"].items():
            ratio = ratios.get(name)
            star = " *" if ratio is not None and ratio == found["ratio_to_best"] else "  "
            rows.append(["  " + name, spread(measured), f"{ratio:.2f}x{star}" if ratio else ""])
    return aligned(rows) + "\n* the fastest peer"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="GGUF files")
    for name, text in (
        ("--llama-bench", "llama.cpp's llama-bench"),
        ("--llama-batched-bench", "llama.cpp's llama-batched-bench"),
        ("--ik-bench", "ik_llama.cpp's llama-bench"),
        ("--ik-batched-bench", "ik_llama.cpp's llama-batched-bench"),
    ):
        parser.add_argument(name, type=Path, metavar="PATH", help=text)
    parser.add_argument("--threads", type=int, default=default_threads(), help="of everyone")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every contestant")
    parser.add_argument("--prefill", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--decode", type=int, default=64, help="tokens of the answer")
    parser.add_argument("--batch", type=int, default=8, help="sequences of batched decode")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args()
    works = [
        Work("prefill", options.prefill, 1, 0),
        Work("decode", options.decode, 1, 0),
        Work("decode", options.decode, options.batch, 0),
    ]
    documents = {}
    for model in options.models:
        rates = compare(model, list(peers(options)), works, options.threads, options.rounds)
        documents[str(model)] = report(rates)
        if not options.json:
            print(f"{model.name}, {options.threads} threads\n{table(documents[str(model)])}\n")
    if options.json:
        print(json.dumps({"threads": options.threads, "models": documents}))


if __name__ == "__main__":
    main()
