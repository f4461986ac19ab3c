"""Quality against speed as a picture: one point a quantisation, the frontier as a line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from localllm.evaluate.choice import Option, frontier

_POINT, _REST, _LINE = "#0072b2", "#999999", "#e69f00"  # told apart with every colour vision
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 460, 80, 100, 56, 56  # pixels


def svg_scatter(options: Sequence[Option], title: str, chosen: str | None = None) -> str:
    """An SVG document: to the right is faster, further up is closer to the base.

    The divergence has a logarithmic scale; the base, which has none, stands on a line of its own at
    the top.

    Args:
        options: at least one.
        title: of the picture.
        chosen: the name of the option to mark.
    """
    lost = [option.lost for option in options if option.lost and option.lost > 0]
    least = 10.0 ** math.floor(math.log10(min(lost, default=1e-4)))
    most = max(10.0 ** math.ceil(math.log10(max(lost, default=1e-3))), 10 * least)
    fastest = 1.1 * max(option.decode for option in options)

    def x(option: Option) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * option.decode / fastest

    def y(value: float | None) -> float:
        share = math.log(max(value or 0.0, least / 2) / (least / 2)) / math.log(most / (least / 2))
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * share

    body = [_text(16, 26, title, weight="bold")]
    bottom = _HEIGHT - _BOTTOM
    power = least
    while power <= most * 1.001:
        body.append(_rule(_LEFT, y(power), _WIDTH - _RIGHT, y(power)))
        body.append(_text(_LEFT - 8, y(power) + 4, f"{power:.12f}".rstrip("0."), anchor="end"))
        power *= 10
    body.append(_rule(_LEFT, _TOP, _WIDTH - _RIGHT, _TOP))
    body.append(_text(_LEFT - 8, _TOP + 4, "base", anchor="end"))
    step = _round_step(fastest / 5)
    for number in range(int(fastest / step) + 1):
        at = _LEFT + (_WIDTH - _LEFT - _RIGHT) * number * step / fastest
        body.append(_rule(at, _TOP, at, bottom))
        body.append(_text(at, bottom + 18, f"{number * step:g}", anchor="middle"))
    body.append(_text(_WIDTH / 2, _HEIGHT - 14, "decode, tokens/s", anchor="middle"))
    body.append(_text(16, _TOP - 14, "mean KL divergence from the base: up is closer"))
    legend = "line: none is both closer and faster" + ("; large: take this" if chosen else "")
    body.append(_text(_WIDTH - 16, _TOP - 14, legend, anchor="end"))

    best = frontier(options)
    path = " ".join(f"{x(option):.1f},{y(option.lost):.1f}" for option in best)
    body.append(f'<polyline points="{path}" fill="none" stroke="{_LINE}" stroke-width="2"/>')
    for option in options:
        colour = _POINT if option in best else _REST
        radius = 8 if option.name == chosen else 5
        at, height = x(option), y(option.lost)
        body.append(f'<circle cx="{at:.1f}" cy="{height:.1f}" r="{radius}" fill="{colour}"/>')
        weight = "bold" if option.name == chosen else "normal"
        body.append(_text(at + 11, height + 4, option.name, weight=weight))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
            f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="13">',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
            *body,
            "</svg>\n",
        ]
    )


def _round_step(size: float) -> float:
    """The next larger of 1, 2, 5, 10, … between ticks."""
    power = 10.0 ** math.floor(math.log10(size))
    return next(power * unit for unit in (1, 2, 5, 10) if power * unit >= size)


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="#e5e5e5"/>'


def _text(x: float, y: float, content: str, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(content)}</text>"
    )
