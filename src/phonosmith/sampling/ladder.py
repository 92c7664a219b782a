"""The starting configurations: rattled, distorted, at a ladder of volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from phonosmith.core.errors import InputError
from phonosmith.sampling.rattle import draw_seed, rattle
from phonosmith.sampling.strain import Distortion, distort_cell, with_cell

if TYPE_CHECKING:
    from ase import Atoms

    from phonosmith.sampling.rattle import Rattled

VOLUME_FACTORS = (0.95, 0.975, 1.0, 1.025, 1.05)
"""Volumes of the protocol."""


@dataclass(frozen=True)
class Start:
    """One starting configuration with every number behind it.

    Attributes
    ----------
    volume_factor
        Its rung: volume over that of the distorted lattice or of the unstrained supercell (exact to rounding).
    rattled, distortion
        Displacements (in the unstrained supercell) and lattice distortion (before the volume was set).
    scale
        Isotropic factor on lengths that followed the distortion.
    """

    atoms: Atoms
    volume_factor: float
    rattle_seed: int
    strain_seed: int
    rattled: Rattled
    distortion: Distortion
    scale: float


def shortest_distance(atoms: Atoms) -> float:
    """Return the shortest interatomic distance, periodic images included, Å."""
    from matscipy.neighbours import neighbour_list

    cutoff = 3.0
    while True:
        distances = neighbour_list("d", atoms, cutoff)
        if len(distances):
            return float(distances.min())
        cutoff *= 1.6


def volume_ladder(
    supercell: Atoms,
    seed: int,
    *,
    volume_factors: Sequence[float] = VOLUME_FACTORS,
    volume_of: Literal["distorted", "supercell"] = "distorted",
    mean_displacement: float = 0.1,
    strain: float = 0.02,
    min_distance_fraction: float = 0.85,
    n_iter: int = 10,
) -> list[Start]:
    """Return one rattled and distorted configuration per volume.

    Order of the steps, as in the paper: rattle in the perfect supercell, distort lengths and angles, then scale the
    volume. The distortion itself changes the volume by up to about 6 %; its factor and the isotropic scale that
    followed are recorded.

    Parameters
    ----------
    seed
        Every draw follows from it and the position on the ladder.
    volume_of
        What the factors multiply: the volume of the distorted lattice (as published), or that of the supercell before.
    mean_displacement
        Mean length of the displacements, Å.
    strain
        Largest relative change of a length or angle.
    min_distance_fraction
        Shortest distance allowed while rattling, over the shortest distance in the perfect supercell.
    n_iter
        Monte Carlo cycles.
    """
    if not volume_factors or any(not 0.5 < factor < 2 for factor in volume_factors):
        raise InputError(f"Volume factors {list(volume_factors)} are not all between 0.5 and 2.", "Use e.g. 0.95, 1.0.")
    volume, nearest = float(supercell.get_volume()), shortest_distance(supercell)
    starts = []
    for index, factor in enumerate(volume_factors):
        rattle_seed, strain_seed = draw_seed(seed, "rattle", index), draw_seed(seed, "strain", index)
        rattled = rattle(
            supercell,
            rattle_seed,
            mean_displacement=mean_displacement,
            min_distance=min_distance_fraction * nearest,
            n_iter=n_iter,
        )
        moved = supercell.copy()
        moved.positions = moved.positions + rattled.displacements
        distortion = distort_cell(np.array(supercell.cell.array), strain_seed, strain)
        final = factor * (distortion.volume_factor if volume_of == "distorted" else 1.0)
        atoms = with_cell(moved, distortion.cell, final * volume)
        scale = float((final / distortion.volume_factor) ** (1 / 3))
        starts.append(Start(atoms, float(factor), rattle_seed, strain_seed, rattled, distortion, scale))
    return starts
