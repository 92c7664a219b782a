"""Standard primitive and conventional cells after spglib."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from phonosmith.core.errors import InputError

if TYPE_CHECKING:
    from pymatgen.core import Structure

SYMPREC = 1e-3
"""Tolerance in Å within which atoms count as symmetry-equivalent."""


def spglib_cell(structure: Structure) -> tuple[Any, Any, Any]:
    """Return lattice, fractional positions and atomic numbers as spglib takes them."""
    return structure.lattice.matrix, structure.frac_coords, np.array([site.specie.Z for site in structure])


def spacegroup_number(structure: Structure, symprec: float = SYMPREC) -> int | None:
    """Return the international number of the space group, or None when spglib finds none."""
    import spglib

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = spglib.get_symmetry_dataset(spglib_cell(structure), symprec=symprec)
    except spglib.SpglibError:
        return None
    return None if dataset is None else int(dataset.number)


def _standardize(structure: Structure, symprec: float, *, to_primitive: bool) -> Structure:
    import spglib
    from pymatgen.core import Element, Structure

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            standard = spglib.standardize_cell(spglib_cell(structure), to_primitive=to_primitive, symprec=symprec)
    except spglib.SpglibError:
        standard = None
    if standard is None:
        raise InputError(
            f"spglib finds no symmetry of {structure.composition.reduced_formula} within {symprec} Å.",
            "Relax the structure, or choose another tolerance.",
        )
    lattice, positions, numbers = standard
    return Structure(lattice, [Element.from_Z(int(number)) for number in numbers], positions, to_unit_cell=True)


def standard_primitive(structure: Structure, symprec: float = SYMPREC) -> Structure:
    """Return the symmetrised standard primitive cell; positions and cell are idealised within ``symprec`` (Å)."""
    return _standardize(structure, symprec, to_primitive=True)


def standard_conventional(structure: Structure, symprec: float = SYMPREC) -> Structure:
    """Return the symmetrised standard conventional cell (``symprec`` in Å)."""
    return _standardize(structure, symprec, to_primitive=False)
