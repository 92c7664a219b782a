"""The one fit of force constants to forces of displaced cells: every force constant of this package is made here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from phonosmith.core.errors import InputError
from phonosmith.harmonic.displacements import has_forces
from phonosmith.harmonic.model import check_force_constants

if TYPE_CHECKING:
    from phonopy import Phonopy

FcCalculator = Literal["symfc", "traditional"]


def make_force_constants(
    phonon: Phonopy, calculator: FcCalculator = "symfc", where: str = "the displaced cells"
) -> str:
    """Fit compact force constants to the forces of ``phonon`` in place and return the calculator really used.

    ``symfc`` is the least-squares solution among force constants that obey crystal symmetry, index symmetry and the
    acoustic sum rule. ``traditional`` is phonopy's direct solution without any symmetrisation afterwards, as published
    figures were made; it needs one displaced atom per cell, otherwise symfc is used.
    """
    if not has_forces(phonon, where):
        raise InputError(f"{where} has displacements without forces.", "Put FORCE_SETS beside it or run the cells.")
    used = calculator if "first_atoms" in phonon.dataset else "symfc"
    phonon.produce_force_constants(calculate_full_force_constants=False, fc_calculator=used, show_drift=False)
    check_force_constants(phonon.force_constants, phonon, where)
    return used
