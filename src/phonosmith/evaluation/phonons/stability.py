"""Dynamical stability, judged at the q-points where a supercell is exact, and how well a potential predicts it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import InputError
from phonosmith.evaluation.phonons.documents import StabilityVerdict
from phonosmith.evaluation.phonons.mesh import sorted_frequencies
from phonosmith.harmonic.matching import primitive_supercell_matrix

if TYPE_CHECKING:
    from phonosmith.harmonic.model import HarmonicModel

Array = NDArray[np.float64]

STRICT_THZ = 1e-4
"""Threshold of the published study: a commensurate mode below minus this is imaginary, THz."""
PRACTICAL_THZ = 0.05
"""Threshold above the noise that forces converged to about 0.1 meV/Å leave in soft modes, THz."""


def commensurate_qpoints(model: HarmonicModel) -> Array:
    """Return the q-points (reduced, primitive cell) whose phase repeats with the supercell; Γ is the first."""
    from phonopy.harmonic.dynmat_to_fc import get_commensurate_points

    points = np.asarray(get_commensurate_points(primitive_supercell_matrix(model).T), dtype=float)
    return points[np.argsort(np.linalg.norm(points - np.rint(points), axis=1), kind="stable")]


def gamma_modes(model: HarmonicModel) -> tuple[Array, Array]:
    """Return acoustic and optical frequencies at Γ in THz, told apart by what they are, not by their size.

    The acoustic modes are the rigid translations. Optical frequencies are those of the dynamical matrix restricted to
    motions that leave the centre of mass at rest; acoustic ones those of its restriction to translations.
    """
    phonon = model.phonon
    phonon.dynamical_matrix.run([0.0, 0.0, 0.0])
    dynamical = np.array(phonon.dynamical_matrix.dynamical_matrix)
    root = np.sqrt(phonon.primitive.masses)
    translations = np.kron((root / np.linalg.norm(root))[:, None], np.eye(3))
    basis = np.linalg.qr(np.hstack([translations, np.eye(len(translations))]))[0]

    def frequencies(space: Array) -> Array:
        values = np.linalg.eigvalsh(space.T @ dynamical @ space)
        return np.asarray(np.sign(values) * np.sqrt(np.abs(values)) * phonon.unit_conversion_factor)

    return frequencies(basis[:, :3]), frequencies(basis[:, 3:])


def judge_stability(
    model: HarmonicModel, *, strict_thz: float = STRICT_THZ, practical_thz: float = PRACTICAL_THZ
) -> StabilityVerdict:
    """Count imaginary modes at commensurate q-points: those below minus a positive threshold in THz."""
    if strict_thz < 0 or practical_thz < 0:
        raise InputError("Stability thresholds must not be negative.", "Give magnitudes in THz.")
    points = commensurate_qpoints(model)
    acoustic, optical = gamma_modes(model)
    modes = np.append(sorted_frequencies(model, points[1:]), optical) if len(points) > 1 else optical
    strict, practical = int((modes < -strict_thz).sum()), int((modes < -practical_thz).sum())
    return StabilityVerdict(
        n_qpoints=len(points),
        omega_min_thz=float(modes.min()) if len(modes) else 0.0,
        n_imaginary=strict,
        n_imaginary_practical=practical,
        stable=strict == 0,
        stable_practical=practical == 0,
        strict_thz=strict_thz,
        practical_thz=practical_thz,
        acoustic_gamma_thz=acoustic.tolist(),
    )


@dataclass(frozen=True)
class StabilityConfusion:
    """Counts of materials by truth (reference) and prediction; the unstable class is the one being detected."""

    true_stable: int
    stable_called_unstable: int
    unstable_called_stable: int
    true_unstable: int

    def __post_init__(self) -> None:
        if min(astuple(self)) < 0:
            raise InputError("Counts of a confusion matrix must not be negative.", "Count materials.")

    @property
    def precision(self) -> float:
        """Share of the materials called unstable that are; nan when none was called unstable."""
        return _share(self.true_unstable, self.true_unstable + self.stable_called_unstable)

    @property
    def recall(self) -> float:
        """Share of the unstable materials that were found; nan when there is none."""
        return _share(self.true_unstable, self.true_unstable + self.unstable_called_stable)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def confusion(reference_stable: Iterable[bool], predicted_stable: Iterable[bool]) -> StabilityConfusion:
    """Count agreement of predicted with reference stability, material by material."""
    counts = Counter((bool(truth), bool(said)) for truth, said in zip(reference_stable, predicted_stable, strict=True))
    return StabilityConfusion(counts[True, True], counts[True, False], counts[False, True], counts[False, False])
