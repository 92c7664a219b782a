"""Crystals of many kinds that need no database: materials for documents that were never calculated."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pymatgen.core import Structure

_PROTOTYPES: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "rutile": ("P4_2/mnm", 136, ("TiO2", "SnO2", "GeO2", "PbO2")),
    "tellurobismuthite": ("R-3m", 166, ("Bi2Te3", "Sb2Te3", "Bi2Se3")),
    "herzenbergite": ("Pnma", 62, ("SnSe", "GeSe", "SnS", "GeS")),
    "baddeleyite": ("P2_1/c", 14, ("ZrO2", "HfO2")),
    "wurtzite": ("P6_3mc", 186, ("AlN", "GaN", "BeO", "ZnO")),
    "diamond": ("Fd-3m", 227, ("C", "Si", "Ge")),
    "perovskite": ("Pm-3m", 221, ("SrTiO3", "BaTiO3", "KMgF3")),
    "zincblende": (
        "F-43m",
        216,
        ("GaAs", "GaSb", "InP", "InAs", "InSb", "AlAs", "AlSb", "ZnS", "ZnTe", "CdTe", "CuBr", "HgTe"),
    ),
    "rocksalt": (
        "Fm-3m",
        225,
        ("SnTe", "GeTe", "CaS", "MgO", "CaO", "SrO", "LiF", "LiCl", "NaF", "NaCl", "NaBr", "KF", "KCl", "KBr", "RbI"),
    ),
    "caesium chloride": ("Pm-3m", 221, ("CsCl", "CsBr", "CsI", "TlCl")),
    "fluorite": ("Fm-3m", 225, ("CaF2", "SrF2", "BaF2", "Li2O", "Na2S", "Mg2Si")),
}  # fmt: skip
_FACE_CENTRED = {
    "diamond": (5.4, (0.0, 0.25)),
    "zincblende": (5.9, (0.0, 0.25)),
    "rocksalt": (5.7, (0.0, 0.5)),
    "fluorite": (5.6, (0.0, 0.25, 0.75)),
}
"""Lattice constant (Å) and places of the atoms along the space diagonal."""


@dataclass(frozen=True)
class SyntheticMaterial:
    """A crystal with its symmetry.

    Attributes
    ----------
    name
        Unique name.
    formula
        Reduced formula.
    prototype
        Structure type.
    space_group, number
        International symbol and number.
    """

    name: str
    formula: str
    prototype: str
    space_group: str
    number: int

    def structure(self) -> Structure:
        """Return the crystal (lattice constants of the right size, not relaxed)."""
        return _build(self.prototype, self.formula)


def synthetic_materials(count: int) -> list[SyntheticMaterial]:
    """Return that many materials with different names; crystal systems alternate, formulas repeat beyond 60."""
    columns = [
        [(kind, symbol, number, formula) for formula in formulas]
        for kind, (symbol, number, formulas) in _PROTOTYPES.items()
    ]
    depth = max(len(column) for column in columns)
    found = [column[row] for row in range(depth) for column in columns if row < len(column)]
    materials = []
    for index in range(count):
        kind, symbol, number, formula = found[index % len(found)]
        turn = index // len(found)
        materials.append(SyntheticMaterial(f"{formula}-{turn}" if turn else formula, formula, kind, symbol, number))
    return materials


@cache
def _build(kind: str, formula: str) -> Structure:
    from pymatgen.core import Composition, Lattice, Structure

    amounts = Composition(formula).get_el_amt_dict()
    elements = list(amounts)
    first, last = elements[0], elements[-1]

    def built(group: str, lattice: Lattice, species: list[str], sites: list[list[float]]) -> Structure:
        return Structure.from_spacegroup(group, lattice, species, sites).get_primitive_structure()

    if kind in _FACE_CENTRED:
        edge, places = _FACE_CENTRED[kind]
        if kind == "fluorite" and amounts[first] == 2:
            first, last = last, first
        lattice = Lattice(edge / 2 * (np.ones((3, 3)) - np.eye(3)))
        return Structure(lattice, [first, *[last] * (len(places) - 1)], [[place] * 3 for place in places])
    if kind == "caesium chloride":
        return built("Pm-3m", Lattice.cubic(4.1), [first, last], [[0, 0, 0], [0.5, 0.5, 0.5]])
    if kind == "wurtzite":
        sites = [[1 / 3, 2 / 3, 0.0], [1 / 3, 2 / 3, 0.378]]
        return built("P6_3mc", Lattice.hexagonal(3.2, 5.2), [first, last], sites)
    if kind == "rutile":
        sites = [[0, 0, 0], [0.305, 0.305, 0]]
        return built("P4_2/mnm", Lattice.tetragonal(4.6, 3.0), [first, last], sites)
    if kind == "perovskite":
        sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
        return built("Pm-3m", Lattice.cubic(3.95), elements, sites)
    if kind == "tellurobismuthite":
        sites = [[0, 0, 0.4], [0, 0, 0], [0, 0, 0.212]]
        return built("R-3m", Lattice.hexagonal(4.38, 30.5), [first, last, last], sites)
    if kind == "herzenbergite":
        sites = [[0.118, 0.25, 0.103], [0.855, 0.25, 0.48]]
        return built("Pnma", Lattice.orthorhombic(11.5, 4.2, 4.4), [first, last], sites)
    sites = [[0.275, 0.04, 0.208], [0.07, 0.33, 0.345], [0.45, 0.757, 0.479]]
    return built("P2_1/c", Lattice.monoclinic(5.15, 5.2, 5.32, 99.2), [first, last, last], sites)
