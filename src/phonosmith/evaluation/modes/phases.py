"""Phases that imaginary modes lead to: relaxation from a displaced crystal, and the name of what it ends in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from phonosmith.core.errors import InputError
from phonosmith.evaluation.guarded import GuardedPotential, SpglibCell, ask_spglib, cell_of, divides
from phonosmith.evaluation.modes.documents import GridMinimum, Pathway, Phase
from phonosmith.potentials.base import require_elements
from phonosmith.sampling.fire import Trajectory, relax_batch

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

    from phonosmith.potentials.base import Potential

FMAX = 0.005
"""eV/Å, largest force (with the cell's, as ASE counts it) of the published relaxations."""
MAX_STEPS = 2000
"""Most steps of the published relaxations."""
SYMPREC = 0.1
"""Å, tolerance within which the published phases were named."""
SAME_ENERGY = 1e-4
"""eV/atom. Relaxations into one phase end within 1e-5 of each other at 5 meV/Å; the published phases of equal space
group and size lie 5e-4 or more apart."""
FALLBACKS = (1.0, 0.5, 0.2, 0.1, 0.01)
"""Parts of the tolerance tried in turn."""
_BATCH_STEPS = 4_000_000
"""Atoms times steps kept in memory at once, roughly (every step of a trajectory is kept: about 100 bytes per atom)."""


@dataclass(frozen=True)
class Identity:
    """Symmetry of a crystal: international symbol and number, and the primitive cell as it was found, not idealised.

    ``symprec`` is the tolerance that gave it (Å), ``note`` says why that is not the one asked for.
    """

    space_group: str
    number: int
    primitive: Structure
    symprec: float
    note: str = ""

    def phase(self, energy_difference: float) -> Phase:
        """Return the phase of this name, with its energy against the initial phase in eV/atom."""
        return Phase(
            space_group=self.space_group,
            space_group_number=self.number,
            n_atoms_primitive=len(self.primitive),
            energy_difference_ev_per_atom=energy_difference,
            structure=self.primitive.as_dict(),
        )


def identify(crystal: Structure | Atoms, symprec: float = SYMPREC) -> Identity:
    """Return space group and primitive cell of a crystal (any cell of it).

    A tolerance of 0.1 Å sometimes finds operations that do not form a group with the cell. A finding counts when the
    primitive cell divides the cell and has the same space group; otherwise smaller tolerances are tried, and a note
    says so.
    """
    import spglib

    cell = cell_of(crystal)
    for part in FALLBACKS:
        tolerance = part * symprec
        dataset = ask_spglib(spglib.get_symmetry_dataset, cell, symprec=tolerance)
        primitive = ask_spglib(spglib.standardize_cell, cell, to_primitive=True, no_idealize=True, symprec=tolerance)
        if dataset is None or primitive is None or not divides(primitive, cell, 0.05):
            continue
        again = ask_spglib(spglib.get_symmetry_dataset, primitive, symprec=tolerance)
        if again is None or again.number != dataset.number:
            continue
        note = "" if part == 1.0 else f"no consistent symmetry within {symprec:g} Å, named within {tolerance:g} Å"
        return Identity(str(dataset.international), int(dataset.number), _structure(primitive), tolerance, note)
    note = f"spglib finds no consistent symmetry within {symprec:g} Å or less: taken as P1"
    return Identity("P1", 1, _structure(cell), symprec, note)


def _structure(cell: SpglibCell) -> Structure:
    from pymatgen.core import Structure

    lattice, positions, numbers = cell
    return Structure(lattice, numbers, positions, to_unit_cell=True)


def phase_of(crystal: Structure | Atoms, energy_difference: float = 0.0) -> Phase:
    """Return the phase a crystal (any cell of it) is, with its primitive cell as relaxed, not idealised.

    ``energy_difference`` is its energy minus that of the initial phase by the same method, eV/atom.
    """
    return identify(crystal).phase(energy_difference)


def displaced_phase(frame: Atoms, start: GridMinimum) -> Phase:
    """Return what a displaced crystal is called before it relaxes, without its structure."""
    return phase_of(frame, start.energy_ev_per_atom).model_copy(update={"structure": None})


def same_name(one: Phase, other: Phase) -> bool:
    """Return whether two phases agree in space group and atoms of the primitive cell: the paper's equality."""
    return one.space_group_number == other.space_group_number and one.n_atoms_primitive == other.n_atoms_primitive


def same_phase(one: Phase, other: Phase) -> bool:
    """Return whether two phases are one: space group, size, energy and, where both have one, structure."""
    gap = abs(one.energy_difference_ev_per_atom - other.energy_difference_ev_per_atom)
    if not same_name(one, other) or gap > SAME_ENERGY:
        return False
    if one.structure is None or other.structure is None:
        return True
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

    # stol is a share of the cube root of the volume per atom: about the tolerance that named the phases
    matcher = StructureMatcher(ltol=0.03, stol=0.03, angle_tol=2, scale=False)
    return bool(matcher.fit(Structure.from_dict(one.structure), Structure.from_dict(other.structure)))


def distinct_phases(pathways: Iterable[Pathway], initial: Phase) -> list[Phase]:
    """Return the different phases that relaxations ended in, lowest energy first.

    Left out: relaxations that failed or did not converge, repetitions of a phase, and whatever has the initial phase's
    space group and number of atoms (a slightly displaced copy of it is no new phase).
    """
    kept: list[Phase] = []
    ends = (pathway.end for pathway in pathways)
    for phase in sorted(filter(None, ends), key=lambda one: one.energy_difference_ev_per_atom):
        if not same_name(phase, initial) and not any(same_phase(phase, other) for other in kept):
            kept.append(phase)
    return kept


def relax_displaced(
    frames: Sequence[Atoms],
    starts: Sequence[GridMinimum],
    potential: Potential,
    initial: Phase,
    *,
    max_steps: int = MAX_STEPS,
) -> list[Pathway]:
    """Relax cell and atoms of displaced crystals together (at most ``max_steps`` of FIRE) and name what they become.

    Every crystal is reduced to its primitive cell and keeps at least the symmetry it starts with (found within 1e-3 Å,
    finer than the displacements); it may gain more. One that runs away (volume, distances, energy, numbers that are not
    finite) is given up with a note.

    Parameters
    ----------
    frames, starts
        Displaced supercells, and the grid minima they were made for.
    initial
        The crystal whose modes were followed, relaxed with the same potential; energies count from its structure.
    """
    if len(frames) != len(starts):
        raise InputError(f"{len(frames)} displaced crystals and {len(starts)} starts.", "Give one frame per start.")
    if not frames:
        return []
    if initial.structure is None:
        raise InputError("The initial phase has no structure to count energies from.", "Take it from `phase_of`.")
    from pymatgen.core import Structure

    require_elements(potential, frames)
    undisplaced = Structure.from_dict(initial.structure).to_ase_atoms(msonable=False)
    base = potential.evaluate([undisplaced], stress=False)[0].energy / len(undisplaced)
    pathways: list[Pathway] = []
    batches = np.cumsum([len(atoms) for atoms in frames]) * max(max_steps, 1) // _BATCH_STEPS
    for batch in np.unique(batches):
        together = np.flatnonzero(batches == batch).tolist()
        guard = GuardedPotential(potential, [frames[i] for i in together])
        trajectories = relax_batch(guard.frames, cast("Potential", guard), fmax=FMAX, max_steps=max_steps, cell="full")
        for place, i in enumerate(together):
            pathways.append(_pathway(frames[i], starts[i], trajectories[place], base, guard.notes.get(place)))
    return pathways


def _pathway(frame: Atoms, start: GridMinimum, trajectory: Trajectory, base: float, problem: str | None) -> Pathway:
    """Return what became of a displaced crystal; ``base`` is the undisplaced energy, eV/atom."""
    pathway = Pathway(
        start=start,
        displaced=displaced_phase(frame, start),
        converged=trajectory.converged and problem is None,
        n_steps=trajectory.n_steps,
        note=problem or "",
    )
    if problem is not None:
        return pathway
    last = trajectory.frames[-1]
    identity = identify(last)
    notes = [identity.note] if identity.note else []
    if not trajectory.converged:
        notes.append(
            f"not converged: {trajectory.fmax[-1]:.4f} eV/Å left after {trajectory.n_steps} steps ({FMAX:g} asked)"
        )
    pathway.final = identity.phase(trajectory.energies[-1] / len(last) - base)
    pathway.max_force = trajectory.max_forces[-1]
    pathway.note = "; ".join(notes)
    return pathway
