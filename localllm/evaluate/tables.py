"""The report of `bench` as tables of plain text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from localllm.units import in_bytes, rate


def tables(report: dict[str, Any], name: str) -> Iterator[str]:
    """Blocks of text, each at most 80 columns wide where names are short.

    Args:
        report: see `benchmark`.
        name: of the model.
    """
    threads = "1 thread" if report["threads"] == 1 else f"{report['threads']} threads"
    yield "\n".join(
        (
            f"{name}, {in_bytes(report['file_bytes'])}",
            f"{threads}, {report['isa']} kernels, KV cache {report['kv_type']}",
        )
    )
    times = report["repetitions"]
    shown = f", median of {times} (least-most)" if times > 1 else ""
    yield f"Tokens per second{shown}\n" + _speeds(report)
    if report["startup"]:
        yield f"Fresh processes that make one token{shown}\n" + _starts(report["startup"])
    if report["copying"]:
        yield _copying(report["copying"])


def seconds(value: float) -> str:
    """`0.31 s`."""
    return f"{value:.2f} s"


def spread(found: dict[str, Any]) -> str:
    """`257 (250-260)`; only the median where there is one measurement."""
    if len(found["measured"]) == 1:
        return rate(found["median"])
    return f"{rate(found['median'])} ({rate(found['least'])}-{rate(found['most'])})"


def start_label(row: dict[str, Any]) -> str:
    """`localllm, first start`."""
    return f"{row['contestant']}, {row['start']} start"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        ).rstrip()
        for line in rows
    )


def without_empty(rows: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """The rows without the columns that have nothing below their heads."""
    columns = (column for column in zip(*rows, strict=True) if any(column[1:]))
    return list(zip(*columns, strict=True))


def _speeds(report: dict[str, Any]) -> str:
    peer = report["versus"]
    rows = [["", "localllm", *([peer, "ratio"] if peer else [])]]
    for row in report["results"]:
        cells = [spread(found) for found in row["contestants"].values()]
        rows.append([row["label"], *cells, *([f"{row['ratio']:.2f}x"] if peer else [])])
    note = f"\nratio: localllm's speed over {peer}'s; above 1, localllm is faster" if peer else ""
    return aligned(rows) + note


def _starts(starts: Sequence[dict[str, Any]]) -> str:
    rows = [["", "first token, s", "exit, s", "peak memory", "of file"]]
    for row in starts:
        memory, ratio = row["peak_memory_bytes"], row["peak_memory_to_file"]
        rows.append(
            [
                start_label(row),
                spread(row["first_token_seconds"]),
                f"{row['exit_seconds']['median']:.2f}",
                in_bytes(memory) if memory else "-",
                f"{ratio:.2f}x" if memory else "-",
            ]
        )
    if starts[0]["kept"]:
        return aligned(rows)
    return (
        aligned(rows)
        + "\nnothing was kept for the second start: weights under 32 MB, or a full disk"
    )


def _copying(found: dict[str, Any]) -> str:
    same = "the same with and without" if found["same_tokens"] else "NOT the same: this is a bug"
    rows = [
        ["drafts on", spread(found["with_drafts"])],
        ["drafts off", spread(found["without_drafts"])],
        ["ratio", f"{found['ratio']:.2f}x"],
    ]
    drafted, accepted = found["drafted_tokens"], found["accepted_tokens"]
    return "\n".join(
        (
            f"Tokens per second of an answer of {found['tokens']:,} tokens that copies its prompt",
            aligned(rows),
            f"{accepted:,} of {drafted:,} drafted tokens were right.",
            "The answer is given, so that any model copies faultlessly; what the model itself",
            f"would have said is {same}.",
        )
    )
