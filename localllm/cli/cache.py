"""`localllm cache`: the packed weights kept on disk."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from localllm.cli.options import EngineOptions, OutputOptions, with_options
from localllm.cli.settings import packed_cache, settle
from localllm.units import in_bytes


@with_options
def command(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all of them.")] = False,
    *,
    output: OutputOptions,
) -> None:
    """Show or clear the packed weights kept on disk.

    The first start of a model rearranges its weights for this machine's kernels and keeps the
    result, so that later starts are quick. They can be removed at any time.
    """
    cache = packed_cache(settle(EngineOptions()).packed_cache)
    freed = cache.clear() if clear else 0
    files = cache.files()
    size = sum(files.values()) + sum(cache.unfinished().values())
    if output.json:
        document = {
            "folder": str(cache.folder),
            "files": len(files),
            "bytes": size,
            "limit": cache.limit,
            "freed": freed,
        }
        print(json.dumps(document, ensure_ascii=False))
        return
    if clear:
        print(f"{in_bytes(freed)} freed")
    models = "1 model" if len(files) == 1 else f"{len(files)} models"
    print(f"{cache.folder}: {models}, {in_bytes(size)} of at most {in_bytes(cache.limit)}")
