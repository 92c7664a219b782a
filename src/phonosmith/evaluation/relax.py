"""Relax a crystal with a potential, keeping its symmetry, and refuse a relaxation that did not converge."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from phonosmith.core.errors import ConvergenceError
from phonosmith.core.units import GPA_PER_EV_PER_A3
from phonosmith.potentials.base import require_elements

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from phonosmith.potentials.base import Potential

FMAX = 1e-5
"""eV/Å; forces of displaced cells (0.01 Å) are of the order 0.1 eV/Å, so this leaves them correct to 1e-4."""
SMAX_GPA = 1e-3
"""GPA; a residual stress of this size changes the volume by about 1e-5."""
RESIDUAL_STRESS_GPA = 0.05
"""A cell that others relaxed and left under more stress than this is not relaxed: it changes the volume by about
0.1 %."""
SYMPREC = 1e-3
"""Å, tolerance of the symmetry that is kept."""


@dataclass(frozen=True)
class Relaxation:
    """A relaxed crystal.

    Attributes
    ----------
    atoms, energy
        Relaxed positions and cell, without calculator or constraints; eV per cell.
    fmax, smax, pressure
        Largest force on an atom, eV/Å; largest stress component and -1/3 of the stress's trace, GPa.
    steps, converged
        Optimizer steps; both thresholds met.
    """

    atoms: Atoms
    energy: float
    fmax: float
    smax: float
    pressure: float
    steps: int
    converged: bool

    def summary(self) -> dict[str, Any]:
        """Return what a document keeps."""
        return {
            "steps": self.steps,
            "fmax_ev_per_a": self.fmax,
            "smax_gpa": self.smax,
            "pressure_gpa": self.pressure,
            "converged": self.converged,
        }


def _residuals(atoms: Atoms) -> tuple[float, float, float]:
    """Return the largest force (eV/Å), the largest stress component and the pressure (both GPa)."""
    stress = atoms.get_stress(voigt=True) * GPA_PER_EV_PER_A3
    fmax = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
    return fmax, float(np.abs(stress).max()), -float(stress[:3].mean())


def relax_atoms(
    atoms: Atoms,
    potential: Potential | Calculator,
    *,
    fmax: float = FMAX,
    smax_gpa: float = SMAX_GPA,
    steps: int = 500,
    symprec: float = SYMPREC,
    must_converge: bool = True,
) -> Relaxation:
    """Relax positions and cell of a periodic configuration.

    Parameters
    ----------
    potential
        A potential, or an ASE calculator.
    symprec
        The space group found within this tolerance (Å) is taken up and kept.
    fmax, smax_gpa
        Thresholds of the largest force (eV/Å) and of the largest stress component (GPa).
    steps
        Optimizer steps allowed in all.
    must_converge
        Raise ConvergenceError when a threshold is missed; otherwise the result says ``converged=False``.
    """
    from ase.constraints import FixSymmetry
    from ase.spacegroup.symmetrize import refine_symmetry

    work = atoms.copy()
    work.set_constraint()
    if hasattr(potential, "evaluate"):
        require_elements(potential, [work])
        work.calc = potential.calculator()
    else:
        work.calc = potential
    # symmetrised forces cannot heal rounding noise of the input, so it is taken out first
    refine_symmetry(work, symprec=symprec)
    work.set_constraint(FixSymmetry(work, symprec=symprec))
    taken = _optimize(work, fmax, smax_gpa, steps)
    force, stress, pressure = _residuals(work)
    converged = bool(force <= fmax and stress <= smax_gpa)
    if must_converge and not converged:
        raise ConvergenceError(
            f"The relaxation of {work.get_chemical_formula()} stopped after {taken} steps with a largest force of "
            f"{force:.1e} eV/Å (wanted {fmax:.1e}) and stress of {stress:.1e} GPa (wanted {smax_gpa:.1e}).",
            "Allow more steps, start closer to the minimum, or evaluate the potential in float64.",
        )
    relaxed = work.copy()
    relaxed.set_constraint()
    return Relaxation(relaxed, float(work.get_potential_energy()), force, stress, pressure, taken, converged)


def _optimize(work: Atoms, fmax: float, smax_gpa: float, steps: int) -> int:
    """Minimise in rounds until forces and stress both meet their thresholds; return the steps taken."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE, BFGSLineSearch

    taken, threshold = 0, fmax
    for optimizer in (BFGSLineSearch, BFGSLineSearch, FIRE, BFGSLineSearch):
        force, stress, _ = _residuals(work)
        if (force <= fmax and stress <= smax_gpa) or taken >= steps:
            break
        # the filter measures stress as a force (volume times stress over the number of atoms), so its own threshold
        # says little about GPa: it is tightened until both thresholds hold
        optimisation = optimizer(FrechetCellFilter(work), logfile=None)
        # the line search raises when it gives up at the noise floor; the residuals decide what that is worth
        with contextlib.suppress(RuntimeError):
            optimisation.run(fmax=threshold, steps=steps - taken)
        taken += max(int(optimisation.nsteps), 1)
        threshold *= 0.2
    return taken
