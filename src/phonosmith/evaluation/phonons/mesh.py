"""Phonon frequencies of one model on a q-mesh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import InputError

if TYPE_CHECKING:
    from phonosmith.harmonic.model import HarmonicModel

Array = NDArray[np.float64]
Mesh = int | Sequence[int]
"""Points along each axis: one number for all three, or three."""

DEFAULT_MESH = 20
MOST_POINTS = 200
"""Along an axis; means are converged to their last printed digit at 40."""


@dataclass(frozen=True)
class MeshFrequencies:
    """Frequencies (THz, sorted at every q-point, shape (n_q, n_branches)) on a mesh.

    ``qpoints`` are reduced coordinates, ``weights`` the points of the full mesh each of them stands for.
    """

    qpoints: Array
    weights: Array
    frequencies: Array
    mesh: tuple[int, int, int]

    @property
    def mean_of_real(self) -> float:
        """Weighted mean of the positive frequencies, THz (nan when there is none)."""
        real = self.frequencies > 0
        weights = np.broadcast_to(self.weights[:, None], real.shape)[real]
        return float(np.average(self.frequencies[real], weights=weights)) if weights.any() else float("nan")


def mesh_numbers(mesh: Mesh) -> tuple[int, int, int]:
    """Return three mesh numbers from one or three."""
    numbers = [mesh] * 3 if isinstance(mesh, int) else [int(n) for n in mesh]
    if len(numbers) != 3 or min(numbers) < 1 or max(numbers) > MOST_POINTS:
        raise InputError(
            f"A q-mesh needs three numbers from 1 to {MOST_POINTS}, got {mesh}.", "Give e.g. 20 or 20 20 20."
        )
    return numbers[0], numbers[1], numbers[2]


def mesh_frequencies(model: HarmonicModel, mesh: Mesh = DEFAULT_MESH, *, symmetry: bool = True) -> MeshFrequencies:
    """Return a model's frequencies on the irreducible points of a mesh, shifted where a number is even.

    The point operations of the model's primitive cell reduce it; without ``symmetry`` time reversal alone does.
    """
    import spglib

    numbers = np.array(mesh_numbers(mesh))
    shift = 1 - numbers % 2
    rotations = model.phonon.primitive_symmetry.pointgroup_operations if symmetry else np.eye(3)[None]
    mapping, addresses = spglib.get_stabilized_reciprocal_mesh(
        numbers.tolist(), np.asarray(rotations, dtype="intc"), is_shift=shift.tolist(), is_time_reversal=True
    )
    irreducible, weights = np.unique(mapping, return_counts=True)
    points = (addresses[irreducible] + shift / 2) / numbers
    return MeshFrequencies(points, weights.astype(float), sorted_frequencies(model, points), mesh_numbers(mesh))


def sorted_frequencies(model: HarmonicModel, qpoints: Array, direction: Array | None = None) -> Array:
    """Return frequencies in THz at q-points, sorted at each.

    ``direction`` (reduced coordinates) is that from which Γ is approached, where a non-analytic term depends on it.
    """
    model.phonon.run_qpoints(qpoints, nac_q_direction=direction)
    return np.sort(np.asarray(model.phonon.get_qpoints_dict()["frequencies"], dtype=float), axis=1)
