"""What the reference computes of a material: its phonons, or a few displaced cells where nobody pays for them.

Phonons take the fast path where a potential plays the reference, atomate2's flow for VASP and GPAW.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from phonosmith.analysis.documents import DisplacementCheck
from phonosmith.core.errors import InputError
from phonosmith.core.metadata import STAGE
from phonosmith.evaluation.phonons.fastpath import displaced_cells
from phonosmith.evaluation.phonons.jobs import FastPhononMaker, PhononFlowMaker
from phonosmith.harmonic.model import SYMPREC, new_phonon, to_phonopy_atoms
from phonosmith.potentials.base import Potential
from phonosmith.potentials.documents import PotentialRef

if TYPE_CHECKING:
    from ase import Atoms
    from jobflow import Flow, Job
    from pymatgen.core import Structure

    from phonosmith.reference.engines import ReferenceEngine


CALCULATIONS = ("relax", "static", "displace")
"""Stages of a program's calculations behind phonons, first words of their names."""
CHECK_DISPLACEMENT = 0.03
"""Å: three times that of phonons, so that forces left in a cell that is not exactly relaxed count less."""


def engine_potential(engine: ReferenceEngine) -> PotentialRef | None:
    """Return the potential a force-field engine computes with; None for any other calculator."""
    held = ((engine.calculator or {}).get("arguments") or {}).get("potential")
    return PotentialRef.model_validate(held) if engine.name == "forcefield" and held is not None else None


def atomate2_phonon_maker(engine: ReferenceEngine, owner: str = "") -> Any:
    """Return atomate2's PhononMaker with every calculation done by the engine, behind its gate.

    ``owner`` follows ``relax``, ``static`` and ``displace`` in the names of its calculations.
    """
    common = {
        "bulk_relax_maker": engine.relax(f"relax {owner}".strip()),
        "static_energy_maker": engine.static(f"static {owner}".strip()),
        "phonon_displacement_maker": engine.displacement(f"displace {owner}".strip()),
        "symprec": SYMPREC,
        "create_thermal_displacements": False,
        "store_force_constants": False,
    }
    if engine.name == "vasp":
        from atomate2.vasp.flows.phonons import PhononMaker

        return PhononMaker(born_maker=None, **common)
    from atomate2.forcefields.flows.phonons import PhononMaker as ForceFieldPhononMaker

    return ForceFieldPhononMaker(**common)


def reference_phonons(
    structure: Structure, engine: ReferenceEngine, matrix: list[list[int]], name: str, mesh: int
) -> Job | Flow:
    """Return the job or flow whose output is the reference's ``PhononDoc`` in one supercell.

    Parameters
    ----------
    structure
        Starting cell; it is relaxed first.
    engine
        Who computes.
    matrix
        Supercell, phonopy's convention.
    name
        Of the job or flow, e.g. ``phonon si reference``.
    mesh
        q-mesh of the summary.
    """
    potential = engine_potential(engine)
    if potential is not None:
        return FastPhononMaker(name=name, mesh=mesh).make(structure, potential, matrix)
    owner = name.removeprefix("phonon ")
    maker = PhononFlowMaker(name=name, maker=atomate2_phonon_maker(engine, owner), mesh=mesh, source=engine.name)
    flow = maker.make(structure, matrix)
    for stage in CALCULATIONS:
        flow.update_metadata({STAGE: stage}, name_filter=f"{stage} {owner}")
    return flow


def check_cells(structure: Structure, matrix: Sequence[Sequence[int]], n_cells: int) -> list[Atoms]:
    """Return a few symmetry-inequivalent displaced supercells, evenly picked from all of them.

    Parameters
    ----------
    structure
        Relaxed crystal.
    matrix
        Supercell, phonopy's convention.
    n_cells
        How many; fewer where symmetry leaves fewer.
    """
    if n_cells < 1:
        raise InputError(f"{n_cells} check displacements were asked.", "Ask for 1 to 3, or leave them out.")
    phonon = new_phonon(to_phonopy_atoms(structure), matrix, "auto", SYMPREC)
    cells = displaced_cells(phonon, CHECK_DISPLACEMENT)
    picked = np.unique(np.linspace(0, len(cells) - 1, min(n_cells, len(cells))).round().astype(int))
    chosen = [cells[index] for index in picked]
    for atoms in chosen:
        atoms.info["split"] = "check"
    return chosen


def check_forces(potential: Potential, labelled: Sequence[Atoms]) -> DisplacementCheck:
    """Compare a potential's forces with the reference's in displaced cells, which hold those."""
    truth = [np.asarray(atoms.get_forces()) for atoms in labelled]
    computed = [answer.forces for answer in potential.evaluate(labelled, stress=False)]
    difference = np.concatenate([(a - b).ravel() for a, b in zip(computed, truth, strict=True)])
    size = float(np.linalg.norm(np.concatenate([forces.ravel() for forces in truth])))
    return DisplacementCheck(
        n_cells=len(labelled),
        n_atoms=len(labelled[0]),
        force_mae=1000 * float(np.abs(difference).mean()),
        relative_percent=100 * float(np.linalg.norm(difference)) / size if size > 0 else float("inf"),
    )
