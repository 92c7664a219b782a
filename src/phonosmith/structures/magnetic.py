"""The magnetic order of a crystal: collinear moments by where atoms sit, found again in every supercell of it.

What is calculated for a crystal on the way (strained, displaced, sorted by species, through programs that forget
moments) is a multiple of its cell with atoms near their sites, so that each atom has a site, and its moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from pydantic import ConfigDict, Field

from phonosmith.core.document import Document
from phonosmith.core.errors import InputError, MismatchError

if TYPE_CHECKING:
    from pymatgen.core import Structure

LARGEST_MOMENT = 12.0
"""μB; no atom has more than ten."""
LARGEST_STRAIN = 0.2
"""Of a cell against a multiple of the crystal's; the protocol scales volumes by 5 % and distorts lattices by 2 %."""
FARTHEST = 1.0
"""Å an atom may sit away from its site: half a bond."""


class MagneticOrder(Document):
    """Collinear moments of the atoms of a crystal."""

    model_config = ConfigDict(frozen=True)

    symbols: list[str] = Field(description="chemical symbols of the crystal's cell")
    lattice: list[list[float]] = Field(description="its lattice vectors as rows, Å")
    positions: list[list[float]] = Field(description="fractional positions")
    moments: list[float] = Field(description="moment of each atom, μB; the sign is its direction")

    @classmethod
    def of(cls, structure: Structure, moments: Sequence[float]) -> MagneticOrder:
        """Return the order of a crystal's cell from the moments of its sites, in μB."""
        values = [float(value) for value in moments]
        if len(values) != len(structure):
            raise InputError(
                f"{len(values)} moments are given for {len(structure)} atoms of {structure.formula}.",
                "Give one for each atom of the structure file, in its order.",
            )
        if not np.isfinite(values).all() or np.abs(values).max() > LARGEST_MOMENT:
            raise InputError(
                f"A moment of {max(values, key=abs):g} μB cannot be.", f"No atom has more than {LARGEST_MOMENT:g}."
            )
        if not np.any(values):
            raise InputError("All moments are zero.", "Leave them out, or give those of the magnetic atoms.")
        return cls(
            symbols=[site.specie.symbol for site in structure],
            lattice=structure.lattice.matrix.tolist(),
            positions=structure.frac_coords.tolist(),
            moments=values,
        )

    def moments_in(self, symbols: Sequence[str], cell: ArrayLike, positions: ArrayLike) -> list[float]:
        """Return the moments of the atoms of a supercell (rows and Cartesian positions in Å).

        Raises
        ------
        MismatchError
            When the cell is no multiple of the magnetic one, or its atoms do not sit near the sites.
        """
        lattice, vectors = np.array(self.lattice), np.asarray(cell, dtype=float)
        matrix = np.rint(vectors @ np.linalg.inv(lattice))
        copies = round(abs(float(np.linalg.det(matrix))))
        where = f"A cell of {len(symbols)} atoms of {'-'.join(sorted(set(symbols)))}"
        if copies == 0 or len(symbols) != copies * len(self.symbols):
            raise MismatchError(
                f"{where} is no multiple of the magnetic cell ({len(self.symbols)} atoms).",
                "Calculate supercells of the cell that the moments are given for.",
            )
        strain = np.linalg.solve(matrix @ lattice, vectors) - np.eye(3)
        if np.abs(strain).max() > LARGEST_STRAIN:
            raise MismatchError(
                f"{where} is strained by {np.abs(strain).max():.0%} against the magnetic cell, or turned.",
                "Calculate supercells of the cell that the moments are given for, without turning it.",
            )
        sites = np.asarray(positions, dtype=float) @ np.linalg.inv(vectors) @ matrix
        shifts = sites[:, None, :] - np.array(self.positions)
        distances = np.linalg.norm((shifts - np.rint(shifts)) @ lattice, axis=2)
        distances[np.array(symbols)[:, None] != np.array(self.symbols)] = np.inf
        nearest = distances.argmin(axis=1)
        counts = np.bincount(nearest, minlength=len(self.symbols))
        if distances.min(axis=1).max() > FARTHEST or np.any(counts != copies):
            raise MismatchError(
                f"{where}: the atoms do not sit near the sites that moments are given for.",
                "The crystal moved too far: moments cannot be told from sites.",
            )
        return [self.moments[site] for site in nearest]


def given_moments(structure: Structure) -> MagneticOrder | None:
    """Return the order that a structure carries as moments of its sites, None where it has none."""
    moments = [value or 0.0 for value in structure.site_properties.get("magmom", ())]
    return MagneticOrder.of(structure, moments) if np.any(moments) else None
