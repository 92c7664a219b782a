"""What the reference computes of a material: its phonons, or a few displaced cells where nobody pays for them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jobflow import Flow

from phonosmith.analysis.documents import DisplacementCheck
from phonosmith.core.errors import InputError, LabelError
from phonosmith.core.metadata import describe
from phonosmith.core.units import GPA_PER_EV_PER_A3
from phonosmith.evaluation.phonons.fastpath import displaced_cells
from phonosmith.evaluation.relax import RESIDUAL_STRESS_GPA
from phonosmith.harmonic.model import SYMPREC, new_phonon, to_phonopy_atoms
from phonosmith.potentials.base import Potential
from phonosmith.reference.documents import Frame, ReferenceRecord

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

    from phonosmith.reference.engines import ReferenceEngine
    from phonosmith.structures.magnetic import MagneticOrder


CHECK_DISPLACEMENT = 0.03
"""Å: three times that of phonons, so that forces left in a cell that is not exactly relaxed count less."""


def reference_relaxation(structure: Structure, engine: ReferenceEngine, name: str) -> Flow:
    """Return the flow that relaxes cell and atoms; its output holds the relaxed ``structure``.

    VASP relaxes twice, the second time with the plane waves of the relaxed cell.
    """
    if engine.name != "vasp":
        one = engine.relax(name).make(structure)
        return Flow([one], output=one.output, name=name)
    from atomate2.vasp.flows.core import DoubleRelaxMaker

    return describe(DoubleRelaxMaker(name, engine.relax(name), engine.relax(name)).make(structure), stage="relax")


def relax_in_folder(structure: Structure, engine: ReferenceEngine, folder: Path, attempts: int = 1) -> ReferenceRecord:
    """Relax cell and atoms without a job store, calculations in folders below one; return the accepted record.

    VASP relaxes twice, see `reference_relaxation`.

    Raises
    ------
    LabelError
        When a relaxation is refused, with the reasons, or leaves the cell under load.
    """
    frame = Frame.from_atoms(structure.to_ase_atoms(msonable=False))
    for round_number in range(1, 3 if engine.name == "vasp" else 2):
        place = folder / f"relax_{round_number}"
        place.mkdir(parents=True, exist_ok=True)
        with contextlib.chdir(place):
            record = engine.compute(frame, "relax", place.name, attempts)
        if not record.accepted:
            raise LabelError(
                f"The relaxation of {structure.composition.reduced_formula} is refused: {record.explain()}.",
                f"Look into {place}, repair the cause, relax again.",
            )
        frame = Frame.from_atoms(record.to_atoms())
    left = float(np.abs(record.stress or 0.0).max()) * GPA_PER_EV_PER_A3
    # symmetry may hide from forces that a cell is under load
    if left > RESIDUAL_STRESS_GPA:
        raise LabelError(
            f"The relaxation of {structure.composition.reduced_formula} is refused: it left a stress of {left:.3f} GPa "
            f"(limit {RESIDUAL_STRESS_GPA:g}).",
            "Give it more steps (relax_steps of the protocol) or start closer to the minimum.",
        )
    return record


def check_cells(
    structure: Structure, matrix: Sequence[Sequence[int]], n_cells: int, order: MagneticOrder | None = None
) -> list[Atoms]:
    """Return a few symmetry-inequivalent displaced supercells of a relaxed crystal, evenly picked from all of them."""
    if n_cells < 1:
        raise InputError(f"{n_cells} check displacements were asked.", "Ask for 1 to 3, or leave them out.")
    phonon = new_phonon(to_phonopy_atoms(structure, order), matrix, "auto", SYMPREC)
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
