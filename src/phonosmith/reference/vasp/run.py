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
from phonosmith.structures.labels import Moments, voigt_stress

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
    entropy : the energy without the entropy term minus the free energy (TS), eV
    scf : free energy after each electronic step, eV
    """

    cell: Array | None = None
    positions: Array | None = None
    forces: Array | None = None
    stress: Array | None = None
    energy: float | None = None
    energy_sigma0: float | None = None
    entropy: float | None = None
    scf: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Witness:
    """What one file of a calculation says about its end, to be compared with what the others say.

    Attributes
    ----------
    name : of the file
    energy : free energy of the last ionic step, eV
    forces, stress : of the last ionic step, eV/Å and 3x3 in kbar
    last_change : energy change of the last electronic step, eV
    unconverged : VASP says that EDIFF was not reached in the last ionic step
    drift : sum of all forces before VASP removed it, eV/Å
    density_residual : last rms(c), the change of the charge density
    fermi : eV
    moment : total magnetic moment, μB
    site_moments : moment of each atom in its sphere, μB
    exchange : LEXCH of the POTCARs
    complaints : messages after which VASP goes on although its numbers mean nothing
    """

    name: str
    energy: float | None = None
    forces: Array | None = None
    stress: Array | None = None
    last_change: float | None = None
    unconverged: bool = False
    drift: Array | None = None
    density_residual: float | None = None
    fermi: float | None = None
    moment: float | None = None
    site_moments: Array | None = None
    exchange: Sequence[str] = ()
    complaints: Sequence[str] = ()


@dataclass
class VaspRun:
    """One finished calculation.

    Attributes
    ----------
    settings : what VASP says it used
    incar : tags that were given, as VASP repeats them
    damage : why the output is not whole, or None
    corrections : what custodian did
    used : tags as VASP lists them after reading its input
    kpoints, weights : the points that ran, fractional, and their weights
    witnesses : what the files say about the end of the run
    """

    settings: VaspSettings
    symbols: list[str]
    steps: list[IonicStep]
    incar: Mapping[str, Any]
    damage: str | None = None
    corrections: Sequence[Correction] = ()
    used: Mapping[str, Any] = field(default_factory=dict)
    kpoints: Array | None = None
    weights: Array | None = None
    witnesses: Sequence[Witness] = ()

    @property
    def moments(self) -> Moments:
        """Magnetic moments at the end of the run, as the first file tells that knows them."""
        total = next((end.moment for end in self.witnesses if end.moment is not None), None)
        sites = next((end.site_moments for end in self.witnesses if end.site_moments is not None), None)
        return Moments(total, sites)


def voigt_from_kbar(stress: Any) -> Array | None:
    """Turn a 3x3 stress in kbar with VASP's sign into Voigt order, eV/Å³, ASE's sign; other shapes stay as they are."""
    if stress is None:
        return None
    matrix = np.asarray(stress, dtype=float)
    return voigt_stress(matrix * EV_PER_A3_PER_VASP_KBAR) if matrix.shape == (3, 3) else matrix


def regular_mesh(
    style: str, divisions: Sequence[int], shift: Sequence[float], points: Array | None = None
) -> tuple[tuple[int, int, int], bool]:
    """Return the divisions of a regular k-mesh and whether it misses Γ.

    Where the points are known they tell; else a shift does, or a Monkhorst-Pack mesh with even divisions.
    """
    first, second, third = map(int, divisions)
    if points is not None and points.ndim == 2 and points.shape[1] == 3:
        return (first, second, third), not bool(np.any(np.all(np.abs(points - np.round(points)) < 1e-6, axis=1)))
    even = first * second * third % 2 == 0
    return (first, second, third), bool(np.any(shift)) or (style.lower().startswith("m") and even)
