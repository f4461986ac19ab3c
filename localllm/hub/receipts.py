"""What is known of a model in our own folder: a small file beside it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from localllm.files import replacing


@dataclass(frozen=True)
class Receipt:
    """Where a model came from.

    Attributes:
        source: `user/repo` or an address.
        revision: the commit; of an address the ETag, which may be empty.
        bytes: size of the model's file.
        sha256: of its contents.
    """

    source: str
    revision: str
    bytes: int
    sha256: str


def receipt_file(model: Path) -> Path:
    """Where the receipt of a model lies."""
    return model.with_name(f".{model.name}.json")


def read_receipt(model: Path) -> Receipt | None:
    """The receipt of a model; None where there is none, or it is of another file."""
    try:
        found = Receipt(**json.loads(receipt_file(model).read_text(encoding="utf-8")))
        return found if found.bytes == model.stat().st_size else None
    except (OSError, ValueError, TypeError):
        return None


def write_receipt(model: Path, receipt: Receipt) -> None:
    """Note where a model came from."""
    with replacing(receipt_file(model)) as beside:
        beside.write_text(json.dumps(asdict(receipt)), encoding="utf-8")
