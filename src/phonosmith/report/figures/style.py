"""One look for every figure: colours that colour-blind readers can tell apart, sizes, files."""

from __future__ import annotations

import functools
import io
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from phonosmith.core.artefacts import write_atomic
from phonosmith.core.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

OKABE_ITO = {
    "black": "#000000", "orange": "#E69F00", "sky": "#56B4E9", "green": "#009E73", "yellow": "#F0E442",
    "blue": "#0072B2", "vermillion": "#D55E00", "purple": "#CC79A7",
}  # fmt: skip
"""Palette of Okabe and Ito (2008): told apart by every common colour vision."""
GREY = "#767676"

SETTINGS: dict[str, Any] = {
    "font.family": "sans-serif", "font.size": 9.0, "axes.labelsize": 9.0, "axes.titlesize": 9.5,
    "axes.linewidth": 0.7, "axes.spines.top": False, "axes.spines.right": False,
    "legend.fontsize": 8.0, "legend.frameon": False, "xtick.labelsize": 8.0, "ytick.labelsize": 8.0,
    "lines.linewidth": 1.2, "svg.hashsalt": "phonosmith", "svg.fonttype": "none",
    # half a pixel of a 72-dpi drawing is not seen, but dense curves shrink to a third
    "path.simplify": True, "path.simplify_threshold": 0.5,
}  # fmt: skip


@dataclass(frozen=True)
class LineStyle:
    """How one potential is drawn in every figure: colour, dashes and marker differ together."""

    colour: str
    dashes: Any
    marker: str


REFERENCE = LineStyle(OKABE_ITO["black"], "-", "o")
_DASHED, _DOTTED, _MIXED = (0, (4, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5))
_STYLES = {
    "reference": REFERENCE,
    "foundation": LineStyle(OKABE_ITO["vermillion"], _DASHED, "s"),
    "candidate": LineStyle(OKABE_ITO["vermillion"], _DASHED, "s"),
    "scratch": LineStyle(OKABE_ITO["orange"], _DOTTED, "v"),
    "transfer": LineStyle(OKABE_ITO["sky"], "-", "^"),
    "multihead": LineStyle(OKABE_ITO["green"], "-", "D"),
    "delta": LineStyle(OKABE_ITO["blue"], "-", "o"),
    "delta+pft": LineStyle(OKABE_ITO["purple"], "-", "P"),
    "pft": LineStyle(OKABE_ITO["green"], _DASHED, "X"),
    "phonosmith": LineStyle(OKABE_ITO["blue"], _MIXED, "*"),
    "lora": LineStyle(OKABE_ITO["orange"], _MIXED, "<"),
}
NAMED = frozenset(_STYLES)
LONGEST_NAME = 28
_FREEZE_MARKERS = "123+x"


def line_style(strategy: str) -> LineStyle:
    """Return how a strategy is drawn; a name that is not known always gets the same style."""
    if strategy in _STYLES:
        return _STYLES[strategy]
    if strategy.startswith("freeze"):
        number = int(strategy[6:]) if strategy[6:].isdigit() else 0
        return LineStyle(GREY, (0, (max(5 - number, 1), 1)), _FREEZE_MARKERS[number % 5])
    if re.fullmatch(r"f[1-5]", strategy):
        # frozen as published: the markers of freeze1 to freeze5 on another dash
        number = int(strategy[1:])
        return LineStyle(GREY, (0, (max(5 - number, 1), 1, 1, 1)), _FREEZE_MARKERS[number % 5])
    code = zlib.crc32(strategy.encode())
    colours = ("blue", "green", "purple", "orange", "sky")
    return LineStyle(OKABE_ITO[colours[code % 5]], (0, (3, 1, 1, 1, 1, 1)), "hp*d>"[code // 5 % 5])


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw inside the common settings, whatever the caller's matplotlib is set to."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context(SETTINGS):
            return draw(*args, **kwargs)

    return wrapper


class _NotebookFigure(Figure):
    """A figure that notebooks show: by themselves they know those of pyplot alone."""

    def _repr_png_(self) -> bytes:
        return figure_bytes(self, "png", dpi=110)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of that size in inches; no display or pyplot is needed."""
    return _NotebookFigure(figsize=(width, height), layout="constrained")


def legend_above(figure: Figure, axes: Axes, most: int = 6) -> None:
    """Write what is drawn in the axes above the figure, in at most so many columns."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), most))


def say_nothing_to_show(axes: Axes, why: str) -> None:
    """Write into empty axes why they are empty."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes, color=GREY, wrap=True)


def escape_math(text: str) -> str:
    """Return text that matplotlib prints as it is: a dollar sign starts no formula; long names are cut."""
    text = text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"
    return text.replace("\\", r"\\").replace("$", r"\$") if "$" in text else text


def image_format(path: str | Path) -> str:
    """Return the format a file name asks for: png, svg or pdf."""
    kind = Path(path).suffix.lstrip(".").lower()
    if kind not in {"png", "svg", "pdf"}:
        raise InputError(f"{path} has no image format.", "End the name in .png, .svg or .pdf.")
    return kind


def figure_bytes(figure: Figure, kind: str, dpi: float = 200) -> bytes:
    """Return a figure as the bytes of a png, svg or pdf; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with mpl.rc_context(SETTINGS):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=dates.get(kind))
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure whole or not at all; the suffix names the format (png, svg, pdf)."""
    target = Path(path)
    write_atomic(target, figure_bytes(figure, image_format(target)))
    return target


def webp_bytes(figure: Figure, dpi: float = 130) -> bytes:
    """Return a figure as lossless WebP: a quarter of a PNG for line drawings, read by every browser since 2020."""
    with mpl.rc_context(SETTINGS):
        figure.set_dpi(dpi)
        canvas = FigureCanvasAgg(figure)
        # savefig would draw twice: once for the layout, once for the file
        canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].astype(np.int16)
    # sixteen steps per channel: no eye tells the difference, and soft edges shrink the file to a half
    reduced = Image.fromarray(((pixels + 8) // 17 * 17).astype(np.uint8))
    buffer = io.BytesIO()
    reduced.save(buffer, format="WEBP", lossless=True, quality=60, method=4)
    return buffer.getvalue()
