"""The one fit of force constants to forces of displaced cells: every force constant of this package is made here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from phonosmith.core.errors import InputError
from phonosmith.harmonic.displacements import Array, displacements_and_forces, has_forces
from phonosmith.harmonic.model import check_force_constants

if TYPE_CHECKING:
    from phonopy import Phonopy

FcCalculator = Literal["symfc", "traditional"]
DETERMINED = 1e-6
"""Relative difference up to which force constants count as found again: double precision leaves 1e-10, what is not
determined is of order one."""


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


def still_determined(phonon: Phonopy, kept: Sequence[int]) -> bool:
    """Tell whether some of the planned displacements (by number, from 0) determine the force constants as all do.

    It is tried: force constants without meaning that obey every symmetry are made from random forces of all displaced
    cells, and fitted again to the forces they give in the cells that are left. Forces in ``phonon`` play no part.
    """
    moved, _, _ = displacements_and_forces(phonon.dataset, len(phonon.supercell))
    some = list(kept)
    if not some:
        return False
    rng = np.random.default_rng(0)
    invented = _full_fit(phonon, moved, rng.normal(size=moved.shape))
    forces = -np.einsum("iajb,njb->nia", invented.transpose(0, 2, 1, 3), moved[some])
    try:
        again = _full_fit(phonon, moved[some], forces)
    except np.linalg.LinAlgError:
        return False
    return bool(np.abs(again - invented).max() <= DETERMINED * np.abs(invented).max())


def _full_fit(phonon: Phonopy, moved: Array, forces: Array) -> Array:
    """Return force constants (n, n, 3, 3) of a copy of ``phonon`` fitted by symfc to other displacements and forces."""
    copy = phonon.copy()
    copy.dataset = {"displacements": np.array(moved), "forces": np.array(forces)}
    copy.produce_force_constants(calculate_full_force_constants=True, fc_calculator="symfc", show_drift=False)
    return np.asarray(copy.force_constants)
