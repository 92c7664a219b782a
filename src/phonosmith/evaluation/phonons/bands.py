"""Band structure along the standard path of a crystal."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phonosmith.evaluation.phonons.mesh import sorted_frequencies

if TYPE_CHECKING:
    from phonosmith.harmonic.matching import CellMatch
    from phonosmith.harmonic.model import HarmonicModel

Array = NDArray[np.float64]


@dataclass(frozen=True)
class BandPath:
    """Straight segments between high-symmetry points.

    Each segment has its q-points in reduced coordinates of the primitive cell and the names of both its ends.
    """

    segments: tuple[Array, ...]
    labels: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class BandStructure:
    """Frequencies along a path, in the coordinates of the cell the path was made for.

    ``distances`` is the path length of every point of every segment (1/Å without 2π, continuing from segment to
    segment), ``frequencies`` one (n_points, n_branches) array per segment, THz, sorted at every q-point.
    """

    path: BandPath
    distances: tuple[Array, ...]
    frequencies: tuple[Array, ...]

    @property
    def lowest(self) -> float:
        """Lowest frequency, THz."""
        return float(np.concatenate(self.frequencies).min())

    @property
    def highest(self) -> float:
        """Highest frequency, THz."""
        return float(np.concatenate(self.frequencies).max())


def standard_path(model: HarmonicModel, points: int = 101) -> BandPath:
    """Return the path of Hinuma et al. for a model's primitive cell, ``points`` q-points per segment.

    The cell need not be the standard one: q-points are expressed in its own reciprocal basis.
    """
    import seekpath

    cell, tolerance = model.phonon.primitive, model.phonon.symmetry.tolerance
    crystal = (cell.cell, cell.scaled_positions, cell.numbers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seekpath warns of edge cases where two labels coincide
        standard = seekpath.get_path(crystal, symprec=tolerance)
        if not _is_standard(model, standard):
            standard = seekpath.get_path_orig_cell(crystal, symprec=tolerance)
    corners = {name: np.array(value, dtype=float) for name, value in standard["point_coords"].items()}
    steps = np.linspace(0.0, 1.0, points)[:, None]
    segments = tuple(corners[a] + steps * (corners[b] - corners[a]) for a, b in standard["path"])
    return BandPath(segments, tuple((str(a), str(b)) for a, b in standard["path"]))


def _is_standard(model: HarmonicModel, standard: Any) -> bool:
    """Tell whether the standard path's coordinates are valid in the model's own primitive basis.

    They are when the standard basis is the model's own up to a rotation of the crystal (or time reversal). Both choices
    then run along equivalent lines, and the standard coordinates keep band plots of different programs the same.
    """
    turned = model.phonon.primitive.cell @ np.asarray(standard["rotation_matrix"]).T
    relation = np.asarray(standard["primitive_lattice"]) @ np.linalg.inv(turned)
    integers = np.rint(relation).astype(int)
    if np.abs(relation - integers).max() > 1e-3:
        return False
    operations = model.phonon.primitive_symmetry.pointgroup_operations
    return any(np.array_equal(sign * integers.T, operation) for operation in operations for sign in (1, -1))


def band_structure(model: HarmonicModel, path: BandPath, match: CellMatch | None = None) -> BandStructure:
    """Return frequencies along a path.

    The path is in reduced coordinates of the model's primitive cell, or, with ``match``, of the reference's that the
    model (the candidate) is compared with.
    """
    reciprocal = np.linalg.inv(model.phonon.primitive.cell)  # columns are reciprocal vectors without 2π
    segments = path.segments if match is None else tuple(match.to_candidate(segment) for segment in path.segments)
    lengths = [float(np.linalg.norm(reciprocal @ (segment[-1] - segment[0]))) for segment in segments]
    starts = np.cumsum([0.0, *lengths[:-1]])
    distances = tuple(
        start + np.linspace(0.0, length, len(segment))
        for start, length, segment in zip(starts, lengths, segments, strict=True)
    )
    frequencies = (sorted_frequencies(model, segment, direction=segment[-1] - segment[0]) for segment in segments)
    return BandStructure(path, distances, tuple(frequencies))


def lo_to_splitting(model: HarmonicModel, path: BandPath) -> float | None:
    """Return the largest rise (THz) of a mode at Γ by the non-analytic term, over the path's directions from Γ.

    For a cubic crystal of two atoms this is ω_LO - ω_TO. None without Born charges, or where no segment touches Γ.
    """
    if model.phonon.nac_params is None:
        return None
    gamma = np.zeros((1, 3))
    touching = [segment for segment in path.segments if np.abs(segment[[0, -1]]).max(axis=1).min() < 1e-8]
    if not touching:
        return None
    plain = sorted_frequencies(model, gamma)
    raised = [sorted_frequencies(model, gamma, direction=segment[-1] - segment[0]) for segment in touching]
    return float(max((frequencies - plain).max() for frequencies in raised))
