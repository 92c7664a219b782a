"""Find imaginary modes: at high-symmetry points and at minima of the bands, wherever those lie.

What counts
-----------
- A mode is imaginary below minus the practical threshold (setting ``stability_threshold_thz``). At points where the
  phonon supercell is exact, modes between that and the strict threshold of 1e-4 THz are listed too, but not followed.
- At Γ the three translations are projected out before anything is looked at.
- Modes within ``DEGENERACY_THZ`` of each other form one subspace. The dynamical matrix is averaged over the operations
  of the crystal that keep q first: near-cubic supercells of hexagonal crystals split degenerate modes otherwise.
- Of equivalent wave vectors (one star, q and -q) the first is kept.
- Band minima start from minima along the standard path and from imaginary modes at exact points, go downhill in all
  three directions, and then move to the commensurate point next to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phonosmith.evaluation.phonons.bands import band_structure, standard_path
from phonosmith.evaluation.phonons.stability import STRICT_THZ, commensurate_qpoints
from phonosmith.harmonic.matching import primitive_supercell_matrix

if TYPE_CHECKING:
    from phonosmith.harmonic.model import HarmonicModel

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]

DEGENERACY_THZ = 5e-3
"""Modes closer than this are followed together: a larger grid costs less than a missed direction."""
Q_TOLERANCE = 0.01
"""A band minimum may lie this far (each reduced coordinate) from the commensurate point that stands for it."""
MAX_DENOMINATOR = 12
"""Largest number of primitive cells of a commensurate supercell that is looked for."""
NEAR_START = 0.03
"""Starts of one branch closer than this (each reduced coordinate) lead to one minimum."""
SAME_Q = 1e-4


@dataclass(frozen=True)
class ImaginaryMode:
    """An imaginary mode, or degenerate ones together; the fields without a word here are those of `FollowedMode`.

    Attributes
    ----------
    bands
        Branches, lowest is 0.
    eigenvectors
        One row per branch, 3 n_atoms columns, orthonormal, in phonopy's phase convention.
    """

    q: Array
    label: str
    bands: tuple[int, ...]
    frequency_thz: float
    eigenvectors: Complex
    exact: bool
    q_refined: Array | None = None
    skipped: str | None = None


def commensurate(q: Any, max_denominator: int = MAX_DENOMINATOR, tolerance: float = SAME_Q) -> tuple[Array, int] | None:
    """Return the rational point next to q with the smallest common denominator, and that denominator.

    The denominator is the number of primitive cells of the smallest commensurate supercell. None where no denominator
    up to ``max_denominator`` comes within ``tolerance`` of every coordinate.
    """
    wanted = np.asarray(q, dtype=float)
    for denominator in range(1, max_denominator + 1):
        near = np.rint(wanted * denominator) / denominator
        if np.abs(near - wanted).max() <= tolerance:
            return near, denominator
    return None


def whole(values: Any, tolerance: float = SAME_Q) -> bool:
    """Tell whether all values are integers within a tolerance."""
    return bool(np.abs(values - np.rint(values)).max() <= tolerance)


def same_star(one: Array, other: Array, rotations: Any, tolerance: float = SAME_Q) -> bool:
    """Tell whether a rotation of a group (in fractions of the cell), or time reversal, takes one q to the other."""
    images = one @ rotations
    apart = np.concatenate([images, -images]) - other
    return bool((np.abs(apart - np.rint(apart)).max(axis=1) <= tolerance).any())


class _Crystal:
    """What is asked of a harmonic model at one wave vector."""

    def __init__(self, model: HarmonicModel) -> None:
        self.phonon = model.phonon
        self.cell = self.phonon.primitive
        self.factor = float(self.phonon.unit_conversion_factor)
        operations = self.phonon.primitive_symmetry.symmetry_operations
        self.rotations = np.asarray(operations["rotations"], dtype=int)
        self.translations = np.asarray(operations["translations"], dtype=float)
        self.supercell = primitive_supercell_matrix(model)

    def exact(self, q: Array) -> bool:
        """Tell whether the phonon supercell is commensurate with q."""
        return whole(self.supercell @ q)

    def dynamical_matrix(self, q: Array) -> Complex:
        """Return the dynamical matrix averaged over the operations that keep q (with time reversal: or reverse it)."""
        matrix = self.phonon.dynamical_matrix
        matrix.run(q)
        plain = np.array(matrix.dynamical_matrix, dtype=complex)
        plain = (plain + plain.conj().T) / 2
        images = []
        for rotation, shift in zip(self.rotations, self.translations, strict=True):
            for start, source in ((q, plain), (-q, plain.conj())):
                change = start @ np.linalg.inv(rotation) - q
                if whole(change):
                    operator = self._represent(rotation, shift, np.rint(change))
                    images.append(operator @ source @ operator.conj().T)
        return np.asarray(sum(images) / len(images))

    def _represent(self, rotation: Any, shift: Array, change: Array) -> Complex:
        """Return how an operation acts on eigenvectors; its common phase cancels and is left out."""
        positions, lattice = np.asarray(self.cell.scaled_positions), np.asarray(self.cell.cell)
        apart = (positions @ rotation.T + shift)[:, None] - positions[None]
        apart -= np.rint(apart)
        target = np.linalg.norm(apart @ lattice, axis=2).argmin(axis=1)
        cartesian = lattice.T @ rotation @ np.linalg.inv(lattice.T)
        moves = np.zeros((len(positions), len(positions)), dtype=complex)
        moves[target, np.arange(len(positions))] = np.exp(2j * np.pi * positions[target] @ change)
        return np.kron(moves, cartesian)

    def modes(self, q: Array) -> tuple[Array, Complex]:
        """Return frequencies (THz) and eigenvectors (rows); at Γ those that leave the centre of mass at rest."""
        dynamical = self.dynamical_matrix(q)
        basis = np.eye(len(dynamical), dtype=complex)
        if whole(q):
            root = np.sqrt(np.asarray(self.cell.masses))
            rigid = np.kron((root / np.linalg.norm(root))[:, None], np.eye(3))
            basis = np.linalg.qr(np.hstack([rigid, np.eye(len(dynamical))]))[0][:, 3:].astype(complex)
        values, vectors = np.linalg.eigh(basis.conj().T @ dynamical @ basis)
        return np.sign(values) * np.sqrt(np.abs(values)) * self.factor, (basis @ vectors).T

    def downhill(self, start: Array, band: int) -> tuple[Array, float]:
        """Return the minimum of a branch, as phonopy has it, that a start leads to, and its frequency in THz."""
        from scipy.optimize import minimize

        def frequency(q: Array) -> float:
            self.phonon.run_qpoints(q[None])
            return float(np.sort(self.phonon.get_qpoints_dict()["frequencies"][0])[band])

        simplex = start + np.vstack([np.zeros(3), 0.02 * np.eye(3)])
        options = {"initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-3, "maxfev": 100}
        lowest = minimize(frequency, start, method="Nelder-Mead", options=options)
        return np.asarray(lowest.x), float(lowest.fun)


def subspaces(frequencies: Array) -> list[list[int]]:
    """Group sorted frequencies (THz) whose neighbours are closer than ``DEGENERACY_THZ``."""
    gaps = np.flatnonzero(np.diff(frequencies) >= DEGENERACY_THZ) + 1
    return [group.tolist() for group in np.split(np.arange(len(frequencies)), gaps) if len(group)]


def _at_point(crystal: _Crystal, q: Array, label: str, threshold: float, max_denominator: int) -> list[ImaginaryMode]:
    """Return the modes at a high-symmetry point, marked where they are noise or no supercell is commensurate."""
    frequencies, vectors = crystal.modes(q)
    exact, near, modes = crystal.exact(q), commensurate(q, max_denominator), []
    for group in subspaces(frequencies):
        mean = float(frequencies[group].mean())
        if mean >= -(STRICT_THZ if exact else threshold):
            continue
        reason = None
        if mean >= -threshold:
            reason = f"{mean:.4f} THz is within the noise threshold of {threshold:g} THz"
        elif near is None:
            reason = f"q is incommensurate with every supercell of at most {max_denominator} primitive cells"
        place = q if near is None else near[0]
        modes.append(ImaginaryMode(place, label, tuple(group), mean, vectors[group], exact, skipped=reason))
    return modes


def high_symmetry_points(model: HarmonicModel) -> list[tuple[str, Array]]:
    """Return names and coordinates of the corners of the standard path, one of each star, Γ first."""
    path, crystal = standard_path(model, points=2), _Crystal(model)
    points: list[tuple[str, Array]] = [("GAMMA", np.zeros(3))]
    for names, segment in zip(path.labels, path.segments, strict=True):
        for name, q in zip(names, segment, strict=True):
            if not any(same_star(q, known, crystal.rotations) for _, known in points):
                points.append((name, np.asarray(q, dtype=float)))
    return points


def _starts(model: HarmonicModel, threshold: float) -> list[tuple[Array, int]]:
    """Return (q, band) of minima along the path and of the lowest branch at exact points where it is imaginary."""
    starts = []
    path = standard_path(model)
    for segment, values in zip(path.segments, band_structure(model, path).frequencies, strict=True):
        inner = values[1:-1]
        lowest = (inner <= values[:-2]) & (inner <= values[2:]) & (inner < -threshold)
        starts += [(segment[i + 1], int(band)) for i, band in zip(*np.nonzero(lowest), strict=True)]
    exact = commensurate_qpoints(model)[1:]
    if len(exact):
        model.phonon.run_qpoints(exact)
        lowest_branch = model.phonon.get_qpoints_dict()["frequencies"].min(axis=1)
        starts += [(exact[i], 0) for i in np.flatnonzero(lowest_branch < -threshold)]
    return starts


def band_minima(model: HarmonicModel, threshold_thz: float) -> list[tuple[Array, int, float]]:
    """Return (q, band, frequency in THz) of the minima of imaginary branches, one of each star, lowest first."""
    crystal = _Crystal(model)
    starts: list[tuple[Array, int]] = []
    for q, band in _starts(model, threshold_thz):
        if not any(band == other and same_star(q, known, crystal.rotations, NEAR_START) for known, other in starts):
            starts.append((q, band))
    minima: list[tuple[Array, int, float]] = []
    for q, band in starts:
        place, value = crystal.downhill(q, band)
        known = (same_star(place, p, crystal.rotations, Q_TOLERANCE) for p, b, _ in minima if b == band)
        if value < -threshold_thz and not any(known):
            minima.append((place, band, value))
    return sorted(minima, key=lambda item: item[2])


def find_imaginary_modes(
    model: HarmonicModel,
    *,
    threshold_thz: float | None = None,
    max_denominator: int = MAX_DENOMINATOR,
    tolerance: float = Q_TOLERANCE,
) -> list[ImaginaryMode]:
    """Find the imaginary modes: high-symmetry points first, then band minima; those not to be followed say why.

    Parameters
    ----------
    threshold_thz
        Modes below minus this are followed; default the setting ``stability_threshold_thz``.
    max_denominator
        Most primitive cells of a commensurate supercell.
    tolerance
        How far a band minimum may lie from its commensurate point, each reduced coordinate.
    """
    from phonosmith.settings import get_settings

    threshold = get_settings().stability_threshold_thz if threshold_thz is None else threshold_thz
    crystal, points = _Crystal(model), high_symmetry_points(model)
    modes = [mode for label, q in points for mode in _at_point(crystal, q, label, threshold, max_denominator)]
    corners = [q for _, q in points]
    for q, band, value in band_minima(model, threshold):
        at_corner = any(same_star(q, known, crystal.rotations, tolerance) for known in corners[1:])
        if at_corner or any(_is_top_of(mode, q, band, value, tolerance) for mode in modes):
            continue
        mode = _at_minimum(crystal, q - np.rint(q), band, value, threshold, max_denominator, tolerance)
        taken = [one.q for one in modes if not one.label and one.skipped is None and band in one.bands]
        if mode.skipped or not any(same_star(mode.q, known, crystal.rotations) for known in (*corners, *taken)):
            modes.append(mode)
    return modes


def _is_top_of(mode: ImaginaryMode, q: Array, band: int, value: float, tolerance: float) -> bool:
    """Tell whether a band minimum is the neighbourhood of a mode at Γ that is listed already."""
    near = mode.label == "GAMMA" and whole(q, tolerance) and band in mode.bands
    return near and abs(value - mode.frequency_thz) < 0.02 * abs(mode.frequency_thz)


def _at_minimum(
    crystal: _Crystal, q: Array, band: int, value: float, threshold: float, max_denominator: int, tolerance: float
) -> ImaginaryMode:
    """Return the mode at the commensurate point next to a band minimum, or the reason why there is none."""
    near = commensurate(q, max_denominator, tolerance)
    if near is None or near[1] == 1:
        reason = f"band minimum within {tolerance:g} of Γ: acoustic, interpolation noise"
        if near is None:
            reason = (
                f"band minimum is incommensurate: no supercell of at most {max_denominator} primitive cells has a "
                f"wave vector within {tolerance:g} of it"
            )
        return ImaginaryMode(q, "", (band,), value, np.empty((0, 0), complex), crystal.exact(q), skipped=reason)
    place = near[0]
    frequencies, vectors = crystal.modes(place)
    group = next(group for group in subspaces(frequencies) if band in group)
    mean = float(frequencies[group].mean())
    refined = None if np.array_equal(q, place) else q
    weak = f"{mean:.4f} THz at the commensurate point {place.round(4).tolist()} next to the band minimum"
    skipped = weak if mean >= -threshold else None
    return ImaginaryMode(place, "", tuple(group), mean, vectors[group], crystal.exact(place), refined, skipped)
