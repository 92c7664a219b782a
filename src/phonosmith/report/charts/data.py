"""What a page draws: panels of curves, points, bars and boxes as plain data, which the page's script turns into SVG."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from phonosmith.report.figures.style import OKABE_ITO, line_style

Kind = Literal["line", "dots", "bars", "spans", "boxes", "map"]
_COLOURS = {colour: name for name, colour in OKABE_ITO.items()}
_DIGITS = 5
_STEPS = 32_000


@dataclass(frozen=True)
class Axis:
    """One axis: its name with unit, whether it is logarithmic, and named places in place of numbers."""

    label: str
    log: bool = False
    ticks: list[tuple[float, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Series:
    """Points of one name; the look is that of a strategy, everywhere the same.

    Gaps in a line are None. ``bars`` and ``boxes`` stand beside each other at whole numbers; a box holds all values at
    its place, ``spans`` reach from ``low`` to ``high``; a ``map`` colours cells around its points by ``values``, those
    below zero apart from those above. ``labels`` say what each point is, ``names`` are written beside points, ``links``
    are where a choice of one leads. Many dots are drawn ``small``; what is not ``shown`` can be switched on; ``label``:
    what the series is called where not by its name.
    """

    name: str
    look: str
    x: list[float | None]
    y: list[float | None]
    kind: Kind = "line"
    low: list[float | None] = field(default_factory=list)
    high: list[float | None] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    hollow: bool = False
    small: bool = False
    shown: bool = True
    label: str = ""
    names: list[str] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)


@dataclass(frozen=True)
class Panel:
    """Axes with what is drawn in them; ``diagonal``: the line of equality; ``guides``: named heights or places."""

    x: Axis
    y: Axis
    series: list[Series]
    diagonal: bool = False
    x_guides: list[tuple[float, str]] = field(default_factory=list)
    y_guides: list[tuple[float, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Chart:
    """Panels beside each other with one legend; the caption is read, ``alt`` says the same to those who cannot see."""

    key: str
    caption: str
    alt: str
    panels: list[Panel]


def looks(charts: Iterable[Chart], more: Iterable[str] = ()) -> dict[str, list[str]]:
    """Return colour, dashes and marker of everything the charts draw."""
    names = {one.look for chart in charts for panel in chart.panels for one in panel.series} | set(more)
    return {name: look(name) for name in sorted(names)}


def look(name: str) -> list[str]:
    """Return the name of the colour (the page has a light and a dark one of each), the dashes and the marker."""
    style = line_style(name)
    dashes = "" if style.dashes == "-" else " ".join(f"{2 * part:g}" for part in style.dashes[1])
    return [_COLOURS.get(style.colour, "grey"), dashes, style.marker]


def rounded(values: Iterable[float | None]) -> list[float | None]:
    """Return numbers with the digits a drawing can show; what is not finite becomes a gap."""
    return [
        None if value is None or not math.isfinite(value) else float(f"{float(value):.{_DIGITS}g}") for value in values
    ]


def as_data(value: Any) -> Any:
    """Return dataclasses as JSON data without the fields that are as by default."""
    if isinstance(value, list | tuple):
        return [as_data(one) for one in value]
    if isinstance(value, dict):
        return {name: as_data(one) for name, one in value.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not is_dataclass(value):
        return value
    kept = {}
    for one in fields(value):
        default = one.default_factory() if one.default_factory is not MISSING else one.default
        if getattr(value, one.name) != default:
            kept[one.name] = as_data(getattr(value, one.name))
    return kept


@dataclass(frozen=True)
class Packed:
    """Rows of numbers: whole multiples of ``step``, second differences modulo 65536, low bytes first, zlib, base64.

    Smooth curves take about one byte a number. The error is at most half a step.
    """

    step: float
    shape: list[int]
    data: str


def pack(rows: ArrayLike, step: float) -> Packed:
    """Pack rows of numbers; ``step`` grows where the numbers would not fit into sixteen bits."""
    values = np.atleast_2d(np.asarray(rows, dtype=float))
    largest = float(np.abs(values).max(initial=0.0))
    step = max(step, largest / _STEPS)
    whole = np.rint(values / step).astype(np.int64)
    first = np.diff(whole, prepend=0, axis=1)
    second = (np.diff(first, prepend=0, axis=1) & 0xFFFF).astype("<u2")
    planes = np.concatenate([(second & 0xFF).ravel(), (second >> 8).ravel()]).astype(np.uint8)
    return Packed(step, list(values.shape), pack_bytes(planes.tobytes()))


def pack_bytes(values: bytes) -> str:
    """Return bytes compressed by zlib in base64."""
    return base64.b64encode(zlib.compress(values, 9)).decode()


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return first quartile, median and third quartile."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(low), float(middle), float(high)
