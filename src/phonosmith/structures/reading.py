"""Read crystal structures; refuse what cannot be calculated, note what looks wrong."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phonosmith.core.errors import InputError
from phonosmith.structures.standard import SYMPREC, spacegroup_number, standard_conventional, standard_primitive

if TYPE_CHECKING:
    from pymatgen.core import Structure

OVERLAP_FRACTION = 0.5
"""Two atoms nearer than this fraction of the sum of their covalent radii overlap: no calculation can be meant."""
SHORT_FRACTION = 0.75
"""Two atoms nearer than this fraction of the sum of their covalent radii are worth a warning."""
VACUUM_GAP = 6.0
"""Empty layer in Å from which a cell counts as a slab, chain or molecule in vacuum; van der Waals gaps stay below 4."""
LOOSE_SYMPREC = 0.05
"""Looser tolerance in Å: more symmetry found with it means a distorted, unrelaxed or coarsely rounded structure."""


def read_structure(path: str | Path) -> Structure:
    """Read an ordered crystal from any file pymatgen (or, failing that, ASE) reads.

    Oxidation states and site properties are dropped: no stage of this package uses them. Warnings of the reader are
    kept in ``structure.properties["read_warnings"]``.

    Raises
    ------
    InputError
        Naming the file when it is missing, unreadable, without atoms, disordered, overlapping, of unknown elements or
        not a crystal.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file} is not a file.", "Give the path of a CIF, POSCAR or other structure file.")
    if file.stat().st_size == 0:
        raise InputError(f"{file} is empty.", "Export the structure again.")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        structure = _parse(file)
    notes = {str(item.message).strip().splitlines()[0] for item in caught if issubclass(item.category, UserWarning)}
    return clean_structure(structure, str(file), sorted(notes))


def _parse(file: Path) -> Any:
    """Let pymatgen read the file, then ASE; report pymatgen's reason when neither can."""
    from pymatgen.core import Structure
    from pymatgen.io.vasp import Poscar

    if file.suffix.lower() in {".xyz", ".extxyz", ".traj"}:
        return _parse_ase(file, "")
    try:
        return Structure.from_file(file)
    except Exception as error:  # noqa: BLE001 - every parser of pymatgen raises its own kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "cif" in file.name.lower():
        raise InputError(
            f"{file} holds no crystal structure that can be read: {reason}.",
            "Check that the CIF has a cell, symmetry operations and atom sites with real element symbols.",
        )
    with contextlib.suppress(Exception):
        return Poscar.from_file(file, check_for_potcar=False).structure
    return _parse_ase(file, reason)


def _parse_ase(file: Path, reason: str) -> Any:
    from ase.io import read
    from pymatgen.io.ase import AseAtomsAdaptor

    try:
        atoms: Any = read(file)
        atoms.calc = None
    except Exception as error:
        raise InputError(
            f"{file} holds no crystal structure that can be read: {reason or error}.",
            "Give a CIF, a POSCAR with element names, or another format that pymatgen or ASE reads.",
        ) from error
    if not np.all(atoms.pbc):
        raise InputError(f"{file} is not periodic in three dimensions.", "Give a crystal with a cell.")
    return AseAtomsAdaptor.get_structure(atoms)


def clean_structure(structure: Any, name: str = "The structure", notes: Sequence[str] = ()) -> Structure:
    """Return an ordered copy that holds elements, positions and cell alone; refuse what is not a crystal."""
    from pymatgen.core import DummySpecies, Element, Species, Structure

    if not isinstance(structure, Structure):
        raise InputError(
            f"{name} is a {type(structure).__name__}, not a periodic structure.", "Give a crystal with a cell."
        )
    if len(structure) == 0:
        raise InputError(f"{name} holds no atoms.", "Export the structure again.")
    if not structure.is_ordered:
        mixed = [site for site in structure if not site.is_ordered]
        shown = [f"{site.species_string} at {np.round(site.frac_coords, 4).tolist()}" for site in mixed]
        raise InputError(
            f"{name} has partially occupied or mixed sites: {'; '.join(shown[:3])}{' …' if len(shown) > 3 else ''}.",
            "Choose one ordered approximant (pymatgen's OrderDisorderedStructureTransformation makes them).",
        )
    for specie in structure.species:
        if isinstance(specie, DummySpecies) or not isinstance(specie, Element | Species):
            raise InputError(f"{name} holds {specie}, which is not a chemical element.", "Name every site's element.")
    if structure.volume < 1e-3 or not np.all(np.isfinite(structure.lattice.matrix)):
        raise InputError(f"{name} has a cell without volume.", "Check its lattice vectors.")
    elements = [Element.from_Z(specie.Z) for specie in structure.species]
    clean = Structure(structure.lattice, elements, structure.frac_coords, to_unit_cell=True)
    if notes:
        clean.properties["read_warnings"] = list(notes)
    closest = closest_pair(clean)
    if closest is not None and closest[2] < OVERLAP_FRACTION:
        pair, distance, _ = closest
        raise InputError(
            f"{name} has overlapping atoms: {pair} are {distance:.2f} Å apart.",
            "Remove the duplicate site or correct the cell lengths.",
        )
    return clean


