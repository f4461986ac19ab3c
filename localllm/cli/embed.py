"""`localllm embed`: texts as vectors."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from localllm.cli.loading import find, load_engine, progress, read_stdin
from localllm.cli.options import EngineOptions, Model, OutputOptions, Threads, option, with_options
from localllm.errors import ContextFullError, UsageError

if TYPE_CHECKING:
    from localllm.engine.engine import Engine
    from localllm.engine.runner import Rows

_TOGETHER = 1024  # texts: enough to fill steps, and vectors come while others are computed


@with_options
def command(
    model: Model,
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT...", help="The texts; without any, the lines of stdin."),
    ] = None,
    pooling: Annotated[
        str | None,
        option(
            "--pooling",
            text="How a text's tokens become one vector: mean, cls (the first) or last. Default: "
            "what the file says, else mean.",
        ),
    ] = None,
    dimensions: Annotated[
        int | None, option("--dimensions", text="Keep the first N components only.", metavar="N")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Do not bring the vectors to length 1.")
    ] = False,
    ctx: Annotated[int | None, option("--ctx", text="Most tokens of a text.")] = None,
    threads: Threads = None,
    device: Annotated[str | None, option("--device", text="Where to compute: cpu.")] = None,
    *,
    output: OutputOptions,
) -> None:
    """Turn texts into vectors.

    Every vector is a line; the nearer two meanings, the larger the product of their vectors.
    """
    from localllm.engine.embedding import POOLINGS, Embedding, default_pooling, shortened

    if pooling is not None and pooling not in POOLINGS:
        raise UsageError(f"--pooling {pooling}: must be one of {', '.join(POOLINGS)}")
    found = find(model)
    content = _texts(texts)
    engine, _ = load_engine(found, EngineOptions(ctx=ctx, threads=threads, device=device))
    width = engine.config.width
    if dimensions is not None and not 1 <= dimensions <= width:
        raise UsageError(f"--dimensions {dimensions}: must be >= 1 and <= {width} with this model")
    chosen = pooling or default_pooling(engine.file)

    start = time.perf_counter()
    tokens: list[int] = []
    vectors: list[list[float]] = []
    encoded = _encoded(content, engine)
    with progress() as line:
        while together := list(islice(encoded, _TOGETHER)):
            line.say(f"embedding text {len(tokens) + 1:,} of {len(content):,} …")
            embedding = Embedding(engine, together, chosen)
            while embedding.waiting:
                embedding.step()
            tokens += map(len, together)
            rows = shortened(embedding.vectors, dimensions, not raw)
            if output.json:
                vectors += rows.tolist()
            else:
                line.end()
                _print(rows)
    if output.json:
        document = {
            "model": found.name,
            "pooling": chosen,
            "dimensions": dimensions or width,
            "normalized": not raw,
            "tokens": tokens,
            "seconds": time.perf_counter() - start,
            "embeddings": vectors,
        }
        print(json.dumps(document, ensure_ascii=False))


def _texts(arguments: list[str] | None) -> list[str]:
    """The arguments, or the lines of stdin.

    Raises:
        UsageError: there is none, or one is empty; says which.
    """
    where = "text" if arguments else "line"
    if not arguments and sys.stdin.isatty():
        raise UsageError("there is no text", "give some as arguments, or lines through a pipe")
    texts = arguments or _lines(read_stdin())
    if not texts:
        raise UsageError("there is no text: stdin is empty")
    for number, text in enumerate(texts, 1):
        if not text.strip():
            raise UsageError(f"{where} {number}: is empty: there is nothing to embed")
    return texts


def _lines(text: str) -> list[str]:
    """The lines; a form feed or another mark that `str.splitlines` knows ends none."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def _encoded(texts: Iterable[str], engine: Engine) -> Iterator[list[int]]:
    """The token ids of each text.

    Raises:
        ContextFullError: one is too long; says which.
    """
    for number, text in enumerate(texts, 1):
        ids = engine.tokenizer.encode(text)
        if len(ids) > engine.context:
            hint = "shorter pieces fit"
            if engine.context < engine.config.context_length:
                hint = f"--ctx takes up to {engine.config.context_length} with this model"
            raise ContextFullError(
                f"text {number}: is {len(ids)} tokens long; the context holds {engine.context}",
                hint,
            )
        yield ids


def _print(rows: Rows) -> None:
    """A line a vector, each number in the fewest digits that give it back."""
    for row in rows:
        print(*map(str, row))
