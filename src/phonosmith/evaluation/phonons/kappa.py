"""Lattice thermal conductivity in the relaxation-time approximation (phono3py, extra ``kappa``) and its error measures.

SRE and SRME are the figures of the matbench-discovery phonon benchmark (Póta et al., arXiv:2408.00755):
SRE = 2 (κ_ML - κ_ref)/(κ_ML + κ_ref) from totals, SRME = 2 Σ|κ_ML(q,s) - κ_ref(q,s)| / (κ_ML + κ_ref) from modes. Both
are 2 in size at worst, and SRME is set to 2 where the potential has imaginary modes or breaks the symmetry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from phonosmith.core.document import Document
from phonosmith.core.errors import ConfigurationError, InputError, MismatchError
from phonosmith.harmonic.model import atoms_of

if TYPE_CHECKING:
    from ase import Atoms
    from phono3py import Phono3py

    from phonosmith.potentials.base import Potential

WORST_SRME = 2.0


class ConductivityResult(Document):
    """Thermal conductivity of one crystal at one temperature."""

    temperature: float = Field(description="K")
    mesh: tuple[int, int, int] = Field(description="q-point mesh")
    tensor: list[float] = Field(description="κ in Voigt order xx yy zz yz xz xy, W/(m K)")
    kappa: float = Field(description="a third of the trace, W/(m K)")
    mode_kappa: list[list[float]] = Field(
        description="contribution of each irreducible q-point (all arms of its star) and branch to kappa, W/(m K)"
    )
    n_imaginary: int = Field(description="modes below the cutoff frequency that phono3py left out, acoustic at Γ aside")


def sre(kappa: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """Return the symmetric relative error 2 (κ - κ_ref)/(κ + κ_ref), between -2 and 2."""
    ml, ref = np.asarray(kappa, dtype=float), np.asarray(reference, dtype=float)
    if np.any(ml < 0) or np.any(ref <= 0):
        raise InputError("Conductivities must be positive.", "Leave out materials without a conductivity.")
    return np.asarray(2 * (ml - ref) / (ml + ref))


def srme(modes: ArrayLike | None, reference_modes: ArrayLike) -> float:
    """Return the symmetric relative mean error of mode-resolved conductivities, between 0 and 2.

    Contributions of each q-point and branch are in W/(m K), on the same irreducible q-points; None where the potential
    has no stable phonons (gives 2).
    """
    if modes is None:
        return WORST_SRME
    ml, ref = np.asarray(modes, dtype=float), np.asarray(reference_modes, dtype=float)
    if ml.shape != ref.shape:
        message = f"Mode conductivities have shapes {ml.shape} and {ref.shape}."
        raise MismatchError(message, "Use one mesh and one primitive cell.")
    if not (np.isfinite(ml).all() and ml.sum() > 0):
        return WORST_SRME
    return float(2 * np.abs(ml - ref).sum() / (ml.sum() + ref.sum()))


def relaxation_time_conductivity(
    phonon: Phono3py, mesh: tuple[int, int, int], temperature: float = 300.0
) -> ConductivityResult:
    """Return the conductivity at a temperature (K) of a Phono3py object with ``fc2`` and ``fc3``."""
    if phonon.fc3 is None or phonon.fc2 is None:
        raise InputError("The Phono3py object has no force constants.", "Call produce_fc2() and produce_fc3() first.")
    phonon.mesh_numbers = list(mesh)
    phonon.init_phph_interaction()
    phonon.run_thermal_conductivity(temperatures=[temperature])
    conductivity = phonon.thermal_conductivity
    tensor = np.asarray(conductivity.kappa, dtype=float)[0, 0]
    # axes: smearing, temperature, irreducible q, branch, Voigt component; summed over the star of each q
    modes = np.asarray(conductivity.mode_kappa, dtype=float)[0, 0][..., :3].mean(axis=-1) / np.prod(mesh)
    return ConductivityResult(
        temperature=temperature,
        mesh=mesh,
        tensor=tensor.tolist(),
        kappa=float(tensor[:3].mean()),
        mode_kappa=modes.tolist(),
        n_imaginary=max(0, int(np.sum(conductivity.number_of_ignored_phonon_modes)) - 3),
    )


def third_order_phonon(
    unitcell: Atoms, potential: Potential, supercell_matrix: ArrayLike, *, distance: float = 0.03
) -> Phono3py:
    """Return a Phono3py object of a relaxed cell, its force constants from a potential in one batch.

    The supercell matrix serves second and third order; ``distance`` is the displacement in Å.
    """
    try:
        from phono3py import Phono3py
    except ImportError as error:
        raise ConfigurationError(
            "Thermal conductivity needs phono3py.", "Install it with: pip install 'phonosmith[kappa]'."
        ) from error
    from phonopy.structure.atoms import PhonopyAtoms

    cell = PhonopyAtoms(
        symbols=unitcell.get_chemical_symbols(),
        cell=unitcell.cell.array,
        scaled_positions=unitcell.get_scaled_positions(),
    )
    phonon = Phono3py(cell, np.asarray(supercell_matrix, dtype=int), primitive_matrix="auto", log_level=0)
    phonon.generate_displacements(distance=distance)
    frames = [atoms_of(moved) for moved in phonon.supercells_with_displacements if moved is not None]
    phonon.forces = np.array([result.forces for result in potential.evaluate(frames, stress=False)])
    phonon.produce_fc3(symmetrize_fc3r=True)
    phonon.produce_fc2(symmetrize_fc2=True)
    return phonon
