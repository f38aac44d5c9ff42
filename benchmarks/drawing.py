"""Curves of time over the size of the table, as SVG that reads well on a light and a dark page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

Curve = Mapping[int, float]
"""Seconds by the number of tasks."""

STYLES = {
    "driver": ("#8a8f98", "5 4"),
    "driver, tuned": ("#8a8f98", "1.5 3"),
    "hopper_data": ("#0a84d6", ""),
    "peewee": ("#d0762b", ""),
    "sqlalchemy": ("#9a5fc4", ""),
}
_TEXT, _LINE = "#7d838c", "#8a8f98"
_COLUMNS = 3
_WIDTH, _HEIGHT = 300, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 34, 30
_HEAD, _FOOT = 48, 26
_BELOW = "tasks in the table; both axes are logarithmic"
_HEAD_TAG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
    'width="{width}" height="{height}" role="img" aria-label="{title}" '
    'font-family="system-ui, sans-serif" font-size="11">'
)


def draw(title: str, panels: Mapping[str, Mapping[str, Curve]]) -> str:
    """One panel for each operation, one line for each contender; both axes are logarithmic.

    Ten times the time is as high in all panels, so that a slope means the same in each.
    """
    decades = max(high - low for low, high in map(_range, panels.values()))
    rows = math.ceil(len(panels) / _COLUMNS)
    width, height = _COLUMNS * _WIDTH, _HEAD + rows * _HEIGHT + _FOOT
    parts = [
        _HEAD_TAG.format(width=width, height=height, title=escape(title)),
        _text(10, 20, title, size=15, weight=600),
        *_legend(_used(panels)),
    ]
    for number, (name, curves) in enumerate(panels.items()):
        x, y = number % _COLUMNS * _WIDTH, _HEAD + number // _COLUMNS * _HEIGHT
        parts += [f'<g transform="translate({x} {y})">', *_panel(name, curves, decades), "</g>"]
    parts.append(_text(width / 2, height - 8, _BELOW, anchor="middle"))
    return "\n".join([*parts, "</svg>\n"])


def _used(panels: Mapping[str, Mapping[str, Curve]]) -> list[str]:
    return [name for name in STYLES if any(name in curves for curves in panels.values())]


def _legend(names: Sequence[str]) -> Iterable[str]:
    x = 10
    for name in names:
        color, dashes = STYLES[name]
        yield _path(f"M{x} 37h24", color, dashes)
        yield _text(x + 30, 41, name, color=color)
        x += 54 + 7 * len(name)


def _range(curves: Mapping[str, Curve]) -> tuple[int, int]:
    """The powers of ten around all times of a panel."""
    times = [time for curve in curves.values() for time in curve.values()]
    low = math.floor(math.log10(min(times)))
    return low, max(math.ceil(math.log10(max(times))), low + 1)


def _panel(name: str, curves: Mapping[str, Curve], decades: int) -> Iterable[str]:
    sizes = sorted({size for curve in curves.values() for size in curve})
    low, high = _range(curves)
    low -= (decades - (high - low)) // 2
    high = low + decades
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def across(size: int) -> float:
        spread = math.log10(sizes[-1] / sizes[0]) or 1
        return _LEFT + (right - _LEFT) * math.log10(size / sizes[0]) / spread

    def upward(time: float) -> float:
        return bottom - (bottom - _TOP) * (math.log10(time) - low) / (high - low)

    yield _text(_LEFT, 18, name, size=12, weight=600)
    for exponent in range(low, high + 1):
        y = upward(10**exponent)
        yield f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="{_LINE}" stroke-opacity=".3"/>'
        yield _text(_LEFT - 6, y + 4, _time(exponent), anchor="end")
    for size in sizes:
        yield _text(across(size), bottom + 18, _size(size), anchor=_anchor(size, sizes))
    # Ours is drawn last, above the others.
    for contender in sorted(curves, key=lambda each: each == "hopper_data"):
        color, dashes = STYLES[contender]
        points = [(across(size), upward(time)) for size, time in sorted(curves[contender].items())]
        yield _path("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points), color, dashes)
        for x, y in points:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{color}"/>'


def _anchor(size: int, sizes: Sequence[int]) -> str:
    return "start" if size == sizes[0] else "end" if size == sizes[-1] else "middle"


def _time(exponent: int) -> str:
    unit, places = ("s", 0) if exponent >= 0 else ("ms", 3) if exponent >= -3 else ("µs", 6)
    return f"{10 ** (exponent + places)} {unit}"


def _size(size: int) -> str:
    return f"{size // 1_000_000}M" if size >= 1_000_000 else f"{size / 1000:g}k"


def _path(d: str, color: str, dashes: str) -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<path d="{d}" fill="none" stroke="{color}" stroke-width="2"{dashed}/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 11,
    weight: int = 400,
    anchor: str = "start",
    color: str = _TEXT,
) -> str:
    return (
        f'<text x="{x:g}" y="{y:.1f}" fill="{color}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )
