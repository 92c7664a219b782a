"""Fields that atomate2's documents have, so that queries, plots and parsers made for those work on ours.

Names, units and meaning are atomate2's. What is large in them goes to the job store's ``data`` store, as there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

from pydantic import BeforeValidator, Field

from phonosmith.core.document import Document

if TYPE_CHECKING:
    from pymatgen.core import Structure

P = ParamSpec("P")
R = TypeVar("R")

DATA_STORE = "data"
_TOLERANCES = ((0.1, 5.0), (1e-3, 1.0))
"""Of emmet's symmetry data, Å and degrees; the second where the first finds no group."""

PymatgenDict = Annotated[
    dict[str, Any], BeforeValidator(lambda value: value.as_dict() if hasattr(value, "as_dict") else value)
]
"""An object of pymatgen as a dictionary; also taken from the object that a job store makes of that dictionary."""


class CrystalFields(Document):
    """What emmet's ``StructureMetadata`` says of the cell a document is about (its volume is a field of each kind)."""

    nsites: int | None = Field(None, description="atoms in the cell")
    elements: list[str] | None = Field(None, description="symbols, alphabetical")
    nelements: int | None = Field(None, description="number of elements")
    composition: dict[str, float] | None = Field(None, description="atoms of each element in the cell")
    composition_reduced: dict[str, float] | None = Field(None, description="atoms of each element in a formula unit")
    formula_pretty: str | None = Field(None, description="reduced formula")
    formula_anonymous: str | None = Field(None, description="formula with letters in place of elements")
    chemsys: str | None = Field(None, description="symbols joined by dashes, alphabetical")
    density: float | None = Field(None, description="g/cm³")
    density_atomic: float | None = Field(None, description="Å³ per atom")
    symmetry: dict[str, Any] | None = Field(None, description="space group found with a tolerance of 0.1 Å")


def crystal_fields(structure: Structure) -> dict[str, Any]:
    """Return the `CrystalFields` of a cell: emmet has them too, but takes longer to import than phonons to compute."""
    composition = structure.composition.remove_charges()
    elements = sorted(element.symbol for element in composition.elements)
    return {
        "nsites": len(structure),
        "elements": elements,
        "nelements": len(elements),
        "composition": composition.as_dict(),
        "composition_reduced": composition.reduced_composition.as_dict(),
        "formula_pretty": composition.reduced_formula,
        "formula_anonymous": composition.anonymized_formula,
        "chemsys": "-".join(elements),
        "density": float(structure.density),
        "density_atomic": float(structure.volume) / len(structure),
        "symmetry": _symmetry(structure),
    }


def _symmetry(structure: Structure) -> dict[str, Any] | None:
    import spglib
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

    for distance, angle in _TOLERANCES:
        with suppress(SymmetryUndeterminedError):
            group = SpacegroupAnalyzer(structure, symprec=distance, angle_tolerance=angle)
            return {
                "crystal_system": group.get_crystal_system().title(),
                "symbol": group.get_space_group_symbol(),
                "hall": group.get_hall(),
                "number": group.get_space_group_number(),
                "point_group": group.get_point_group_symbol(),
                "symprec": distance,
                "angle_tolerance": angle,
                "version": spglib.__version__,
            }
    return None


def large_parts_apart(*names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a job's function leave parts of its output, by field, to the ``data`` store.

    It is decided where the job runs and not when it is made (as ``@job(data=...)`` does): what a job does is the same
    wherever its results lie, and a store without that part keeps documents whole. Put it around `reused`.
    """

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            from jobflow import CURRENT_JOB

            job, store = CURRENT_JOB.job, CURRENT_JOB.store
            # a store that is not exposed is one that atomate2's jobs before have put their forces into
            if job is not None and (store is None or DATA_STORE in store.additional_stores):
                job._kwargs[DATA_STORE] = list(names)  # noqa: SLF001  # what the decorator's argument becomes
            return function(*args, **kwargs)

        return run

    return wrap
