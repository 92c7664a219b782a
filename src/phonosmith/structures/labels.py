"""Labels on a configuration: where they sit on an ASE Atoms object and what makes them usable.

Labels live in a ``SinglePointCalculator`` under ASE's names, the only place from which ASE, mace and Equitrain all
read them back. ``energy`` is the force-consistent free energy; the value extrapolated to zero smearing is kept beside
it in ``atoms.info["energy_sigma0"]``. Magnetic moments are no labels, no potential learns them; they lie beside the
labels as ASE's ``magmom`` and ``magmoms``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from phonosmith.core.errors import InputError

Array = NDArray[np.float64]

FUNCTIONAL = "functional"
"""``atoms.info`` key of the functional, e.g. PBE."""
SETTINGS = "settings"
"""``atoms.info`` key of the settings digest."""
SOURCE = "source"
"""``atoms.info`` key naming where a frame came from."""
DERIVED = "labels"
"""``atoms.info`` key: what labels were made from that nobody calculated; it begins with `HARMONIC`."""
HARMONIC = "harmonic, "
"""Of labels made of force constants, before their source."""
SIGMA0 = "energy_sigma0"
"""``atoms.info`` key of the energy extrapolated to zero smearing, eV."""
SPIN = "spin"
"""``atoms.info`` key: whether a calculation was spin-polarised."""

WEIGHT_KEYS = ("config_type", "config_weight", "config_energy_weight", "config_forces_weight", "config_stress_weight")
"""``atoms.info`` keys that mace reads as weights of a configuration."""
IDENTITY_KEYS = (*WEIGHT_KEYS, "head", FUNCTIONAL, SETTINGS)
"""``atoms.info`` keys that change what a frame teaches."""


@dataclass(frozen=True)
class Labels:
    """What a reference calculation said about one configuration; None where it said nothing.

    Attributes
    ----------
    energy
        Force-consistent free energy, eV.
    forces
        eV/Å, shape (n_atoms, 3).
    stress
        Voigt xx yy zz yz xz xy, eV/Å³, ASE sign.
    """

    energy: float | None
    forces: Array | None
    stress: Array | None


def voigt_stress(stress: Any) -> Array:
    """Return a stress in Voigt order xx yy zz yz xz xy from 6 or 3x3 numbers, same units."""
    values = np.asarray(stress, dtype=float)
    if values.size == 9:
        full = values.reshape(3, 3)
        return ((full + full.T) / 2)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    if values.size == 6:
        return values.reshape(6).copy()
    raise ValueError(f"a stress has 6 or 9 numbers, not {values.size}")


def label_frame(
    atoms: Atoms,
    *,
    energy: float | None,
    forces: Any | None,
    stress: Any | None = None,
    moments: Moments | None = None,
    **info: Any,
) -> Atoms:
    """Return a copy of a configuration that carries labels and nothing else a calculator may have left.

    Constraints are dropped because ASE would report constrained forces as zero.

    Parameters
    ----------
    energy
        Force-consistent free energy, eV.
    forces
        eV/Å.
    stress
        6 or 3x3 numbers, eV/Å³, ASE sign.
    moments
        Of the magnetic state the labels belong to.
    **info
        Provenance and weights for ``atoms.info``; None values are left out.
    """
    frame = atoms.copy()
    frame.set_constraint()
    frame.info.update({key: value for key, value in info.items() if value is not None})
    results: dict[str, Any] = {}
    if energy is not None:
        results["energy"] = float(energy)
    if forces is not None:
        results["forces"] = np.array(forces, dtype=float)
    if stress is not None:
        results["stress"] = voigt_stress(stress)
    if moments is not None and moments.total is not None:
        results["magmom"] = moments.total
    if moments is not None and moments.sites is not None:
        results["magmoms"] = moments.sites
    if results:
        frame.calc = SinglePointCalculator(frame, **results)
    return frame


def labels_of(atoms: Atoms) -> Labels:
    """Return the labels a frame carries; never computes anything."""
    results = getattr(atoms.calc, "results", {})
    energy = results.get("energy", results.get("free_energy"))
    forces, stress = results.get("forces"), results.get("stress")
    return Labels(
        None if energy is None else float(energy),
        None if forces is None else np.asarray(forces, dtype=float),
        None if stress is None else voigt_stress(stress),
    )


class Moments(NamedTuple):
    """Magnetic moments of a configuration in μB, of the cell and of each atom (in its sphere); None where unknown."""

    total: float | None = None
    sites: Array | None = None

    @property
    def known(self) -> bool:
        """Whether anything is known."""
        return self.total is not None or self.sites is not None


def moments_of(atoms: Atoms) -> Moments:
    """Return the magnetic moments a frame carries, collinear ones; never computes anything."""
    results = getattr(atoms.calc, "results", {})
    said = (results.get(name) for name in ("magmom", "magmoms"))
    total, sites = (None if value is None else np.asarray(value, dtype=float) for value in said)
    return Moments(
        float(total) if total is not None and total.ndim == 0 and np.isfinite(total) else None,
        sites if sites is not None and sites.shape == (len(atoms),) and np.all(np.isfinite(sites)) else None,
    )


class Defect(NamedTuple):
    """One thing that makes labels or a configuration unusable: a short code and a sentence that names the field."""

    code: str
    message: str


def label_defects(labels: Labels, n_atoms: int, require: Sequence[str] = ()) -> list[Defect]:
    """Return what is wrong with the numbers of a label: missing though required, of wrong shape, not finite."""
    defects = [Defect(f"{name}_missing", f"{name} is missing") for name in require if getattr(labels, name) is None]
    if labels.energy is not None and not np.isfinite(labels.energy):
        defects.append(Defect("energy_not_finite", f"energy is {labels.energy}"))
    if labels.forces is not None:
        if labels.forces.shape != (n_atoms, 3):
            defects.append(Defect("forces_shape", f"forces have shape {labels.forces.shape}, not ({n_atoms}, 3)"))
        elif len(bad := np.flatnonzero(~np.all(np.isfinite(labels.forces), axis=1))):
            message = f"forces of atom {bad[0]} are not finite ({len(bad)} atoms in all)"
            defects.append(Defect("forces_not_finite", message))
    if labels.stress is not None:
        if labels.stress.shape != (6,):
            defects.append(Defect("stress_shape", f"stress has shape {labels.stress.shape}, not (6,)"))
        elif not np.all(np.isfinite(labels.stress)):
            defects.append(Defect("stress_not_finite", "stress is not finite"))
    return defects


def problems(atoms: Atoms, require: Sequence[str] = ()) -> list[str]:
    """Return what is wrong with a frame's labels, each naming its field; empty when they are usable."""
    return [it.message for it in label_defects(labels_of(atoms), len(atoms), require) + geometry_defects(atoms)]


