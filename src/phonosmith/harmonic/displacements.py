"""Displacements and forces inside a Phonopy object: read them, fill them from calculations, check that they fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from phonosmith.core.errors import InputError, MismatchError
from phonosmith.reference.importers.archives import is_archive, iter_entries
from phonosmith.reference.importers.frames import frames_of
from phonosmith.reference.vasp.vasprun import parse_vasprun
from phonosmith.structures.labels import labels_of

if TYPE_CHECKING:
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

Array = NDArray[np.float64]


def displacements_and_forces(dataset: Any, count: int) -> tuple[Array, Array | None, Array | None]:
    """Return displacements (n, atoms, 3) in Å, forces in eV/Å and energies in eV of either kind of phonopy dataset."""
    if "first_atoms" in dataset:
        first = dataset["first_atoms"]
        moved = np.zeros((len(first), count, 3))
        for index, item in enumerate(first):
            if not 0 <= item["number"] < count:
                raise MismatchError(
                    f"A displacement moves atom {item['number'] + 1} of {count}.", "The files do not belong together."
                )
            moved[index, item["number"]] = item["displacement"]
        forces = np.array([i["forces"] for i in first]) if all(i.get("forces") is not None for i in first) else None
        complete = all(i.get("supercell_energy") is not None for i in first)
        energies = np.array([i["supercell_energy"] for i in first], dtype=float) if complete else None
        return moved, forces, energies
    moved = np.asarray(dataset["displacements"], dtype=float)
    forces = dataset.get("forces")
    return moved, None if forces is None else np.asarray(forces, dtype=float), dataset.get("supercell_energies")


def has_forces(phonon: Phonopy) -> bool:
    """Tell whether every displacement has its forces."""
    if not phonon.dataset:
        return False
    return displacements_and_forces(phonon.dataset, len(phonon.supercell))[1] is not None


def atoms_of(cell: PhonopyAtoms) -> Atoms:
    """Return phonopy's cell as ASE Atoms in the same order."""
    return Atoms(cell.symbols, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True)


def require_same_cell(ours: Atoms, theirs: Atoms, what: str, tolerance: float = 1e-3) -> None:
    """Raise MismatchError unless two configurations are the same crystal in the same atom order.

    Parameters
    ----------
    ours, theirs
        Configurations.
    what
        Named in the message.
    tolerance
        Largest difference of a cell vector or, up to lattice vectors, an atom's position, Å.
    """
    if len(ours) != len(theirs) or np.any(ours.numbers != theirs.numbers):
        raise MismatchError(
            f"{what}: {theirs.get_chemical_formula()} is not {ours.get_chemical_formula()} in the same atom order.",
            "The files do not belong together.",
        )
    if np.abs(ours.cell.array - theirs.cell.array).max() > tolerance:
        raise MismatchError(
            f"{what}: the cells differ by more than {tolerance} Å.", "The files do not belong together."
        )
    delta = ours.get_scaled_positions(wrap=False) - theirs.get_scaled_positions(wrap=False)
    delta -= np.round(delta)
    if len(ours) and np.abs(delta @ ours.cell.array).max() > tolerance:
        raise MismatchError(f"{what}: atoms sit elsewhere.", "The files do not belong together.")


def attach_forces(phonon: Phonopy, frames: Sequence[Atoms], *, largest: float = 0.5) -> None:
    """Give a Phonopy object the forces of calculated displaced cells, matched by geometry, not by file order.

    Parameters
    ----------
    phonon
        Object with a supercell; its planned displacements, if any, must all be found.
    frames
        Labelled supercells in phonopy's atom order; their displacements are read from their positions.
    largest
        Displacements beyond this are taken for another structure, Å.
    """
    perfect = atoms_of(phonon.supercell)
    moved, forces = [], []
    for index, frame in enumerate(frames):
        found = labels_of(frame).forces
        if found is None:
            raise InputError(f"Frame {index} has no forces.", "Label it first.")
        require_same_cell(perfect, frame, f"frame {index} against phonopy's supercell", tolerance=largest)
        delta = frame.get_scaled_positions(wrap=False) - perfect.get_scaled_positions(wrap=False)
        moved.append((delta - np.round(delta)) @ perfect.cell.array)
        forces.append(found)
    if phonon.dataset:
        _attach_planned(phonon, np.array(moved), np.array(forces))
    else:
        phonon.dataset = {"displacements": np.array(moved), "forces": np.array(forces)}


def _attach_planned(phonon: Phonopy, moved: Array, forces: Array) -> None:
    planned = displacements_and_forces(phonon.dataset, len(phonon.supercell))[0]
    chosen = []
    for index, displacement in enumerate(planned):
        distance = np.abs(moved - displacement).max(axis=(1, 2))
        best = int(np.argmin(distance))
        # positions in VASP's files are rounded to 1e-8 of a cell vector; displacements are 0.01 Å
        if distance[best] > 1e-3:
            raise MismatchError(
                f"Displacement {index + 1} of {len(planned)} was not calculated (nearest cell differs by"
                f" {distance[best]:.3f} Å).",
                "Import every displaced cell.",
            )
        chosen.append(best)
    phonon.forces = forces[chosen]


def calculations_beside(folder: Path) -> list[Atoms]:
    """Return the converged frames of every vasprun.xml in a folder, its subfolders and the archives directly in it."""
    frames: list[Atoms] = []
    archives = sorted(path for path in folder.iterdir() if path.is_file() and is_archive(path))
    for source in (folder, *archives):
        for entry in iter_entries(source, lambda name: name.endswith(".xml") and "vasprun" in name):
            if entry.data is not None:
                frames += frames_of(parse_vasprun(entry.data, entry.name), entry.name, steps="last")[0]
    return frames
