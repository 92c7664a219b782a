"""The record of a finished VASP calculation: what vasprun.xml, OUTCAR and TaskDoc tell, in one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.units import EV_PER_A3_PER_VASP_KBAR
from phonosmith.reference.documents import Correction
from phonosmith.reference.vasp.settings import VaspSettings
from phonosmith.structures.labels import voigt_stress

Array = NDArray[np.float64]


@dataclass
class IonicStep:
    """One ionic step.

    Attributes
    ----------
    cell, positions : Å and fractional
    forces : eV/Å
    stress : 3x3, kbar in VASP's sign
    energy, energy_sigma0 : free energy and its extrapolation to zero smearing, eV
    scf : free energy after each electronic step, eV
    """

    cell: Array | None = None
    positions: Array | None = None
    forces: Array | None = None
    stress: Array | None = None
    energy: float | None = None
    energy_sigma0: float | None = None
    scf: list[float] = field(default_factory=list)


@dataclass
class VaspRun:
    """One finished calculation.

    Attributes
    ----------
    settings : what VASP says it used
    incar : tags that were given, as VASP repeats them
    damage : why the output is not whole, or None
    corrections : what custodian did
    """

    settings: VaspSettings
    symbols: list[str]
    steps: list[IonicStep]
    incar: Mapping[str, Any]
    damage: str | None = None
    corrections: Sequence[Correction] = ()


def voigt_from_kbar(stress: Any) -> Array | None:
    """Turn a 3x3 stress in kbar with VASP's sign into Voigt order, eV/Å³, ASE's sign; other shapes stay as they are."""
    if stress is None:
        return None
    matrix = np.asarray(stress, dtype=float)
    return voigt_stress(matrix * EV_PER_A3_PER_VASP_KBAR) if matrix.shape == (3, 3) else matrix


def regular_mesh(style: str, divisions: Sequence[int], shift: Sequence[float]) -> tuple[tuple[int, int, int], bool]:
    """Return the divisions of a regular k-mesh and whether it misses Γ (shifted, or Monkhorst-Pack with even ones)."""
    first, second, third = map(int, divisions)
    even = first * second * third % 2 == 0
    return (first, second, third), bool(np.any(shift)) or (style.lower().startswith("m") and even)