def closest_pair(structure: Structure) -> tuple[str, float, float] | None:
    """Return names, distance in Å and distance over summed covalent radii of the pair nearest to overlap."""
    from ase.data import covalent_radii

    numbers = np.array([site.specie.Z for site in structure])
    centres, neighbours, _, distances = structure.get_neighbor_list(4.0)
    if len(distances) == 0:
        return None
    ratios = distances / (covalent_radii[numbers[centres]] + covalent_radii[numbers[neighbours]])
    worst = int(np.argmin(ratios))
    i, j = int(centres[worst]), int(neighbours[worst])
    label = f"{structure[i].specie.symbol} (site {i + 1}) and {structure[j].specie.symbol} (site {j + 1})"
    return label, float(distances[worst]), float(ratios[worst])


def vacuum_gaps(structure: Structure) -> dict[str, float]:
    """Return the widest empty layer along each lattice direction, measured perpendicular to the other two, Å."""
    matrix = structure.lattice.matrix
    heights = structure.volume / np.linalg.norm(np.cross(matrix[[1, 2, 0]], matrix[[2, 0, 1]]), axis=1)
    ordered = np.sort(np.mod(structure.frac_coords, 1.0), axis=0)
    steps = np.diff(ordered, axis=0, append=ordered[:1] + 1.0)
    return dict(zip("abc", (steps.max(axis=0) * heights).tolist(), strict=True))


def structure_warnings(structure: Structure) -> list[str]:
    """Return what a careful person would question about a readable structure.

    Looks for vacuum (a slab, chain or molecule), short distances, symmetry that is only approximate (a sign of a
    structure that is not relaxed, or rounded), a cell that is not the standard one, and notes of the file reader.
    """
    notes = [f"the file reader says: {note}" for note in structure.properties.get("read_warnings", [])]
    slabs = {name: gap for name, gap in vacuum_gaps(structure).items() if gap > VACUUM_GAP}
    if slabs and not (len(structure) == 1 and len(slabs) == 3):
        where = ", ".join(f"{gap:.1f} Å along {name}" for name, gap in slabs.items())
        notes.append(
            f"vacuum of {where}: this looks like a slab, chain or molecule; the protocol is made for bulk crystals "
            "(supercells repeat the vacuum, stress and volume changes act on it)"
        )
    pair = closest_pair(structure)
    if pair is not None and pair[2] < SHORT_FRACTION:
        notes.append(f"short distance: {pair[0]} are {pair[1]:.2f} Å apart")
    tight, loose = spacegroup_number(structure, SYMPREC), spacegroup_number(structure, LOOSE_SYMPREC)
    if tight is not None and loose is not None and tight != loose:
        notes.append(
            f"not relaxed or not symmetrised: space group {tight} within {SYMPREC} Å but {loose} within "
            f"{LOOSE_SYMPREC} Å"
        )
    primitive = standard_primitive(structure)
    if len(structure) > len(primitive):
        conventional = standard_conventional(structure)
        same = len(structure) == len(conventional) and same_cell(structure, conventional)
        kind = "the conventional cell" if same else "not a standard cell"
        notes.append(f"not primitive: {len(structure)} atoms ({kind}), the primitive cell has {len(primitive)}")
    elif not same_cell(structure, primitive):
        notes.append("not standardised: the primitive cell is not in spglib's standard setting")
    return notes


def same_cell(first: Structure, second: Structure) -> bool:
    """Tell whether two cells have the same lengths (within 0.1 %) and angles (within 0.1°) in the same order."""
    lengths = np.allclose(first.lattice.abc, second.lattice.abc, rtol=1e-3)
    return lengths and np.allclose(first.lattice.angles, second.lattice.angles, atol=0.1)


def duplicate_groups(structures: Sequence[Structure]) -> list[list[int]]:
    """Return groups of indices of structures that are the same crystal (volumes may differ by a few per cent)."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher(scale=False)
    formulas = [structure.composition.reduced_formula for structure in structures]
    groups: list[list[int]] = []
    for index, structure in enumerate(structures):
        for group in groups:
            if formulas[group[0]] == formulas[index] and matcher.fit(structures[group[0]], structure):
                group.append(index)
                break
        else:
            groups.append([index])
    return [group for group in groups if len(group) > 1]
