"""The report of `bench` as bars: in the terminal, or as an SVG file, which every browser shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

from localllm.evaluate.tables import seconds, start_label
from localllm.units import in_bytes, rate

# Blue and orange that people of every colour vision tell apart (Okabe and Ito).
_OURS, _OTHER = "#0072b2", "#e69f00"
_WIDTH, _LABEL, _LINE, _GAP, _PADDING = 760, 260, 22, 14, 16  # pixels


@dataclass(frozen=True)
class Bar:
    """One bar; `contestant` decides its colour, `shown` is the value in words."""

    label: str
    contestant: str
    value: float
    shown: str


@dataclass(frozen=True)
class Group:
    """Bars that share one scale."""

    title: str
    bars: list[Bar]


def groups(report: dict[str, Any]) -> Iterator[Group]:
    """What a report (see `benchmark`) has to show; only medians."""
    alone = report["versus"] is None
    for kind in ("prefill", "decode"):
        bars = [
            Bar(
                row["label"] if alone else f"{row['label']}  {name}",
                name,
                found["median"],
                rate(found["median"]),
            )
            for row in report["results"]
            if row["test"] == kind
            for name, found in row["contestants"].items()
        ]
        yield Group(f"{kind}, tokens/s (longer is better)", bars)
    if report["copying"]:
        bars = [
            Bar(label, contestant, found["median"], rate(found["median"]))
            for label, contestant, found in (
                ("drafts on", "localllm", report["copying"]["with_drafts"]),
                ("drafts off", "", report["copying"]["without_drafts"]),
            )
        ]
        yield Group("copying, tokens/s (longer is better)", bars)
    rows = report["startup"] or []
    times = [
        Bar(
            start_label(row),
            row["contestant"],
            row["first_token_seconds"]["median"],
            seconds(row["first_token_seconds"]["median"]),
        )
        for row in rows
    ]
    memory = [
        Bar(
            start_label(row),
            row["contestant"],
            row["peak_memory_bytes"],
            in_bytes(row["peak_memory_bytes"]),
        )
        for row in rows
        if row["peak_memory_bytes"]
    ]
    if times:
        yield Group("start to first token, s (shorter is better)", times)
    if memory:
        yield Group("peak memory (shorter is better)", memory)


def text_chart(report: dict[str, Any], width: int, block: str = "█") -> str:
    """Bars for a terminal of so many columns."""
    lines = []
    for group in groups(report):
        labels = max(len(bar.label) for bar in group.bars)
        values = max(len(bar.shown) for bar in group.bars)
        room = max(1, width - labels - values - 4)
        longest = max(bar.value for bar in group.bars)
        lines.append(group.title)
        for bar in group.bars:
            drawn = block * max(1, round(room * bar.value / longest))
            lines.append(f"  {bar.label:<{labels}} {drawn} {bar.shown}")
        lines.append("")
    return "\n".join(lines[:-1])


def svg_chart(report: dict[str, Any], title: str) -> str:
    """The bars as an SVG document, on a white ground."""
    room = _WIDTH - _LABEL - 100  # for the values
    body: list[str] = []
    y = _PADDING

    def text(x: int, content: str, weight: str = "normal", anchor: str = "start") -> None:
        body.append(
            f'<text x="{x}" y="{y + 15}" font-weight="{weight}" text-anchor="{anchor}">'
            f"{escape(content)}</text>"
        )

    text(_PADDING, title, "bold")
    y += _LINE
    for group in groups(report):
        y += _GAP
        text(_PADDING, group.title)
        y += _LINE
        longest = max(bar.value for bar in group.bars)
        for bar in group.bars:
            length = max(1, round(room * bar.value / longest))
            colour = _OURS if bar.contestant == "localllm" else _OTHER
            text(_LABEL - 8, bar.label, anchor="end")
            body.append(
                f'<rect x="{_LABEL}" y="{y + 3}" width="{length}" height="{_LINE - 6}" '
                f'fill="{colour}"/>'
            )
            text(_LABEL + length + 6, bar.shown)
            y += _LINE
    height = y + _PADDING
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
            f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="13">',
            f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
            *body,
            "</svg>\n",
        ]
    )
