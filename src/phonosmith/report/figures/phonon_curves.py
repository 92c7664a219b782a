"""Curves of several phonon calculations of one crystal, ready to be drawn over each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import InputError, MismatchError
from phonosmith.evaluation.phonons.bands import BandStructure, band_structure, standard_path
from phonosmith.evaluation.phonons.dos import density_of_states, frequency_grid
from phonosmith.evaluation.phonons.mesh import MeshFrequencies, mesh_frequencies
from phonosmith.harmonic.matching import match_models
from phonosmith.harmonic.model import unpack_force_constants

if TYPE_CHECKING:
    from collections.abc import Mapping

    from phonosmith.analysis.documents import PhononSummary
    from phonosmith.core.artefacts import ArtefactStore
    from phonosmith.harmonic.model import HarmonicModel

Array = NDArray[np.float64]

POINTS = 41
"""q-points per segment of a drawn path: what 700 pixels can show."""
SMEARING_THZ = 0.12
"""Gaussian of a drawn density of states, THz: wider than that of the comparison because the mesh is coarser."""
_MESH_BUDGET = 40_000


@dataclass(frozen=True)
class Side:
    """Phonons of one potential, or of the reference."""

    name: str
    bands: BandStructure
    mesh: MeshFrequencies
    dos: Array


@dataclass(frozen=True)
class PhononCurves:
    """Curves of all sides.

    Attributes
    ----------
    formula
        Of the crystal.
    sides
        The first gives the path; the others were brought into its primitive cell.
    grid
        Frequencies of every density of states, THz.
    left_out
        Sides that do not belong to this crystal, with the reason.
    """

    formula: str
    sides: list[Side]
    grid: Array
    left_out: dict[str, str] = field(default_factory=dict)


def load_model(summary: PhononSummary, artefacts: ArtefactStore) -> HarmonicModel:
    """Rebuild the phonons a report refers to from the artefact store."""
    return unpack_force_constants(artefacts.get_bytes(summary.force_constants))


def drawing_mesh(n_branches: int) -> int:
    """Return mesh numbers fine enough for a smooth density of states, coarser the more branches there are."""
    return int(np.clip(round((_MESH_BUDGET / n_branches) ** (1 / 3)), 6, 16))


def phonon_curves(
    models: Mapping[str, HarmonicModel], *, points: int = POINTS, smearing_thz: float = SMEARING_THZ
) -> PhononCurves:
    """Return bands, mesh frequencies and densities of states of several models of one crystal.

    Parameters
    ----------
    models
        By name, the reference (or whatever gives the path) first.
    points
        q-points per segment.
    smearing_thz
        Gaussian of the densities of states, THz.
    """
    if not models:
        raise InputError("There are no phonons to draw.", "Pass at least one model.")
    names = list(models)
    first = models[names[0]]
    path = standard_path(first, points)
    size = drawing_mesh(3 * len(first.phonon.primitive))
    bands = {names[0]: band_structure(first, path)}
    left_out = {}
    for name in names[1:]:
        try:
            bands[name] = band_structure(models[name], path, match_models(first, models[name]))
        except MismatchError as error:
            left_out[name] = error.message
    meshes = {name: mesh_frequencies(models[name], size) for name in bands}
    grid = frequency_grid([found.frequencies for found in meshes.values()], smearing_thz, smearing_thz / 4)
    sides = [
        Side(
            name,
            bands[name],
            meshes[name],
            density_of_states(meshes[name].frequencies, meshes[name].weights, grid, smearing_thz),
        )
        for name in bands
    ]
    return PhononCurves(first.formula, sides, grid, left_out)
