"""`localllm list`: the names that MODEL can be."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from localllm.cli.options import OutputOptions, with_options
from localllm.hub.catalog import load_catalog
from localllm.hub.store import BUNDLED, cached_files
from localllm.units import in_bytes, si


@with_options
def command(
    here: Annotated[bool, typer.Option("--here", help="Only the models on this machine.")] = False,
    *,
    output: OutputOptions,
) -> None:
    """List the catalog and the models on this machine."""
    files = list(cached_files())
    catalog = {} if here else load_catalog()
    if output.json:
        document = {
            "local": [
                {
                    "name": file.name,
                    "path": str(file.path),
                    "bytes": sum(path.stat().st_size for path in file.shards),
                }
                for file in files
            ],
            "catalog": [asdict(model) for model in catalog.values()],
        }
        print(json.dumps(document, ensure_ascii=False))
        return
    print("On this machine:")
    print(f"  {BUNDLED:<50} the bundled demonstration")
    for file in files:
        print(f"  {file.name:<50} {in_bytes(sum(path.stat().st_size for path in file.shards)):>8}")
    if catalog:
        print("\nCatalog:")
    present = {file.repository.lower() for file in files}
    for model in catalog.values():
        mark = "*" if model.repository.lower() in present else " "
        print(
            f"{mark} {model.alias:<26} {si(model.parameters):>6} {in_bytes(model.bytes):>8}  "
            f"{model.quantisation:<7} {model.licence:<18} {model.repository}"
        )
