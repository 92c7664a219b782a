"""Phonons at a temperature: effective harmonic force constants of the thermal motion itself.

Self-consistent harmonic approximation, sampled stochastically (phonopy's implementation): displacements are drawn from
the quantum canonical ensemble of the present force constants, the potential gives forces, symfc fits new constants to
them, until the two agree. Crystals that only anharmonicity holds together have real frequencies here, although their
harmonic ones are imaginary; whether their sites are those of a stable crystal at this temperature, the curvature of the
free energy tells (`hessian`). The cell is kept: thermal expansion is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from phonosmith.core.document import Document
from phonosmith.core.errors import ConvergenceError, InputError
from phonosmith.evaluation.phonons.documents import StabilityVerdict
from phonosmith.evaluation.phonons.mesh import sorted_frequencies
from phonosmith.evaluation.phonons.stability import commensurate_qpoints, judge_stability
from phonosmith.evaluation.thermal.hessian import MOST_ATOMS, free_energy_hessian
from phonosmith.harmonic.model import HarmonicModel, atoms_of, full_force_constants

if TYPE_CHECKING:
    from phonopy.structure.atoms import PhonopyAtoms

    from phonosmith.potentials.base import Potential

SNAPSHOTS, MAX_ITERATIONS = 64, 60
WINDOW = 6
"""Iterations whose force constants are averaged."""
MIXING = 0.3
"""Share of newly fitted force constants in those of the next iteration."""
DRIFT_THZ = 0.05
"""Mean change of frequencies between the two last windows of iterations at which the iteration ends, THz."""


class EffectiveHarmonic(Document):
    """How effective harmonic force constants came about."""

    temperature: float = Field(description="K")
    snapshots: int = Field(description="displaced supercells evaluated in each iteration")
    iterations: int = Field(description=f"iterations; force constants are averaged over the last {WINDOW}")
    seed: int = Field(description="of the displacements")
    free_energy: float = Field(
        description="variational free energy from the undisplaced cell on, eV per primitive cell"
    )
    free_energy_error: float = Field(description="its statistical error, eV per primitive cell")
    drift_thz: float = Field(
        description=f"mean change of the commensurate frequencies from the {WINDOW} iterations before to the last, THz"
    )
    converged: bool = Field(description=f"the drift is below {DRIFT_THZ} THz")
    curvature: StabilityVerdict | None = Field(
        None, description="modes of the free energy's curvature; null where the supercell is too large or nothing holds"
    )


@dataclass(frozen=True)
class EffectivePhonons:
    """Effective harmonic force constants, and the curvature of the free energy where it is known."""

    model: HarmonicModel
    summary: EffectiveHarmonic
    curvature: HarmonicModel | None

    @property
    def stable(self) -> bool | None:
        """Whether the free energy rises in every direction, None where this is not known (as without convergence)."""
        if not self.summary.converged:
            return None
        if not judge_stability(self.model).stable_practical:
            return False
        return None if self.summary.curvature is None else self.summary.curvature.stable_practical


class _Evaluator:
    """A potential as phonopy's sampler calls one."""

    def __init__(self, potential: Potential, rest: NDArray[np.float64]) -> None:
        self._potential = potential
        self._rest = rest
        self.drawn: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []

    def evaluate(
        self, cells: Sequence[PhonopyAtoms]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return energies (eV), forces (eV/Å) and stresses (not computed) of supercells."""
        results = self._potential.evaluate([atoms_of(cell) for cell in cells], stress=False)
        energies = np.array([result.energy for result in results])
        forces = np.array([result.forces for result in results])
        if not (np.isfinite(energies).all() and np.isfinite(forces).all()):
            raise ConvergenceError(
                "The potential gives no finite forces for thermal displacements.",
                "The crystal is not held together at this temperature, or the potential does not reach so far.",
            )
        self.drawn.append((np.array([cell.positions - self._rest for cell in cells]), forces))
        return energies, forces, np.zeros((len(results), 6))


def effective_harmonic(
    model: HarmonicModel,
    potential: Potential,
    temperature: float,
    *,
    snapshots: int = SNAPSHOTS,
    iterations: int = MAX_ITERATIONS,
    seed: int = 0,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> EffectivePhonons:
    """Return the effective harmonic model of a crystal at a temperature (K), and how it came about.

    Start, cell and supercell are those of ``model``; ``progress`` is told iterations done, the most
    that are done, and words.
    """
    from phonopy.sscha.core import MLPSSCHA

    if not 0 <= temperature < np.inf or snapshots < 2 or iterations < 2 * WINDOW:
        raise InputError(
            f"Effective phonons at {temperature:g} K with {snapshots} snapshots and {iterations} iterations cannot be.",
            f"Give a temperature in K, at least 2 snapshots and {2 * WINDOW} iterations.",
        )
    start = model.phonon.replicate()
    start.force_constants = full_force_constants(model.phonon)
    evaluator = _Evaluator(potential, model.phonon.supercell.positions)
    sampler = MLPSSCHA(
        start,
        cast("Any", evaluator),
        temperature=temperature,
        number_of_snapshots=snapshots,
        max_iterations=iterations,
        fc_calculator="symfc",
        mesh=[8, 8, 8],
        random_seed=seed,
    )
    qpoints = commensurate_qpoints(model)
    used, present, drift = [], np.asarray(start.force_constants), np.inf
    for done in sampler:
        # undamped, the iteration overshoots by more than it corrects wherever the harmonic constant is negative
        present = (1 - MIXING) * present + MIXING * np.asarray(sampler.force_constants)
        sampler.phonopy.force_constants = present
        used.append(present)
        if progress is not None:
            progress(done, iterations, f"{temperature:g} K, iteration {done}")
        if len(used) >= 2 * WINDOW:
            last, before = (_with(model, part, temperature) for part in (used[-WINDOW:], used[-2 * WINDOW : -WINDOW]))
            drift = float(np.abs(sorted_frequencies(last, qpoints) - sorted_frequencies(before, qpoints)).mean())
            if drift <= DRIFT_THZ:
                break
    kept = sampler.history[-WINDOW:]
    effective, curvature = _with(model, used[-WINDOW:], temperature), None
    if len(model.phonon.supercell) <= MOST_ATOMS:
        moved, forces = (np.concatenate(parts) for parts in zip(*evaluator.drawn[-WINDOW:], strict=True))
        curvature = free_energy_hessian(effective, moved, forces, temperature)
    summary = EffectiveHarmonic(
        temperature=temperature,
        snapshots=snapshots,
        iterations=len(used),
        seed=seed,
        free_energy=float(np.mean([one.free_energy for one in kept])),
        free_energy_error=float(np.sqrt(np.sum([one.free_energy_error**2 for one in kept])) / len(kept)),
        drift_thz=drift,
        converged=drift <= DRIFT_THZ,
        curvature=None if curvature is None else judge_stability(curvature),
    )
    return EffectivePhonons(effective, summary, curvature)


def _with(model: HarmonicModel, constants: Sequence[NDArray[np.float64]], temperature: float) -> HarmonicModel:
    """Return the model with the mean of several sets of force constants."""
    phonon = model.phonon.replicate()
    phonon.force_constants = np.mean(constants, axis=0)
    phonon.nac_params = model.phonon.nac_params
    return HarmonicModel(phonon, "symfc", f"{model.source} at {temperature:g} K")
