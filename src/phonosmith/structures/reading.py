"""Read crystal structures; refuse what cannot be calculated, note what looks wrong."""

from __future__ import annotations

import contextlib
import itertools
import re
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phonosmith.core.errors import InputError
from phonosmith.core.reading import COMPRESSED, MIB, Limits, bare_name, check_json, read_bounded
from phonosmith.structures.standard import SYMPREC, spacegroup_number, standard_conventional, standard_primitive

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

OVERLAP_FRACTION = 0.5
"""Two atoms nearer than this fraction of the sum of their covalent radii overlap: no calculation can be meant."""
SHORT_FRACTION = 0.75
"""Two atoms nearer than this fraction of the sum of their covalent radii are worth a warning."""
VACUUM_GAP = 6.0
"""Empty layer in Å from which a cell counts as a slab, chain or molecule in vacuum; van der Waals gaps stay below 4."""
LOOSE_SYMPREC = 0.05
"""Looser tolerance in Å: more symmetry found with it means a distorted, unrelaxed or coarsely rounded structure."""
MOST_ATOMS = 10_000
"""No stage of this package can do anything with a larger cell; looking for symmetry and neighbours takes for ever."""
LONGEST_EDGE, LARGEST_VOLUME = 1000.0, 1e7
"""Å and Å³; neighbour searches lay a grid over the whole cell, atoms or not."""
SMALLEST_HEIGHT, LEAST_VOLUME_PER_ATOM = 0.5, 0.5
"""Å and Å³; the densest crystals have about 1.5 Å³ per atom, and neighbour searches look at every image."""
LIMITS = Limits(member_bytes=64 * MIB, ratio_floor=8 * MIB)
"""A crystal of ten thousand atoms takes about a MiB."""
ISOTOPE_MASS = 0.01
"""Relative difference from the standard atomic mass from which a file means an isotope."""


def read_structure(path: str | Path) -> Structure:
    """Read an ordered crystal from any file pymatgen (or, failing that, ASE) reads, compressed or not.

    ``name.cif#2`` is the second structure of a file that holds several: of several none is taken without being named.
    Oxidation states and site properties are dropped: no stage of this package uses them. Warnings of the reader are
    kept in ``structure.properties["read_warnings"]``.

    Raises
    ------
    InputError
        Naming the file when it is missing, unreadable, too large, without atoms, disordered, overlapping, of unknown
        elements, of several structures or not a crystal.
    """
    file, chosen = _file_and_choice(Path(path))
    if not file.is_file():
        raise InputError(f"{file} is not a file.", "Give the path of a CIF, POSCAR or other structure file.")
    if file.stat().st_size == 0:
        raise InputError(f"{file} is empty.", "Export the structure again.")
    data = read_bounded(file, LIMITS)
    with warnings.catch_warnings(record=True) as caught, tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("always")
        plain = file
        if file.suffix in COMPRESSED:
            plain = Path(folder) / bare_name(file.name)
            plain.write_bytes(data)
        structure = _parse(plain, data, str(file), chosen)
    messages = [str(item.message).strip() for item in caught]
    if any("cannot be determined" in message and "POSCAR" in message for message in messages):
        raise InputError(
            f"{file} names no elements: it is a POSCAR of VASP 4.",
            "Write the element symbols, e.g. 'Na Cl', into a line of their own before the numbers of atoms.",
        )
    notes = {str(item.message).strip().splitlines()[0] for item in caught if issubclass(item.category, UserWarning)}
    return clean_structure(structure, str(file), sorted(notes))


def _file_and_choice(path: Path) -> tuple[Path, int | None]:
    """Split ``name.cif#2`` into file and number; a file that is really called so is taken as it is."""
    named = re.fullmatch(r"(.+)#([1-9]\d{0,5})", path.name)
    return (path, None) if named is None or path.exists() else (path.with_name(named[1]), int(named[2]))


def _pick(count: int, chosen: int | None, name: str, what: str, names: Sequence[str] = ()) -> int:
    """Return the index of the structure meant; several without a choice are refused."""
    if chosen is None and count > 1:
        shown = f" ({', '.join(names[:6])}{' …' if len(names) > 6 else ''})" if names else ""
        raise InputError(
            f"{name} holds {count} {what}{shown}, and it does not say which one is meant.",
            f"Name one by its number, e.g. '{name}#1', or give a file with one structure.",
        )
    if chosen is not None and chosen > count:
        raise InputError(f"{name} holds {count} {what}, so that there is no #{chosen}.", "Choose another number.")
    return 0 if chosen is None else chosen - 1


