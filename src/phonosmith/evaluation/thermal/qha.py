"""Quasi-harmonic approximation and mode Grüneisen parameters, through phonopy, on equation-of-state volumes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from phonosmith.core.document import Document
from phonosmith.core.errors import InputError
from phonosmith.core.hashing import digest_structure
from phonosmith.core.manifest import Manifest, recorded
from phonosmith.evaluation.mechanics.fastpath import FMAX, MAX_STEPS, scaled_cell
from phonosmith.evaluation.phonons.fastpath import harmonics_from_potential
from phonosmith.evaluation.phonons.mesh import mesh_frequencies
from phonosmith.evaluation.phonons.stability import judge_stability
from phonosmith.evaluation.phonons.thermodynamics import mode_heat_capacity, thermal_properties
from phonosmith.harmonic.nac import charges_of
from phonosmith.sampling.fire import relax_batch

if TYPE_CHECKING:
    from phonopy import Phonopy
    from pymatgen.core import Structure

    from phonosmith.harmonic.model import HarmonicModel
    from phonosmith.potentials.base import Potential
    from phonosmith.structures.magnetic import MagneticOrder

MIN_VOLUMES = 5
FACTORS = (0.96, 0.98, 1.0, 1.02, 1.04, 1.06)
"""Volumes relative to the relaxed one; more of them above, because crystals expand."""
MESH = 16
"""q-points along each axis for free energies."""
ROOM = 300.0
"""K: where tables compare crystals."""
TEMPERATURES = tuple(float(t) for t in range(0, 1020, 20))


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

    def at(self, temperature: float) -> QuasiHarmonicPoint:
        """Return the properties at one temperature (K), by a cubic spline between the temperatures computed."""
        from scipy.interpolate import CubicSpline

        if not self.temperatures[0] <= temperature <= self.temperatures[-1]:
            raise InputError(
                f"{temperature:g} K lies outside {self.temperatures[0]:g} to {self.temperatures[-1]:g} K.",
                "Compute a wider range of temperatures.",
            )
        tables = {
            "volume_angstrom3": self.volumes,
            "thermal_expansion_per_k": self.thermal_expansion,
            "bulk_modulus_gpa": self.bulk_modulus,
            "heat_capacity_p": self.heat_capacity_p,
            "gruneisen": self.gruneisen,
        }
        values = {name: float(CubicSpline(self.temperatures, table)(temperature)) for name, table in tables.items()}
        return QuasiHarmonicPoint(temperature=temperature, **values)


class QuasiHarmonicPoint(Document):
    """Properties of a primitive cell at one temperature and zero pressure."""

    temperature: float = Field(description="K")
    volume_angstrom3: float = Field(description="equilibrium volume, Å³")
    thermal_expansion_per_k: float = Field(description="volumetric thermal expansion coefficient, 1/K")
    bulk_modulus_gpa: float = Field(description="isothermal bulk modulus, GPa")
    heat_capacity_p: float = Field(description="heat capacity at constant pressure, J/(K mol) of primitive cells")
    gruneisen: float = Field(description="thermodynamic Grüneisen parameter, dimensionless")


def temperature_grid(highest: float, step: float = 10.0) -> list[float]:
    """Return temperatures (K) from zero for `quasi_harmonic`, so that derivatives exist up to the highest."""
    return [step * count for count in range(int(np.ceil(highest / step)) + 3)]


def quasi_harmonic(
    volumes: Sequence[float],
    energies: Sequence[float],
    temperatures: Sequence[float],
    free_energies: ArrayLike,
    heat_capacities: ArrayLike,
    entropies: ArrayLike,
) -> QuasiHarmonicResult:
    """Minimise E(V) + F_vib(V, T) at each temperature with Birch-Murnaghan fits.

    Volumes are in Å³ and energies in eV per primitive cell; tables of shape (temperatures, volumes) hold free energies
    in kJ/mol, heat capacities and entropies in J/(K mol) of primitive cells. Temperatures (K) ascend; the last one is
    used up by the temperature derivatives and does not appear in the result.
    """
    from phonopy import PhonopyQHA

    shape = (len(temperatures), len(volumes))
    free, heat, entropy = (np.asarray(table, dtype=float) for table in (free_energies, heat_capacities, entropies))
    shapes = {free.shape, heat.shape, entropy.shape, (len(temperatures), len(energies))}
    if len(volumes) < MIN_VOLUMES or shapes != {shape}:
        raise InputError(
            f"Quasi-harmonic tables must have shape {shape} (temperatures, volumes), at least {MIN_VOLUMES} volumes.",
            "Give one free energy, heat capacity and entropy per temperature and volume.",
        )
    if not np.isfinite([free, heat, entropy]).all():
        raise InputError("A thermal property is not finite.", "Leave out volumes with imaginary modes.")
    kelvin = np.asarray(temperatures, dtype=float)
    static = {"volumes": np.asarray(volumes, dtype=float), "electronic_energies": np.asarray(energies, dtype=float)}
    qha = PhonopyQHA(**static, temperatures=kelvin, free_energy=free, cv=heat, entropy=entropy, eos="birch_murnaghan")
    equilibrium = np.asarray(qha.volume_temperature, dtype=float)
    count = len(equilibrium)
    outside = kelvin[:count][(equilibrium < min(volumes)) | (equilibrium > max(volumes))]
    warning = "above {:g} K the equilibrium volume lies outside the volumes given: extrapolated"

    def listed(values: ArrayLike) -> list[float]:
        return np.asarray(values, dtype=float)[:count].tolist()

    return QuasiHarmonicResult(
        temperatures=listed(kelvin),
        volumes=listed(equilibrium),
        thermal_expansion=listed(qha.thermal_expansion),
        bulk_modulus=listed(qha.bulk_modulus_temperature),
        gibbs_energy=listed(qha.gibbs_temperature),
        heat_capacity_p=listed(qha.heat_capacity_P_polyfit),
        gruneisen=listed(qha.gruneisen_temperature),
        warnings=[warning.format(outside.min())] if len(outside) else [],
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

    ``middle``, ``larger``, ``smaller`` have force constants at V, V(1 + ε), V(1 - ε); the mesh is Γ-centred,
    heat-capacity weights belong to ``temperature`` (K), modes below ``cutoff_thz`` (acoustic near Γ, imaginary) are
    left out.
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
    share = np.asarray(weights, dtype=float)[:, None] * kept
    if not kept.any():
        raise InputError(f"No mode lies above {cutoff_thz} THz.", "The crystal is unstable at this volume.")
    heat = mode_heat_capacity(np.where(kept, frequencies, 1.0), temperature) * share
    return GruneisenResult(
        mean=float((gammas * heat).sum() / heat.sum()),
        root_mean_square=float(np.sqrt((gammas**2 * share).sum() / share.sum())),
        temperature=temperature,
        mesh=mesh,
        n_left_out=int((~kept).sum()),
    )


class QhaDoc(Document):
    """Quasi-harmonic properties of one crystal by one potential, or by the reference."""

    formula: str = Field(description="reduced formula")
    method: str = Field(description="name of the potential or functional")
    volumes: list[float] = Field(description="volumes used, Å³ per primitive cell")
    energies: list[float] = Field(description="static energies there, eV per primitive cell")
    qha: QuasiHarmonicResult = Field(description="properties against temperature")
    room: QuasiHarmonicPoint | None = Field(None, description="properties at 300 K; null where it was not reached")
    gruneisen: GruneisenResult = Field(description="mode Grüneisen parameters about the given volume")
    left_out: list[str] = Field(default_factory=list, description="volumes not used, and why")
    manifest: Manifest = Field(description="provenance")


@dataclass(frozen=True)
class VolumePhonons:
    """What is known at one volume.

    Attributes
    ----------
    factor
        Volume over that of the relaxed cell.
    model
        Phonons of the cell with relaxed atoms; None where there are none.
    energy
        Static energy, eV per cell of the model.
    lost
        Why there are no phonons.
    """

    factor: float
    model: HarmonicModel | None
    energy: float = float("nan")
    lost: str = ""


def ordered_factors(factors: Sequence[float]) -> list[float]:
    """Return volume factors in order; InputError unless 1 has a neighbour on each side."""
    ordered = sorted({float(factor) for factor in factors})
    if 1.0 not in ordered[1:-1]:
        raise InputError("The volume factors need 1 and a neighbour on each side.", "Give e.g. 0.98, 1, 1.02.")
    return ordered


def qha_document(
    formula: str,
    points: Iterable[VolumePhonons],
    manifest: Manifest,
    *,
    method: str = "",
    temperatures: Sequence[float] = TEMPERATURES,
    mesh: int = MESH,
    charges: HarmonicModel | None = None,
) -> QhaDoc:
    """Return the document of what is known at the volumes of a crystal, whoever computed it.

    Volumes without phonons, or with unstable ones, are left out and named. ``points`` ascend in volume; all get the
    Born charges of ``charges``, none where there are no charges. For the rest see `evaluate_qha`.
    """
    factors, models, energies, thermal, left_out = [], [], [], [], []
    asked = []
    for point in points:
        asked.append(point.factor)
        if point.model is None or not judge_stability(point.model).stable_practical:
            left_out.append(f"volume factor {point.factor:g}: {point.lost or 'imaginary modes'}")
            continue
        model = point.model
        model.phonon.nac_params = None if charges is None else charges_of(charges.phonon, model.phonon, charges.source)
        sampled = mesh_frequencies(model, mesh)
        thermal.append(thermal_properties(sampled.frequencies, sampled.weights, temperatures))
        energies.append(point.energy * (len(model.phonon.primitive) / len(model.phonon.unitcell)))
        factors.append(point.factor)
        models.append(model.phonon)
    middle = asked.index(1.0)
    if not set(asked[middle - 1 : middle + 2]) <= set(factors):
        raise InputError(f"The volumes about the given one cannot be used: {'; '.join(left_out)}.", "Relax it first.")
    volumes = [float(phonon.primitive.volume) for phonon in models]
    tables = (
        np.transpose([getattr(one, name) for one in thermal]) for name in ("free_energy", "heat_capacity", "entropy")
    )
    result = quasi_harmonic(volumes, energies, temperatures, *tables)
    place = factors.index(1.0)
    return QhaDoc(
        formula=formula,
        method=method,
        volumes=volumes,
        energies=energies,
        qha=result,
        room=result.at(ROOM) if result.temperatures[-1] >= ROOM else None,
        gruneisen=mean_gruneisen(models[place], models[place + 1], models[place - 1], mesh=(mesh, mesh, mesh)),
        left_out=left_out,
        manifest=manifest,
    )


def evaluate_qha(
    structure: Structure,
    potential: Potential,
    supercell_matrix: Sequence[Sequence[int]],
    *,
    method: str = "",
    factors: Sequence[float] = FACTORS,
    temperatures: Sequence[float] = TEMPERATURES,
    mesh: int = MESH,
    charges: HarmonicModel | None = None,
    order: MagneticOrder | None = None,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> QhaDoc:
    """Return quasi-harmonic properties of a potential.

    The relaxed cell is scaled isotropically to ``factors`` times its volume; 1 and a neighbour on each side serve the
    Grüneisen parameters. Volumes whose atoms do not relax or whose phonons are unstable are left out and named. The
    supercell matrix is phonopy's; temperatures (K) ascend; ``charges``: phonons with the Born charges for all volumes;
    ``order`` keeps the reference's magnetic cell; ``progress`` is told volumes done, their number, words.

    Raises
    ------
    InputError
        When 1 is not among the factors or too few volumes are stable.
    """
    from pymatgen.core import Structure

    ordered = ordered_factors(factors)
    atoms = structure.to_ase_atoms(msonable=False)

    def points() -> Iterator[VolumePhonons]:
        ends = relax_batch([scaled_cell(atoms, one) for one in ordered], potential, fmax=FMAX, max_steps=MAX_STEPS)
        relaxed = [Structure.from_ase_atoms(end.frames[-1]) for end in ends if end.converged]
        if progress is not None:
            progress(0, len(ordered), f"phonons at {len(relaxed)} volumes")
        source = method or "potential"
        harmonics = iter(harmonics_from_potential(relaxed, potential, supercell_matrix, source=source, order=order))
        for count, (factor, end) in enumerate(zip(ordered, ends, strict=True)):
            if progress is not None:
                progress(count, len(ordered), f"free energy at {factor:g} of the volume")
            if end.converged:
                yield VolumePhonons(factor, next(harmonics), end.energies[-1])
            else:
                yield VolumePhonons(factor, None, lost=f"atoms did not relax below {FMAX:g} eV/Å")

    settings = {"factors": ordered, "mesh": mesh, "fmax": FMAX, "supercell": [list(row) for row in supercell_matrix]}
    with recorded({"structure": digest_structure(atoms)}, settings) as manifest:
        return qha_document(
            structure.composition.reduced_formula,
            points(),
            manifest,
            method=method,
            temperatures=temperatures,
            mesh=mesh,
            charges=charges,
        )
