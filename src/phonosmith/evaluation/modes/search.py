"""Find imaginary modes: at high-symmetry points, at minima of the bands wherever those lie, and where one asks.

What counts
-----------
- A mode is imaginary below minus the threshold, 1e-4 THz as published. With a larger one, modes in between at points
  where the phonon supercell is exact are listed too, but not followed.
- At Γ the three translations are projected out before anything is looked at.
- Modes within ``DEGENERACY_THZ`` of each other form one subspace. The dynamical matrix is averaged over the operations
  of the crystal that keep q first: near-cubic supercells of hexagonal crystals split degenerate modes otherwise.
- Of equivalent wave vectors (one star, q and -q) the first is kept.
- Band minima start from minima along the standard path and from imaginary modes at exact points, go downhill in all
  three directions, and then move to the commensurate point next to them: the point itself where it is one, else the one
  with the smallest supercell within a quarter of the tolerance, else within the tolerance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
PRINTED = 5e-4
"""A wave vector given with three decimals is at most this far from the one meant (0.333 for 1/3)."""
EXACT = 1e-7
"""Coordinates this close to fractions are those fractions."""
MOST_CELLS = 1000
"""Primitive cells of the largest commensurate supercell that is looked for: the published cap on atoms, of one-atom
cells."""
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


def commensurate(q: Any, most_cells: int = MOST_CELLS, tolerance: float = EXACT) -> tuple[Array, int] | None:
    """Return the rational point next to q with the smallest common denominator, and that denominator.

    The denominator is the number of primitive cells of the smallest commensurate supercell. None where no denominator
    up to ``most_cells`` comes within ``tolerance`` of every coordinate.
    """
    wanted, orders = np.asarray(q, dtype=float), np.arange(1, most_cells + 1)
    points = np.rint(wanted * orders[:, None]) / orders[:, None]
    fitting = np.flatnonzero(np.abs(points - wanted).max(axis=1) <= tolerance)
    return (points[fitting[0]], int(orders[fitting[0]])) if len(fitting) else None


def near_commensurate(q: Any, most_cells: int, tolerance: float) -> tuple[Array, int] | None:
    """Return q itself where it is commensurate, else the smallest denominator near it, first quite near it."""
    tries = (commensurate(q, most_cells, near) for near in (EXACT, tolerance / 4, tolerance))
    return next((found for found in tries if found is not None), None)


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

    def below(self, q: Array, limit: float) -> list[tuple[float, tuple[int, ...], Complex]]:
        """Return mean frequency (THz), branches and eigenvectors of the subspaces at q whose mean is below a limit."""
        frequencies, vectors = self.modes(q)
        groups = [(float(frequencies[group].mean()), tuple(group), vectors[group]) for group in subspaces(frequencies)]
        return [group for group in groups if group[0] < limit]

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


def _at_point(crystal: _Crystal, q: Array, label: str, threshold: float) -> list[ImaginaryMode]:
    """Return the modes at a high-symmetry point, marked where they are noise or no supercell is commensurate."""
    exact, near = crystal.exact(q), commensurate(q)
    modes = []
    for mean, bands, vectors in crystal.below(q, -(min(STRICT_THZ, threshold) if exact else threshold)):
        reason = None
        if mean >= -threshold:
            reason = f"{mean:.4f} THz is within the noise threshold of {threshold:g} THz"
        elif near is None:
            reason = _no_supercell(MOST_CELLS)
        modes.append(ImaginaryMode(q if near is None else near[0], label, bands, mean, vectors, exact, skipped=reason))
    return modes


def _no_supercell(most_cells: int) -> str:
    return f"q is incommensurate with every supercell of at most {most_cells} primitive cells"


def _at_given(crystal: _Crystal, q: Array, threshold: float, most_cells: int) -> list[ImaginaryMode]:
    """Return the imaginary modes at a wave vector that was asked for; where there is none, one that says why."""
    # one that is commensurate with a larger supercell than allowed is left out by its size
    near = near_commensurate(q, most_cells, PRINTED) or commensurate(q)
    nothing = np.empty((0, 0), complex)
    if near is None:
        return [ImaginaryMode(q, "", (), 0.0, nothing, crystal.exact(q), skipped=_no_supercell(most_cells))]
    place = near[0]
    exact = crystal.exact(place)
    found = crystal.below(place, -threshold)
    if not found:
        lowest = float(crystal.modes(place)[0].min(initial=0.0))
        reason = f"asked for, but the lowest mode there has {lowest:.4f} THz"
        return [ImaginaryMode(place, "", (0,), lowest, nothing, exact, skipped=reason)]
    return [ImaginaryMode(place, "", bands, mean, vectors, exact) for mean, bands, vectors in found]


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
    threshold_thz: float | None = STRICT_THZ,
    most_cells: int = MOST_CELLS,
    tolerance: float = Q_TOLERANCE,
    qpoints: Iterable[Sequence[float]] = (),
) -> list[ImaginaryMode]:
    """Find the imaginary modes: high-symmetry points first, then band minima; those not to be followed say why.

    Parameters
    ----------
    threshold_thz
        Modes below minus this are followed; None takes the setting ``stability_threshold_thz``.
    most_cells
        Most primitive cells of a commensurate supercell.
    tolerance
        How far a band minimum may lie from its commensurate point, each reduced coordinate.
    qpoints
        Wave vectors to look at besides, fractions of the primitive reciprocal vectors.
    """
    from phonosmith.settings import get_settings

    threshold = get_settings().stability_threshold_thz if threshold_thz is None else threshold_thz
    crystal, points = _Crystal(model), high_symmetry_points(model)
    modes = [mode for label, q in points for mode in _at_point(crystal, q, label, threshold)]
    corners = [q for _, q in points]
    given = [mode for q in qpoints for mode in _at_given(crystal, np.asarray(q, float), threshold, most_cells)]
    modes += [mode for mode in given if not any(same_star(mode.q, known, crystal.rotations) for known in corners)]
    for q, band, value in band_minima(model, threshold):
        at_corner = any(same_star(q, known, crystal.rotations, tolerance) for known in corners[1:])
        if at_corner or any(_is_top_of(mode, q, band, value, tolerance) for mode in modes):
            continue
        mode = _at_minimum(crystal, q - np.rint(q), band, value, threshold, most_cells, tolerance)
        taken = [one.q for one in modes if not one.label and one.skipped is None and band in one.bands]
        if mode.skipped or not any(same_star(mode.q, known, crystal.rotations) for known in (*corners, *taken)):
            modes.append(mode)
    return modes


def _is_top_of(mode: ImaginaryMode, q: Array, band: int, value: float, tolerance: float) -> bool:
    """Tell whether a band minimum is the neighbourhood of a mode at Γ that is listed already."""
    near = mode.label == "GAMMA" and whole(q, tolerance) and band in mode.bands
    return near and abs(value - mode.frequency_thz) < 0.02 * abs(mode.frequency_thz)


def _at_minimum(
    crystal: _Crystal, q: Array, band: int, value: float, threshold: float, most_cells: int, tolerance: float
) -> ImaginaryMode:
    """Return the mode at the commensurate point next to a band minimum, or the reason why there is none."""
    near = near_commensurate(q, most_cells, tolerance)
    if near is None or near[1] == 1:
        reason = f"band minimum within {tolerance:g} of Γ: acoustic, interpolation noise"
        if near is None:
            reason = (
                f"band minimum is incommensurate: no supercell of at most {most_cells} primitive cells has a "
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
