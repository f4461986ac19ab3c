"""`localllm imatrix`: measures how much each column of a model's weights matters."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from localllm.cli.loading import find, load_engine, progress
from localllm.cli.options import (
    Chunks,
    ChunkTokens,
    Data,
    EngineOptions,
    Force,
    Model,
    OutputOptions,
    Threads,
    with_options,
)
from localllm.cli.output_file import output_file
from localllm.errors import LocalLLMError, UsageError
from localllm.terminal import one_line
from localllm.units import in_bytes

_TEXTS_AT_ONCE = 4


@with_options
def command(
    model: Model,
    out: Annotated[str, typer.Option("-o", "--out", metavar="FILE", help="Where to write it.")],
    data: Data = None,
    ctx: ChunkTokens = 512,
    chunks: Chunks = None,
    force: Force = False,
    threads: Threads = None,
    *,
    output: OutputOptions,
) -> None:
    """Measure how much each column of a model's weights matters, for quantising."""
    for flag, value in (("ctx", ctx), ("chunks", chunks)):
        if value is not None and value < 1:
            raise UsageError(f"--{flag} {value}: must be >= 1")

    from localllm.compress.calibration import CALIBRATION_TEXT, collect
    from localllm.compress.imatrix import write_imatrix
    from localllm.evaluate.texts import cut, read_text
    from localllm.gguf import GGUFFile
    from localllm.tokenize import load_tokenizer

    source = CALIBRATION_TEXT if data is None else Path(data)
    text = read_text(source)
    found = find(model)
    file = GGUFFile.open(found.path)
    shards = (shard.path for shard in file.shards)
    target = output_file("--out", Path(out), (source, *shards), force)
    tokenizer = load_tokenizer(file)
    pieces = cut(tokenizer, text, ctx, chunks, least=1).tolist()
    options = EngineOptions(ctx=ctx, threads=threads, kv_type="f16", device="cpu", draft="none")
    engine, _ = load_engine(found, options, texts=_TEXTS_AT_ONCE)
    start = time.perf_counter()
    with progress() as line:

        def say(done: int, total: int) -> None:
            rate = done / (time.perf_counter() - start)
            left = (total - done) / rate
            line.say(f"{done:,} of {total:,} tokens, {rate:,.0f} a second, {left:.0f} s left")

        squares = collect(engine, pieces, say)
    seconds = time.perf_counter() - start
    dataset = source.name if data is None else one_line(data)
    try:
        write_imatrix(target, squares, chunks=len(pieces), chunk_size=ctx, datasets=[dataset])
    except OSError as error:
        raise LocalLLMError(f"--out {out}: cannot be written: {error.strerror}") from None
    unseen = {name: int((one.rows == 0).sum()) for name, one in squares.items()}
    unseen = {name: count for name, count in unseen.items() if count}
    report = {
        "model": found.name,
        "out": str(target),
        "bytes": target.stat().st_size,
        "data": str(source),
        "chunks": len(pieces),
        "chunk_size": ctx,
        "tokens": len(pieces) * ctx,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(len(pieces) * ctx / seconds, 1),
        "weights": len(squares),
        "unseen_experts": unseen,
    }
    if output.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        print(
            f"{one_line(str(target))}: {len(squares)} weights, {in_bytes(target.stat().st_size)}; "
            f"{len(pieces)} chunks of {ctx} tokens in {seconds:.1f} s "
            f"({len(pieces) * ctx / seconds:,.0f} tokens a second)"
        )
    if unseen:
        print(
            f"note: no token reached some experts of {len(unseen)} weights, {sum(unseen.values())} "
            "in all: a longer text reaches more",
            file=sys.stderr,
        )
