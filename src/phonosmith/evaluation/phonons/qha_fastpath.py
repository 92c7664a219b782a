"""Quasi-harmonic properties of a potential: phonons at the relaxed volumes of its equation of state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from phonosmith.core.document import Document
from phonosmith.core.errors import InputError
from phonosmith.core.hashing import digest_structure
from phonosmith.core.manifest import Manifest, recorded
from phonosmith.evaluation.mechanics.fastpath import FMAX, MAX_STEPS, as_atoms, scaled_cell
from phonosmith.evaluation.phonons.comparison import mesh_frequencies
from phonosmith.evaluation.phonons.fastpath import harmonic_from_potential
from phonosmith.evaluation.phonons.qha import GruneisenResult, QuasiHarmonicResult, mean_gruneisen, quasi_harmonic
from phonosmith.evaluation.phonons.stability import judge_stability
from phonosmith.evaluation.phonons.thermodynamics import thermal_properties
from phonosmith.sampling.fire import relax_batch

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from phonosmith.potentials.base import Potential

FACTORS = (0.96, 0.98, 1.0, 1.02, 1.04, 1.06)
"""Volumes relative to the relaxed one; more of them above, because crystals expand."""
TEMPERATURES = tuple(float(t) for t in range(0, 1020, 20))


class QhaDoc(Document):
    """Quasi-harmonic properties of one crystal by one potential."""

    formula: str = Field(description="reduced formula")
    method: str = Field(description="name of the potential")
    volumes: list[float] = Field(description="volumes used, Å³ per primitive cell")
    energies: list[float] = Field(description="static energies there, eV per primitive cell")
    qha: QuasiHarmonicResult = Field(description="properties against temperature")
    gruneisen: GruneisenResult = Field(description="mode Grüneisen parameters about the given volume")
    left_out: list[str] = Field(default_factory=list, description="volumes not used, and why")
    manifest: Manifest = Field(description="provenance")


def evaluate_qha(
    structure: Structure,
    potential: Potential,
    supercell_matrix: Sequence[Sequence[int]],
    *,
    method: str = "",
    factors: Sequence[float] = FACTORS,
    temperatures: Sequence[float] = TEMPERATURES,
    mesh: int = 16,
    fmax: float = FMAX,
    max_steps: int = MAX_STEPS,
) -> QhaDoc:
    """Return quasi-harmonic properties of a potential.

    Volumes whose atoms do not relax or whose phonons are unstable are left out and named.

    Parameters
    ----------
    structure
        The relaxed cell; it is scaled isotropically.
    potential
        What to evaluate.
    supercell_matrix
        Of the phonons, phonopy's convention.
    method
        Name written into the document.
    factors
        Volumes relative to that of ``structure``; 1 and a neighbour on each side serve the Grüneisen parameters.
    temperatures
        K, ascending.
    mesh
        q-mesh.
    fmax, max_steps
        Relaxation of the atoms at each volume, eV/Å and steps.

    Raises
    ------
    InputError
        When 1 is not among the factors or too few volumes are stable.
    """
    from pymatgen.io.ase import AseAtomsAdaptor

    chosen = sorted(float(factor) for factor in factors)
    if 1.0 not in chosen or chosen.index(1.0) in (0, len(chosen) - 1):
        raise InputError("The volume factors need 1 and a neighbour on each side.", "Give e.g. 0.98, 1, 1.02.")
    atoms = as_atoms(structure)
    settings = {"factors": chosen, "mesh": mesh, "fmax": fmax, "supercell": [list(row) for row in supercell_matrix]}
    with recorded({"structure": digest_structure(atoms)}, settings) as manifest:
        found = relax_batch(
            [scaled_cell(atoms, factor) for factor in chosen], potential, fmax=fmax, max_steps=max_steps
        )
        models, rows, left_out = {}, [], []
        for factor, trajectory in zip(chosen, found, strict=True):
            if not trajectory.converged:
                left_out.append(f"volume factor {factor:g}: atoms did not relax below {fmax:g} eV/Å")
                continue
            relaxed = AseAtomsAdaptor.get_structure(trajectory.frames[-1])
            model = harmonic_from_potential(relaxed, potential, supercell_matrix, source=method or "potential")
            if not judge_stability(model).stable_practical:
                left_out.append(f"volume factor {factor:g}: imaginary modes")
                continue
            models[factor] = model.phonon
            sampled = mesh_frequencies(model, mesh)
            thermal = thermal_properties(sampled.frequencies, sampled.weights, temperatures)
            share = len(model.phonon.primitive) / len(atoms)
            rows.append((float(model.phonon.primitive.volume), trajectory.energies[-1] * share, thermal))
        around = chosen[chosen.index(1.0) - 1 : chosen.index(1.0) + 2]
        if any(factor not in models for factor in around):
            raise InputError(
                f"The volumes about the given one cannot be used: {'; '.join(left_out)}.", "Relax it first."
            )
        tables = [
            np.array([getattr(thermal, name) for *_, thermal in rows]).T
            for name in ("free_energy", "heat_capacity", "entropy")
        ]
        volumes, energies = [row[0] for row in rows], [row[1] for row in rows]
        result = quasi_harmonic(volumes, energies, temperatures, *tables)
        smaller, middle, larger = (models[factor] for factor in around)
        gruneisen = mean_gruneisen(middle, larger, smaller, mesh=(mesh, mesh, mesh))
    return QhaDoc(
        formula=structure.composition.reduced_formula,
        method=method,
        volumes=volumes,
        energies=energies,
        qha=result,
        gruneisen=gruneisen,
        left_out=left_out,
        manifest=manifest,
    )
