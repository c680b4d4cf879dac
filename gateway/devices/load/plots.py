"""Plots as inline SVG: lines over time, and a distribution. Pure: numbers in, text out; every name is escaped.

Colours are classes (`s0` to `s9`), which the page's style sets for light and for dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = 10
_WIDTH, _HEIGHT = 900, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 16, 12, 34
#: Up to so many points each is marked, so that one alone is seen.
_MARKED = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a plot: a value for each interval, None where there is none."""

    name: str
    values: Sequence[float | None]


def over_time(
    what: str, begins_s: float, width_s: float, lines: Sequence[Line], unit: str, *, logarithmic: bool = False
) -> str:
    """Lines over the seconds of the run; value i stands for the interval from ``begins_s + i * width_s``."""
    length = max((len(line.values) for line in lines), default=0)
    present = [value for line in lines for value in line.values if value is not None]
    if not present:
        return '<p class="none">nothing to show</p>'
    scale, marks = _logarithmic(present) if logarithmic else _linear(max(present))
    spans_s = max(length, 1) * width_s

    def x(second: float) -> float:
        return _LEFT + (second - begins_s) / spans_s * (_WIDTH - _LEFT - _RIGHT)

    parts = [_frame(what, scale, marks, unit)]
    step = _step(spans_s / 8, (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400))
    second = math.ceil(begins_s / step) * step
    while second <= begins_s + spans_s:
        parts.append(_below(x(second), _clock(second)))
        second += step
    for index, line in enumerate(lines):
        points = [
            None if value is None else (x(begins_s + (place + 0.5) * width_s), scale(value))
            for place, value in enumerate(line.values)
        ]
        parts.append(_path(points, index))
        if len(points) <= _MARKED:
            for point, value in zip(points, line.values, strict=True):
                if point is not None and value is not None:
                    said = text(f"{line.name}: {number(value)} {unit}")
                    parts.append(
                        f'<circle class="s{index % COLOURS} dot" cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="2.5">'
                        f"<title>{said}</title></circle>"
                    )
    return "".join(parts) + "</svg>" + _legend(lines)


def distribution(what: str, counted: Sequence[tuple[float, float, int]]) -> str:
    """Bars over a logarithmic scale of times: (from, to, how many) in ms, ascending."""
    total = sum(count for _, _, count in counted)
    if not total:
        return '<p class="none">nothing to show</p>'
    low = math.log10(max(counted[0][0], 0.001))
    high = max(math.log10(counted[-1][1]), low + 0.1)

    def x(ms: float) -> float:
        return _LEFT + (math.log10(max(ms, 0.001)) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    scale, marks = _linear(100 * max(count for _, _, count in counted) / total)
    parts = [_frame(what, scale, marks, "%")]
    for exponent in range(math.floor(low), math.ceil(high) + 1):
        for factor in (1, 2, 5):
            ms = factor * 10.0**exponent
            if low <= math.log10(ms) <= high:
                parts.append(_below(x(ms), f"{number(ms)} ms"))
    for begins, ends, count in counted:
        share = 100 * count / total
        said = f"{number(begins)} to {number(ends)} ms: {count} ({share:.2f} %)"
        parts.append(
            f'<rect class="s0 bar" x="{x(begins):.1f}" y="{scale(share):.1f}" '
            f'width="{max(x(ends) - x(begins) - 1, 1):.1f}" height="{_HEIGHT - _BOTTOM - scale(share):.1f}">'
            f"<title>{said}</title></rect>"
        )
    return "".join(parts) + "</svg>"


def text(foreign: str) -> str:
    """A foreign text for HTML and XML: nothing in it is markup, ends a line or turns the direction of writing."""
    return escape("".join(one if one.isprintable() else " " if one.isspace() else "\ufffd" for one in foreign))


def number(value: float) -> str:
    """With three digits that count, and a thin space between thousands."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.3g}"


Scale = Callable[[float], float]


def _linear(most: float) -> tuple[Scale, list[float]]:
    most = most or 1.0
    step = _step(most / 5, (1, 2, 2.5, 5, 10))
    top = math.ceil(most / step - 1e-9) * step
    inside = _HEIGHT - _TOP - _BOTTOM
    return (
        lambda value: _HEIGHT - _BOTTOM - value / top * inside,
        [step * index for index in range(round(top / step) + 1)],
    )


def _logarithmic(values: Sequence[float]) -> tuple[Scale, list[float]]:
    positive = [value for value in values if value > 0] or [1.0]
    exponents = range(math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive))) + 1)
    nice = [factor * 10.0**exponent for exponent in exponents for factor in (1, 2, 5)]
    low = max((mark for mark in nice if mark <= min(positive)), default=nice[0])
    high = min((mark for mark in nice if mark >= max(positive) and mark > low), default=10 * low)
    inside = _HEIGHT - _TOP - _BOTTOM

    def scale(value: float) -> float:
        share = (math.log10(max(value, low)) - math.log10(low)) / (math.log10(high) - math.log10(low))
        return _HEIGHT - _BOTTOM - share * inside

    marks = [mark for mark in nice if low <= mark <= high]
    if len(marks) > 9:
        marks = [mark for mark in marks if math.log10(mark).is_integer()]
    return scale, marks


def _step(least: float, nice: Sequence[float]) -> float:
    """The smallest of ``nice`` that is no less; beyond them, those times powers of ten."""
    if least > nice[-1] or least < nice[0]:
        power = 10.0 ** math.floor(math.log10(least / nice[0]))
        return next((one * power for one in nice if one * power >= least - 1e-12), nice[-1] * power)
    return next(one for one in nice if one >= least)


def _frame(what: str, scale: Scale, marks: Sequence[float], unit: str) -> str:
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text(what)}"><title>{text(what)}</title>']
    for mark in marks:
        y = scale(mark)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(mark)} {text(unit)}</text>'
        )
    return "".join(parts)


def _below(x: float, said: str) -> str:
    bottom = _HEIGHT - _BOTTOM
    return (
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>'
        f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{said}</text>'
    )


def _path(points: Sequence[tuple[float, float] | None], index: int) -> str:
    commands, pen = [], "M"
    for point in points:
        if point is None:
            pen = "M"
        else:
            commands.append(f"{pen}{point[0]:.1f} {point[1]:.1f}")
            pen = "L"
    return f'<path class="s{index % COLOURS} line" d="{"".join(commands)}"/>'


def _legend(lines: Sequence[Line]) -> str:
    keys = (f'<span><i class="s{i % COLOURS} key"></i>{text(line.name)}</span>' for i, line in enumerate(lines))
    return f'<p class="legend">{"".join(keys)}</p>'


def _clock(second: float) -> str:
    whole = round(second)
    if whole >= 3600:
        return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{whole // 60}:{whole % 60:02d}"
