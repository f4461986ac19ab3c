"""`localllm tokenize`: a text as tokens."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from localllm.cli.loading import find, read_stdin
from localllm.cli.options import Model, OutputOptions, with_options
from localllm.errors import UsageError
from localllm.terminal import printable


@with_options
def command(
    model: Model,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="The text.")] = None,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read the text from stdin.")] = False,
    no_special: Annotated[
        bool, typer.Option("--no-special", help="Do not add the tokens that begin and end a text.")
    ] = False,
    parse_special: Annotated[
        bool, typer.Option("--parse-special", help="Take <|…|> in the text for the token it names.")
    ] = False,
    *,
    output: OutputOptions,
) -> None:
    """Show how a model splits a text into tokens."""
    if (text is None) == (not stdin):
        raise UsageError("give either TEXT or --stdin")
    found = find(model)
    content = read_stdin() if text is None else text

    from localllm.gguf import GGUFFile
    from localllm.tokenize import load_tokenizer

    tokenizer = load_tokenizer(GGUFFile.open(found.path))
    ids = tokenizer.encode(content, add_special=not no_special, parse_special=parse_special)
    pieces = [tokenizer.token_bytes(token).decode("utf-8", "backslashreplace") for token in ids]
    if output.json:
        print(json.dumps({"ids": ids, "pieces": pieces}, ensure_ascii=False))
        return
    for token, piece in zip(ids, pieces, strict=True):
        print(f"{token:>8}  {printable(json.dumps(piece, ensure_ascii=False))}")