def _parse(file: Path, data: bytes, name: str, chosen: int | None) -> Any:
    """Let pymatgen read a file, ``name`` in messages, then ASE; report pymatgen's reason when neither can."""
    from pymatgen.core import Structure
    from pymatgen.io.vasp import Poscar

    if file.suffix.lower() in {".xyz", ".extxyz"}:
        return _from_atoms(_xyz_frames(data, name), name, chosen)
    _require_announced_atoms(data, name)
    if data.lstrip()[:1] in (b"{", b"["):
        check_json(data, name)
    if file.suffix.lower() == ".traj" or "XDATCAR" in file.name or (file.suffix == ".xsf" and b"ANIMSTEPS" in data):
        return _parse_ase(file, "", name, chosen)
    if "cif" in file.name.lower():
        return _parse_cif(data, name, chosen)
    try:
        structure = Structure.from_file(file)
    except Exception as error:  # noqa: BLE001 - every parser of pymatgen raises its own kinds
        reason = _first_line(error)
        structure = None
        with contextlib.suppress(Exception):
            structure = Poscar.from_file(file, check_for_potcar=False).structure
    if structure is None:
        return _parse_ase(file, reason, name, chosen)
    if (count := _poscars(data)) > 1:
        raise InputError(f"{name} holds {count} structures after each other.", "Give a file with one of them.")
    _pick(1, chosen, name, "structure")
    return structure


def _xyz_frames(data: bytes, name: str) -> list[Atoms]:
    """Return the frames of extended XYZ; unlike ASE's reader this one does not believe any number of atoms."""
    from phonosmith.structures.extxyz import parse_each

    frames = []
    for item in parse_each(data.decode(errors="replace"), name):
        if isinstance(item, InputError):
            raise item
        frames.append(item)
    return frames


def _require_announced_atoms(data: bytes, name: str) -> None:
    """Refuse a POSCAR or XDATCAR that announces more atoms than the file has lines (readers reserve room), or none."""
    head = [line.split() for line in data[: 1 << 16].decode(errors="replace").splitlines()[5:7]]
    for words in head:
        if not words or not all(word.isdecimal() for word in words):
            continue
        if 0 in map(int, words):
            raise InputError(
                f"{name} announces {' + '.join(words)} atoms: none of one element.",
                "Write its number, or take the element out.",
            )
        if sum(map(int, words)) > data.count(b"\n") + 1:
            raise InputError(f"{name} announces {' + '.join(words)} atoms and ends before them.", "Export it again.")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _poscars(data: bytes) -> int:
    """Return how many POSCARs follow each other: how often the lines with the first one's elements and numbers return.

    The first line, a comment, often names the elements as well.
    """
    lines = [line.split() for line in data.decode(errors="replace").splitlines()]
    if len(lines) <= 7 or not lines[5] or not lines[5][0].isalpha():
        return 1
    return max(1, list(itertools.pairwise(lines[5:])).count((lines[5], lines[6])))


def _parse_cif(data: bytes, name: str, chosen: int | None) -> Any:
    from pymatgen.core import Structure
    from pymatgen.io.cif import CifFile

    text = data.decode(errors="replace")
    # what stands in a text field between lines of ';' is neither a data block nor a name
    bare = re.sub(r"^;.*?^;", lambda field: " " * len(field[0]), text, flags=re.MULTILINE | re.DOTALL)
    starts = [match.start() for match in re.finditer(r"^[ \t]*data_\S*", bare, re.MULTILINE | re.IGNORECASE)]
    spans = list(itertools.pairwise([*starts, len(text)]))
    # publications have blocks without atoms
    atoms = re.compile(r"_atom_site_(fract|cartn)_x", re.IGNORECASE)
    crystals = [text[start:end] for start, end in spans if atoms.search(bare, start, end)]
    titles = [block.split(maxsplit=1)[0] for block in crystals]
    block = crystals[_pick(len(crystals), chosen, name, "data blocks with atoms", titles)] if crystals else text
    advice = "Check that the CIF has a cell, symmetry operations and atom sites with real element symbols."
    try:
        (content,) = CifFile.from_str(block).data.values()
        _check_cif_symbols(content.data, name)
        return Structure.from_str(block, fmt="cif")
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{name} holds no crystal structure that can be read: {_first_line(error)}.", advice
        ) from error


