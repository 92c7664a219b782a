"""What a plane-wave DFT calculation costs, from the cell alone: k-points, core-hours, memory.

The scaling model is

    core-hours = prefactor × n_k n_pw n_b (1 + n_b / 1000) / 1e9

with n_k the k-points after time reversal (half a point for Γ alone: its orbitals are real), n_pw = V k_max³ / (6 π²)
plane waves below the cutoff and n_b occupied plus empty bands. The first term stands for the Fourier transforms, the
second for orthogonalisation and subspace rotation, which take over near a thousand bands. The default prefactor was
chosen to give the averages published for the protocol (about 270 core-hours per large training cell and about 400 per
displaced 20-Å cell); until it is calibrated on calculations of one's own machine expect to be off by a factor of three
either way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import InputError

if TYPE_CHECKING:
    from pymatgen.core import Structure

HBAR2_OVER_2M = 3.80998212
"""ħ²/2mₑ in eV Å²."""
GAMMA_COST = 0.5
"""Work of a Γ-only calculation with real orbitals over that of one general k-point."""


@dataclass(frozen=True)
class CostModel:
    """Scaling model of core-hours.

    Attributes
    ----------
    prefactor
        Core-hours per unit of work (see the module's description).
    spread
        Typical factor by which an estimate is off.
    n_calibration
        Finished calculations behind the prefactor; 0 for the default.
    """

    prefactor: float = 180.0
    spread: float = 3.0
    n_calibration: int = 0

    def core_hours(self, work: float) -> float:
        """Return the estimate for a calculation's work."""
        return self.prefactor * work


@dataclass(frozen=True)
class Workload:
    """Size of one self-consistent calculation.

    Attributes
    ----------
    n_kpoints
        Points after time reversal, without other symmetry (rattled cells have none).
    work
        What core-hours are proportional to.
    memory_gb
        Orbitals of all k-points in complex double precision, twice (they are kept with their residuals), GB.
    """

    kpoints: tuple[int, int, int]
    n_kpoints: int
    n_bands: int
    n_plane_waves: int
    work: float
    memory_gb: float


def reciprocal_lengths(lattice: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the lengths of the reciprocal vectors, 2π included, Å⁻¹, of a lattice given as rows in Å."""
    return np.asarray(2 * math.pi * np.linalg.norm(np.linalg.inv(lattice).T, axis=1))


def kpoint_mesh(lattice: NDArray[np.float64], kspacing: float) -> tuple[int, int, int]:
    """Return VASP's mesh for KSPACING (Å⁻¹): max(1, ceil(|b| / kspacing)) with reciprocal vectors b including 2π."""
    if kspacing <= 0:
        raise InputError(f"A k-point spacing of {kspacing} Å⁻¹ is not positive.", "The protocol uses 0.1.")
    # the cell that ran has been printed with finite digits: a ratio within 1e-6 of an integer is that integer
    a, b, c = (max(1, math.ceil(ratio - 1e-6)) for ratio in reciprocal_lengths(lattice) / kspacing)
    return a, b, c


def valence_electrons(symbol: str, potcar: str | None = None) -> int:
    """Return the electrons a PAW data set treats as valence, from element and POTCAR name alone.

    Outer shells of the neutral atom (a filled d shell below p electrons only for ``_d``, ``_sv`` and ``_pv`` add
    semicore shells, ``_2`` and ``_3`` freeze f electrons). Good to an electron or two: it feeds a cost estimate.
    """
    from pymatgen.core import Element

    element = Element(symbol)
    suffix = (potcar or symbol).partition("_")[2]
    if suffix in {"2", "3"}:
        return int(suffix) + 6
    try:
        configuration = element.electronic_structure
    except KeyError as error:
        raise InputError(
            f"The electrons of {symbol} are not known; there is no POTCAR of it either.",
            "Nothing here can calculate a crystal with this element.",
        ) from error
    shells = [(shell, int(n)) for shell, n in re.findall(r"\d([spdf])(\d+)", configuration or "1s1")]
    core = {("f", 14)}
    if suffix != "d" and any(shell == "p" for shell, _ in shells):
        core.add(("d", 10))
    semicore = {"sv": 2 if element.Z <= 4 else 8, "pv": 6}.get(suffix, 0)
    return max(1, semicore + sum(count for shell, count in shells if (shell, count) not in core))


def workload(
    structure: Structure,
    *,
    kspacing: float | None,
    encut: float = 520.0,
    potcars: Mapping[str, str] | None = None,
) -> Workload:
    """Return the size of one self-consistent calculation of a cell.

    Parameters
    ----------
    kspacing
        Å⁻¹; None for Γ alone.
    encut
        Plane-wave cutoff, eV.
    potcars
        POTCAR name by element.
    """
    named = potcars or {}
    electrons = sum(valence_electrons(site.specie.symbol, named.get(site.specie.symbol)) for site in structure)
    mesh = (1, 1, 1) if kspacing is None else kpoint_mesh(np.array(structure.lattice.matrix), kspacing)
    total = math.prod(mesh)
    invariant = 2 ** sum(number % 2 == 0 for number in mesh)
    points = (total + invariant) // 2
    weight = GAMMA_COST if total == 1 else float(points)
    # VASP's default number of bands without spin
    bands = math.ceil(electrons / 2) + max(len(structure) // 2, 3)
    longest = math.sqrt(encut / HBAR2_OVER_2M)
    waves = math.ceil(structure.volume * longest**3 / (6 * math.pi**2))
    work = weight * waves * bands * (1 + bands / 1000) / 1e9
    memory = 2 * weight * waves * bands * 16 / 1e9
    return Workload(mesh, points, bands, waves, work, memory)


def calibrate(works: Sequence[float], core_hours: Sequence[float]) -> CostModel:
    """Fit the prefactor to finished calculations: ``Workload.work`` of each and what each took.

    The prefactor is the geometric mean of the ratios; ``spread`` is one standard deviation of their logarithm as a
    factor (3 for fewer than three calculations).
    """
    if len(works) != len(core_hours) or len(works) == 0:
        raise InputError(
            f"{len(works)} sizes and {len(core_hours)} times cannot calibrate the cost model.", "Give as many of each."
        )
    if np.min(works) <= 0 or np.min(core_hours) <= 0:
        raise InputError("Sizes and times of finished calculations must be positive.", "Leave failed ones out.")
    ratios = np.log(np.asarray(core_hours, dtype=float) / np.asarray(works, dtype=float))
    spread = float(np.exp(np.std(ratios, ddof=1))) if len(ratios) > 2 else 3.0
    return CostModel(float(np.exp(np.mean(ratios))), spread, len(ratios))
