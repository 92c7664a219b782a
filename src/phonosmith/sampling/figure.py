"""The energy ladder of one material as a figure."""

from __future__ import annotations

import io
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from phonosmith.sampling.documents import SamplingDoc


def energy_ladder(document: SamplingDoc) -> Any:
    """Return a matplotlib figure of the relaxations: rungs are thin lines, training frames filled, the others open."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    colours = ("#0072B2", "#56B4E9", "#000000", "#E69F00", "#D55E00", "#009E73", "#CC79A7")
    scale = 1000.0 / document.supercell.n_atoms
    for colour, configuration in zip(cycle(colours), document.configurations, strict=False):
        energies = np.array(configuration.energies)
        base = energies.min()
        label = f"{100 * (configuration.volume_factor - 1):+g} % volume"
        # the logarithmic axis is shifted by one so that the start is seen
        axes.semilogx(np.arange(len(energies)) + 1, (energies - base) * scale, color=colour, lw=1.2, label=label)
        for frame in configuration.frames:
            inner = colour if frame.split == "train" else "white"
            place = frame.step + frame.between + 1
            axes.plot(place, (frame.energy - base) * scale, "o", ms=6, color=colour, mfc=inner)
            axes.plot([1, place], [(frame.target_energy - base) * scale] * 2, color=colour, lw=0.4, alpha=0.5)
    axes.set(xlabel="step of the relaxation + 1", ylabel="energy above the lowest of the trajectory (meV/atom)")
    axes.set_title(f"{document.formula}, {document.supercell.n_atoms} atoms", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def energy_ladder_svg(document: SamplingDoc) -> bytes:
    """Return the figure as SVG, the same bytes every time."""
    import matplotlib as mpl

    stream = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "phonosmith", "svg.fonttype": "none"}):
        energy_ladder(document).savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