def _check_cif_symbols(content: Any, name: str) -> None:
    """Refuse symbols that pymatgen would cut until an element is left, as ``Va`` to vanadium."""
    from pymatgen.core import Element

    typed = "_atom_site_type_symbol" in content
    for symbol in content.get("_atom_site_type_symbol" if typed else "_atom_site_label", []):
        letters = (re.match(r"[A-Za-z]*", symbol) or [""])[0]
        if Element.is_valid_symbol(letters[:2].capitalize()) and (len(letters) < 3 or not typed):
            continue
        # labels may go on with capitals, as OW1 of water; symbols may not
        if not typed and letters[:1].isupper() and Element.is_valid_symbol(letters[0]) and letters[1:].isupper():
            continue
        raise InputError(
            f"{name} has a site of {symbol!r}, which is no chemical element.",
            "Name every site's element; vacancies and molecules are not written as atoms.",
        )


def _parse_ase(file: Path, reason: str, name: str, chosen: int | None) -> Any:
    from ase.io import read

    try:
        frames: list[Atoms] = read(file, index=":", do_not_split_by_at_sign=True)
    except Exception as error:
        raise InputError(
            f"{name} holds no crystal structure that can be read: {reason or error}.",
            "Give a CIF, a POSCAR with element names, or another format that pymatgen or ASE reads.",
        ) from error
    return _from_atoms(frames, name, chosen)


def _from_atoms(frames: Sequence[Atoms], name: str, chosen: int | None) -> Any:
    """Return the one frame that is meant as a pymatgen structure."""
    from ase.data import atomic_masses
    from pymatgen.io.ase import AseAtomsAdaptor

    if not frames:
        raise InputError(f"{name} holds no structure.", "Export the structure again.")
    atoms = frames[_pick(len(frames), chosen, name, "frames")]
    if not np.all(atoms.pbc):
        raise InputError(f"{name} is not periodic in three dimensions.", "Give a crystal with a cell.")
    odd = np.flatnonzero(np.abs(atoms.get_masses() / atomic_masses[atoms.numbers] - 1) > ISOTOPE_MASS)
    if len(odd):
        raise InputError(
            f"{name} gives site {odd[0] + 1} ({atoms.symbols[odd[0]]}) a mass of {atoms.get_masses()[odd[0]]:.3f}: "
            "isotopes are not known here.",
            "Leave masses out; frequencies are those of the natural elements.",
        )
    atoms.calc = None
    try:
        return AseAtomsAdaptor.get_structure(atoms)
    except (ValueError, np.linalg.LinAlgError) as error:
        raise InputError(f"{name} holds no crystal: {_first_line(error)}.", "Check cell and positions.") from error


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
        isotope = getattr(specie, "element", specie).name
        if isotope in ("D", "T"):
            raise InputError(
                f"{name} holds {isotope}, an isotope of hydrogen: potentials and DFT know the element alone, and "
                "phonons would be those of hydrogen.",
                "Write H if frequencies of natural hydrogen are what you want; forces are the same.",
            )
    _check_extent(structure, name)
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


def _check_extent(structure: Structure, name: str) -> None:
    """Refuse numbers that are no crystal's before anything is allocated by them."""
    lattice = np.asarray(structure.lattice.matrix, dtype=float)
    places = np.asarray(structure.frac_coords, dtype=float)
    # beyond a million cells from the origin nothing of a position's digits would be left within the cell
    if not np.all(np.abs(places) < 1e6):
        site = int(np.flatnonzero(~np.all(np.abs(places) < 1e6, axis=1))[0])
        raise InputError(
            f"{name}: site {site + 1} ({structure[site].species_string}) is at {places[site].tolist()}.",
            "Coordinates must be finite numbers within the cell.",
        )
    with np.errstate(all="ignore"):
        volume = abs(float(np.linalg.det(lattice)))
        faces = np.linalg.norm(np.cross(lattice[[1, 2, 0]], lattice[[2, 0, 1]]), axis=1)
        height = float(np.min(volume / faces))
    if not np.all(np.isfinite(lattice)) or not volume >= 1e-3 or not height >= SMALLEST_HEIGHT:
        raise InputError(f"{name} has a cell without volume.", "Check its lattice vectors.")
    longest, n_atoms = float(np.linalg.norm(lattice, axis=1).max()), len(structure)
    if longest > LONGEST_EDGE or volume > LARGEST_VOLUME or volume < LEAST_VOLUME_PER_ATOM * n_atoms:
        raise InputError(
            f"{name} has {n_atoms} atoms in a cell of {volume:.4g} Å³ with edges up to {longest:.4g} Å: no crystal.",
            "Check its lattice vectors, their scale and their unit (Å).",
        )
    if n_atoms > MOST_ATOMS:
        raise InputError(f"{name} has {n_atoms} atoms, more than {MOST_ATOMS}.", "Give the primitive cell.")


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
