"""`localllm pull`: download a model."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localllm.cli.options import OutputOptions, with_options
from localllm.errors import LocalLLMError
from localllm.hub.folders import hugging_face_cache
from localllm.hub.names import NotHereError
from localllm.terminal import one_line
from localllm.units import in_bytes

if TYPE_CHECKING:
    from localllm.hub.pull import Pulled


@with_options
def command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="user/repo[:QUANT], hf.co/…, hf://…, a link to a .gguf file, or a name from "
            "`localllm list`.",
        ),
    ],
    fit: Annotated[
        bool,
        typer.Option("--fit", help="Of several quantisations take the best that fits the memory."),
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask no server: only say whether it is here.")
    ] = False,
    *,
    output: OutputOptions,
) -> None:
    """Download a model into the Hugging Face cache.

    Of several quantisations it takes the one that is named, else Q4_K_M. What was interrupted goes
    on where it stopped; what arrives is verified. HF_TOKEN opens private and gated repositories,
    HF_ENDPOINT names a mirror, HF_HUB_CACHE another folder.
    """
    start = time.perf_counter()
    hugging_face_cache()  # says so where the library cannot read its variables
    try:
        pulled = _here(name) if offline or _is_offline() else _pull(name, fit)
    except KeyboardInterrupt:
        print("stopped; the same command goes on where this one was", file=sys.stderr)
        raise
    if output.json:
        print(json.dumps(_document(pulled, time.perf_counter() - start), ensure_ascii=False))
    else:
        print(f"{one_line(pulled.name)}: {in_bytes(pulled.bytes)}, {one_line(str(pulled.path))}")


def _pull(name: str, fit: bool) -> Pulled:
    from localllm.cli.pulling import pull_model

    return pull_model(name, fit)


def _is_offline() -> bool:
    from huggingface_hub.constants import is_offline_mode

    return is_offline_mode()


def _here(name: str) -> Pulled:
    """The model as it is on this machine, found without a question to anybody."""
    from localllm.hub.pull import already_here

    try:
        return already_here(name)
    except NotHereError as error:
        raise LocalLLMError(error.message, "--offline and HF_HUB_OFFLINE ask no server") from None


def _document(pulled: Pulled, seconds: float) -> dict[str, Any]:
    return {
        "name": pulled.name,
        "path": str(pulled.path),
        "bytes": pulled.bytes,
        "repository": pulled.repository,
        "revision": pulled.revision,
        "sha256": pulled.files[0].sha256,
        "files": [
            {"path": str(file.path), "bytes": file.bytes, "sha256": file.sha256}
            for file in pulled.files
        ],
        "seconds": round(seconds, 3),
    }
