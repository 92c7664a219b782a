"""How pathways of a potential compare with the reference's: the four scenarios of arXiv:2604.01017, SI 7.6."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import MismatchError
from phonosmith.evaluation.guarded import ask_spglib, cell_of
from phonosmith.evaluation.modes.documents import FollowedMode, Pathway, Phase, TransitionDoc
from phonosmith.evaluation.modes.phases import SYMPREC, same_name
from phonosmith.evaluation.modes.search import same_star

BACK = 1e-5
"""eV/atom. A relaxation that gains less than this ended in the undisplaced crystal: 5 meV/Å leave up to 1e-5 eV/atom
undecided (F²/2k with k about 1 eV/Å²)."""


def classify(reference: TransitionDoc, candidate: TransitionDoc) -> TransitionDoc:
    """Return a copy of the candidate's document with the scenario of every pathway; refuse another crystal's.

    Looked at are the reference's modes (of DFT, or whatever plays it) at a wave vector that symmetry makes equal to
    that of the pathway's mode.

    - ``same``: a pathway of the reference there ends in the same phase.
    - ``artefact``: it relaxes back to the initial crystal, so there was no second minimum.
    - ``displaced``: it ends lower in energy in the initial crystal's space group and number of atoms.
    - ``different``: it ends in a phase to which no pathway of the reference there leads.
    - null: the relaxation failed, or the reference has an imaginary mode there that it did not follow.
    """
    if reference.formula != candidate.formula or not same_name(reference.initial, candidate.initial):
        raise MismatchError(
            f"The modes of {reference.formula} {_name(reference.initial)} and of {candidate.formula} "
            f"{_name(candidate.initial)} do not belong together.",
            "Follow the modes of the same crystal with both.",
        )
    rotations = _rotations(candidate.initial)
    modes = []
    for mode in candidate.modes:
        there = [other for other in reference.modes if _equal_q(mode, other, rotations)]
        pathways = [_judged(pathway, there, reference) for pathway in mode.pathways]
        modes.append(mode.model_copy(update={"pathways": pathways}))
    return candidate.model_copy(update={"modes": modes})


def _name(phase: Phase) -> str:
    return f"({phase.space_group}, {phase.n_atoms_primitive})"


def _judged(pathway: Pathway, there: list[FollowedMode], reference: TransitionDoc) -> Pathway:
    """Return a pathway with its scenario, and a note where the label alone would mislead."""
    scenario, note = None, ""
    if final := pathway.end:
        ends = [one.end for mode in there for one in mode.pathways if one.end]
        if same_name(final, reference.initial):
            scenario = "artefact" if final.energy_difference_ev_per_atom > -BACK else "displaced"
        elif any(same_name(final, end) for end in ends):
            scenario = "same"
        elif there and all(mode.skipped for mode in there):
            note = "the reference did not follow its mode there"
        else:
            scenario = "different"
            if any(same_name(final, phase) for phase in reference.phases):
                note = "the reference reaches this phase along another mode"
            elif not there:
                note = "the reference has no imaginary mode there"
    notes = [part for part in (pathway.note, note) if part]
    return pathway.model_copy(update={"scenario": scenario, "note": "; ".join(dict.fromkeys(notes))})


def _rotations(phase: Phase) -> NDArray[np.int_]:
    """Return the rotations of a crystal in fractions of its primitive cell, the identity where it is not known."""
    import spglib
    from pymatgen.core import Structure

    cell = None if phase.structure is None else cell_of(Structure.from_dict(phase.structure))
    operations = cell and ask_spglib(spglib.get_symmetry, cell, symprec=SYMPREC)
    return np.array(operations["rotations"] if operations else [np.eye(3, dtype=int)])


def _equal_q(one: FollowedMode, other: FollowedMode, rotations: NDArray[np.int_]) -> bool:
    """Return whether two wave vectors are equal by name, or lie in one star.

    Names count because two methods may describe one crystal in differently chosen primitive cells.
    """
    return (bool(one.label) and one.label == other.label) or same_star(np.array(one.q), np.array(other.q), rotations)