def geometry_defects(atoms: Atoms) -> list[Defect]:
    """Return what makes a configuration itself unusable: no atoms, bad numbers, flat cell, unknown element."""
    if len(atoms) == 0:
        return [Defect("structure_missing", "the frame has no atoms")]
    defects = []
    if not np.all(np.isfinite(atoms.positions)):
        defects.append(Defect("structure_not_finite", "positions are not finite"))
    if not np.all(np.isfinite(atoms.cell.array)):
        defects.append(Defect("structure_not_finite", "the cell (Lattice) is not finite"))
    elif np.any(atoms.pbc) and atoms.cell.rank < int(np.sum(atoms.pbc)):
        defects.append(Defect("volume", "it is periodic along a direction without a cell vector"))
    if np.any(atoms.numbers <= 0):
        number = int(np.flatnonzero(atoms.numbers <= 0)[0])
        defects.append(Defect("species", f"atom {number} has no chemical element"))
    return defects


def check_frames(frames: Sequence[Atoms], where: str, require: Sequence[str] = ()) -> None:
    """Raise InputError for the first frame of a file or source whose labels cannot be used."""
    for index, atoms in enumerate(frames):
        if wrong := problems(atoms, require):
            raise InputError(
                f"{where}: frame {index} ({atoms.get_chemical_formula()}): {'; '.join(wrong)}.",
                "Label that frame again or leave it out; frames are counted from 0.",
            )


def _floats(values: Any) -> Array:
    return np.array(values, dtype=float)


def adopt_aliases(atoms: Atoms) -> None:
    """Move labels written under other programs' names (REF_energy, ...) to ASE's, in place; refuse contradictions."""
    results = dict(getattr(atoms.calc, "results", {}))
    before = len(results)
    # a virial is minus volume times stress in every program that writes one into extended XYZ
    for name, holder, convert, aliases in (
        ("energy", atoms.info, float, ("REF_energy", "dft_energy", "DFT_energy")),
        ("stress", atoms.info, voigt_stress, ("REF_stress", "dft_stress", "DFT_stress")),
        ("forces", atoms.arrays, _floats, ("REF_forces", "dft_forces", "DFT_forces", "force")),
        (
            "stress",
            atoms.info if atoms.cell.rank == 3 else {},
            lambda virial: -voigt_stress(virial) / atoms.get_volume(),
            ("REF_virials", "REF_virial", "dft_virial", "virials", "virial"),
        ),
    ):
        for alias in (item for item in aliases if item in holder):
            value = convert(holder.pop(alias))
            if name in results and not np.allclose(results[name], value, rtol=1e-9, atol=1e-10, equal_nan=True):
                raise InputError(
                    f"the frame holds two different labels '{name}' and '{alias}'.",
                    "Remove the one that is not the reference.",
                )
            results.setdefault(name, value)
    if len(results) > before:
        atoms.calc = SinglePointCalculator(atoms, **results)
