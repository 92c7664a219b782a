"""Quasi-harmonic approximation and mode Grüneisen parameters, through phonopy, on equation-of-state volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from phonosmith.core.document import Document
from phonosmith.core.errors import InputError
from phonosmith.evaluation.phonons.thermodynamics import mode_heat_capacity

if TYPE_CHECKING:
    from phonopy import Phonopy

MIN_VOLUMES = 5


class QuasiHarmonicResult(Document):
    """Temperature-dependent properties at zero pressure, per primitive cell."""

    temperatures: list[float] = Field(description="K")
    volumes: list[float] = Field(description="equilibrium volume at each temperature, Å³")
    thermal_expansion: list[float] = Field(description="volumetric thermal expansion coefficient, 1/K")
    bulk_modulus: list[float] = Field(description="isothermal bulk modulus, GPa")
    gibbs_energy: list[float] = Field(description="Gibbs energy at zero pressure, eV")
    heat_capacity_p: list[float] = Field(description="heat capacity at constant pressure, J/(K mol of primitive cells)")
    gruneisen: list[float] = Field(description="thermodynamic Grüneisen parameter, dimensionless")
    warnings: list[str] = Field(default_factory=list, description="what a reader should know")


def quasi_harmonic(
    volumes: Sequence[float],
    energies: Sequence[float],
    temperatures: Sequence[float],
    free_energies: ArrayLike,
    heat_capacities: ArrayLike,
    entropies: ArrayLike,
) -> QuasiHarmonicResult:
    """Minimise E(V) + F_vib(V, T) at each temperature with Birch-Murnaghan fits.

    Parameters
    ----------
    volumes, energies
        Å³ and eV per primitive cell.
    temperatures
        K, ascending; the last one is used up by the temperature derivatives and does not appear in the result.
    free_energies
        kJ/mol of primitive cells, shape (temperatures, volumes).
    heat_capacities, entropies
        J/(K mol of primitive cells), same shape.
    """
    from phonopy import PhonopyQHA

    shape = (len(temperatures), len(volumes))
    tables = [np.asarray(table, dtype=float) for table in (free_energies, heat_capacities, entropies)]
    if len(volumes) < MIN_VOLUMES or len(energies) != len(volumes) or any(table.shape != shape for table in tables):
        raise InputError(
            f"Quasi-harmonic tables must have shape {shape} (temperatures, volumes), at least {MIN_VOLUMES} volumes.",
            "Give one free energy, heat capacity and entropy per temperature and volume.",
        )
    if not all(np.isfinite(table).all() for table in tables):
        raise InputError("A thermal property is not finite.", "Leave out volumes with imaginary modes.")
    qha = PhonopyQHA(
        volumes=np.asarray(volumes, dtype=float),
        electronic_energies=np.asarray(energies, dtype=float),
        temperatures=np.asarray(temperatures, dtype=float),
        free_energy=tables[0],
        cv=tables[1],
        entropy=tables[2],
        eos="birch_murnaghan",
    )
    count = len(qha.volume_temperature)
    found = np.asarray(qha.volume_temperature, dtype=float)
    outside = (found < min(volumes)) | (found > max(volumes))
    warnings = []
    if outside.any():
        warnings.append(
            f"above {np.asarray(temperatures)[:count][outside].min():g} K the equilibrium volume lies outside the "
            "volumes given: extrapolated"
        )
    return QuasiHarmonicResult(
        temperatures=[float(t) for t in temperatures[:count]],
        volumes=found.tolist(),
        thermal_expansion=np.asarray(qha.thermal_expansion, dtype=float)[:count].tolist(),
        bulk_modulus=np.asarray(qha.bulk_modulus_temperature, dtype=float)[:count].tolist(),
        gibbs_energy=np.asarray(qha.gibbs_temperature, dtype=float)[:count].tolist(),
        heat_capacity_p=np.asarray(qha.heat_capacity_P_polyfit, dtype=float)[:count].tolist(),
        gruneisen=np.asarray(qha.gruneisen_temperature, dtype=float)[:count].tolist(),
        warnings=warnings,
    )


class GruneisenResult(Document):
    """Mode Grüneisen parameters on a mesh."""

    mean: float = Field(description="average weighted by the mode heat capacity, dimensionless")
    root_mean_square: float = Field(description="root mean square over modes, dimensionless")
    temperature: float = Field(description="temperature of the heat-capacity weights, K")
    mesh: tuple[int, int, int] = Field(description="q-point mesh")
    n_left_out: int = Field(description="modes below the cutoff frequency, left out of the averages")


def mean_gruneisen(
    middle: Phonopy,
    larger: Phonopy,
    smaller: Phonopy,
    mesh: tuple[int, int, int] = (16, 16, 16),
    temperature: float = 300.0,
    cutoff_thz: float = 0.1,
) -> GruneisenResult:
    """Return averages of the mode Grüneisen parameters -dlnω/dlnV of three volumes of one crystal.

    Parameters
    ----------
    middle, larger, smaller
        Phonopy objects with force constants at V, V(1 + ε), V(1 - ε).
    mesh
        Γ-centred q-point mesh.
    temperature
        Of the heat-capacity weights, K.
    cutoff_thz
        Modes below it (acoustic near Γ, imaginary) are left out, THz.
    """
    from phonopy import PhonopyGruneisen

    sizes = [float(phonon.primitive.volume) for phonon in (smaller, middle, larger)]
    if not sizes[0] < sizes[1] < sizes[2]:
        raise InputError(
            f"Grüneisen parameters need volumes in order, got {sizes[0]:.3f} < {sizes[1]:.3f} < {sizes[2]:.3f} Å³.",
            "Pass the phonons of the middle, larger and smaller volume.",
        )
    calculation = PhonopyGruneisen(middle, larger, smaller)
    calculation.set_mesh(list(mesh), is_gamma_center=True)
    _, weights, frequencies, _, gammas = calculation.get_mesh()
    kept = frequencies > cutoff_thz
    share = np.repeat(np.asarray(weights, dtype=float)[:, None], frequencies.shape[1], axis=1) * kept
    if share.sum() == 0:
        raise InputError(f"No mode lies above {cutoff_thz} THz.", "The crystal is unstable at this volume.")
    heat = mode_heat_capacity(np.where(kept, frequencies, 1.0), temperature) * share
    return GruneisenResult(
        mean=float((gammas * heat).sum() / heat.sum()),
        root_mean_square=float(np.sqrt((gammas**2 * share).sum() / share.sum())),
        temperature=temperature,
        mesh=mesh,
        n_left_out=int((~kept).sum()),
    )
