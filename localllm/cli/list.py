"""`localllm list`: the names that MODEL can be."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from localllm.cli.options import OutputOptions, with_options
from localllm.hub.store import BUNDLED, CachedFile, cached_files
from localllm.hub.user_models import known_models, user_models
from localllm.terminal import one_line
from localllm.units import in_bytes, si


@with_options
def command(
    here: Annotated[bool, typer.Option("--here", help="Only the models on this machine.")] = False,
    *,
    output: OutputOptions,
) -> None:
    """List the catalog, your aliases, and the models on this machine."""
    files = list(cached_files())
    catalog = {} if here else known_models()
    aliases = [model for model in user_models().values() if model.catalog is None]
    if output.json:
        document = {
            "local": [
                {"name": file.name, "path": str(file.path), "bytes": file.bytes, **_facts(file)}
                for file in files
            ],
            "aliases": {model.alias: model.target for model in aliases},
            "catalog": [asdict(model) for model in catalog.values()],
        }
        print(json.dumps(document, ensure_ascii=False))
        return
    print("On this machine:")
    print(f"  {BUNDLED:<50} the bundled demonstration")
    for file in files:
        facts = _facts(file)
        context = f"{facts['context']:,} tokens" if facts["context"] else ""
        about = f"{facts['architecture'] or 'unreadable':<10} {context}".rstrip()
        print(f"  {one_line(file.name):<50} {in_bytes(file.bytes):>8}  {about}")
    if aliases:
        print("\nYour aliases:")
    for alias in aliases:
        print(f"  {alias.alias:<26} {one_line(alias.target)}")
    if catalog:
        print("\nCatalog:")
    present = {file.repository.lower() for file in files}
    for model in catalog.values():
        mark = "*" if model.repository.lower() in present else " "
        print(
            f"{mark} {model.alias:<26} {si(model.parameters):>6} {in_bytes(model.bytes):>8}  "
            f"{model.quantisation:<7} {model.licence:<18} {model.repository}"
        )


def _facts(file: CachedFile) -> dict[str, Any]:
    """What the file says of itself; None where it cannot be read."""
    from localllm.errors import ModelFileError
    from localllm.gguf import GGUFFile
    from localllm.hub.facts import describe

    try:
        facts = describe(GGUFFile.open(file.path))
    except (ModelFileError, OSError):
        return {"architecture": None, "quantisation": file.quantisation, "context": None}
    return {
        "architecture": facts.architecture,
        "quantisation": facts.quantisation,
        "context": facts.context,
    }
