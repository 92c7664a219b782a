"""Phonon frequencies of one model on a q-mesh."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phonosmith.harmonic.model import HarmonicModel

Array = NDArray[np.float64]

DEFAULT_MESH = 20


@dataclass(frozen=True)
class MeshFrequencies:
    """Frequencies on a mesh.

    Attributes
    ----------
    qpoints, weights
        Reduced coordinates, shape (n_q, 3); points of the full mesh each stands for.
    frequencies
        THz, sorted at every q-point, shape (n_q, n_branches).
    mesh
        Mesh numbers.
    """

    qpoints: Array
    weights: Array
    frequencies: Array
    mesh: tuple[int, int, int]

    @property
    def mean_of_real(self) -> float:
        """Weighted mean of the positive frequencies, THz (nan when there is none)."""
        weights = np.broadcast_to(self.weights[:, None], self.frequencies.shape)
        real = self.frequencies > 0
        total = weights[real].sum()
        return float((self.frequencies * weights)[real].sum() / total) if total else float("nan")

    def scaled(self, factor: float) -> MeshFrequencies:
        """Return the mesh with every frequency multiplied."""
        return replace(self, frequencies=self.frequencies * factor)


def mesh_numbers(mesh: int | Sequence[int]) -> tuple[int, int, int]:
    """Return three mesh numbers from one or three."""
    numbers = [mesh] * 3 if isinstance(mesh, int) else [int(n) for n in mesh]
    if len(numbers) != 3 or min(numbers) < 1:
        raise InputError(f"A q-mesh needs three positive numbers, got {mesh}.", "Give e.g. 20 or 20 20 20.")
    return numbers[0], numbers[1], numbers[2]


def mesh_points(model: HarmonicModel, mesh: int | Sequence[int], *, symmetry: bool = True) -> tuple[Array, Array]:
    """Return irreducible q-points (reduced coordinates) and weights of a mesh, shifted where a number is even.

    The point operations of the model's primitive cell reduce it; without ``symmetry`` time reversal alone does.
    """
    import spglib

    numbers = np.array(mesh_numbers(mesh))
    shift = (numbers % 2 == 0).astype(int)
    rotations = (
        np.asarray(model.phonon.primitive_symmetry.pointgroup_operations, dtype="intc")
        if symmetry
        else np.eye(3, dtype="intc")[None]
    )
    mapping, addresses = spglib.get_stabilized_reciprocal_mesh(
        numbers.tolist(), rotations, is_shift=shift.tolist(), is_time_reversal=True
    )
    irreducible, weights = np.unique(mapping, return_counts=True)
    return (addresses[irreducible] + shift / 2) / numbers, weights.astype(float)


def mesh_frequencies(
    model: HarmonicModel, mesh: int | Sequence[int] = DEFAULT_MESH, *, symmetry: bool = True
) -> MeshFrequencies:
    """Return a model's frequencies on a mesh."""
    points, weights = mesh_points(model, mesh, symmetry=symmetry)
    return MeshFrequencies(points, weights, sorted_frequencies(model, points), mesh_numbers(mesh))


def sorted_frequencies(model: HarmonicModel, qpoints: Array) -> Array:
    """Return frequencies in THz at q-points, sorted at each."""
    model.phonon.run_qpoints(qpoints)
    return np.sort(np.asarray(model.phonon.get_qpoints_dict()["frequencies"], dtype=float), axis=1)
