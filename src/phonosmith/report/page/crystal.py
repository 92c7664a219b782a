"""The crystal and its vibrations as the page's script draws them: cells, atoms, displacements of modes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from ase.data.colors import jmol_colors
from numpy.typing import NDArray

from phonosmith.core.errors import InputError
from phonosmith.evaluation.phonons.bands import BandPath
from phonosmith.report.charts.data import pack_bytes
from phonosmith.structures.standard import standard_conventional

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from phonosmith.harmonic.model import HarmonicModel

_MOST_ATOMS = 400
_WHOLE = 127


@dataclass(frozen=True)
class Crystal:
    """A cell for the drawing: rows of the lattice (Å), fractional positions, symbols, and how elements are drawn.

    ``elements``: symbol to colour (that of Jmol), covalent radius (Å), mass (amu), atomic number.
    """

    lattice: list[list[float]]
    positions: list[list[float]]
    symbols: list[str]
    elements: dict[str, list[str | float]]


@dataclass(frozen=True)
class Modes:
    """Displacements of all modes of one side at some points of the band path.

    ``cell``: the primitive cell that wave vectors refer to, and ``ends`` those of both ends of each segment. ``points``
    are places in the path's points; per point and mode (lowest first) real and imaginary parts of every atom's
    displacement, the largest of a mode being one, as signed bytes of 1/127: u_jl = Re[u_j exp(2πi q·r_jl)].
    """

    side: str
    cell: Crystal
    ends: list[tuple[list[float], list[float]]]
    points: list[int]
    data: str


def crystal_of(lattice: NDArray[np.float64], positions: NDArray[np.float64], symbols: list[str]) -> Crystal:
    """Return a cell with the looks of its elements."""
    from pymatgen.core import Element

    elements: dict[str, list[str | float]] = {}
    for symbol in dict.fromkeys(symbols):
        number = atomic_numbers[symbol]
        colour = "#" + "".join(f"{round(255 * part):02x}" for part in jmol_colors[number])
        elements[symbol] = [
            colour,
            round(float(covalent_radii[number]), 2),
            round(float(Element(symbol).atomic_mass), 4),
            number,
        ]
    return Crystal(np.round(lattice, 5).tolist(), np.round(positions, 5).tolist(), symbols, elements)


def conventional_crystal(structure: Structure) -> Crystal | None:
    """Return the conventional cell, the cell as it comes where its symmetry is not found, None for a very large one."""
    try:
        cell = standard_conventional(structure)
    except InputError:
        cell = structure
    if len(cell) > _MOST_ATOMS:
        return None
    return crystal_of(cell.lattice.matrix, np.mod(cell.frac_coords, 1.0), [site.specie.symbol for site in cell])


def primitive_crystal(model: HarmonicModel) -> Crystal:
    """Return the primitive cell that wave vectors refer to."""
    cell = model.phonon.primitive
    return crystal_of(np.asarray(cell.cell), np.asarray(cell.scaled_positions), list(cell.symbols))


def drawn_points(n_segments: int, n_points: int, most: int) -> list[int]:
    """Return at most so many places on a path of segments: all corners first, then halves, quarters and so on."""
    last, places = n_points - 1, [0, n_points - 1]
    chosen = [segment * n_points + place for segment in range(n_segments) for place in places]
    chosen = chosen[: max(most, 0)]
    while len(places) < n_points:
        between = [(a + b) // 2 for a, b in pairwise(places) if b - a > 1]
        added = [segment * n_points + place for segment in range(n_segments) for place in between]
        if not between or len(chosen) + len(added) > most:
            break
        chosen += added
        places = sorted({*places, *between, last})
    return sorted(chosen)


def modes_along(side: str, model: HarmonicModel, path: BandPath, budget: int) -> Modes | None:
    """Return the modes of a model at as many points of its path as so many bytes hold; None where not even one fits."""
    n_branches, n_points = 3 * len(model.phonon.primitive), len(path.segments[0])
    points = drawn_points(len(path.segments), n_points, budget // (2 * n_branches**2))
    if not points:
        return None
    masses = np.repeat(np.asarray(model.phonon.primitive.masses), 3)
    found = []
    for place, segment in enumerate(path.segments):
        here = [point - place * n_points for point in points if point // n_points == place]
        if here:
            model.phonon.run_qpoints(segment[here], with_eigenvectors=True, nac_q_direction=segment[-1] - segment[0])
            vectors = np.asarray(model.phonon.get_qpoints_dict()["eigenvectors"])
            # modes are columns; displacements are eigenvectors over the roots of the masses
            found.append(vectors.transpose(0, 2, 1) / np.sqrt(masses))
    moved = np.concatenate(found)
    lengths = np.linalg.norm(moved.reshape(*moved.shape[:2], -1, 3), axis=-1).max(axis=-1)
    scaled = moved / lengths[..., None]
    parts = np.stack([scaled.real, scaled.imag], axis=-1)
    return Modes(
        side,
        primitive_crystal(model),
        [(segment[0].tolist(), segment[-1].tolist()) for segment in path.segments],
        points,
        pack_bytes(np.rint(_WHOLE * parts).astype(np.int8).tobytes()),
    )
