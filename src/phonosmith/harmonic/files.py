"""phonopy's files: the one reader, for comparison, import and curvature supervision, and the one writer.

phonopy's own loader has two traps: it silently takes ``FORCE_SETS``, ``FORCE_CONSTANTS`` and ``BORN`` from whatever
folder the process happens to run in, and it parses YAML with a loader that runs code a file asks for. Here the YAML is
parsed safely, only files that lie beside it under its own name are used, and forces must fit the displacements.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.artefacts import ArtefactRef, default_artefacts
from phonosmith.core.document import Document
from phonosmith.core.errors import InputError, MismatchError
from phonosmith.core.reading import COMPRESSED, bare_name, load_yaml, read_bounded, read_document
from phonosmith.harmonic.displacements import attach_forces, displacements_and_forces, has_forces, require_same_cell
from phonosmith.harmonic.fit import FcCalculator, make_force_constants
from phonosmith.harmonic.model import (
    SYMPREC,
    HarmonicModel,
    atoms_of,
    check_force_constants,
    composition_of,
    new_phonon,
    require_same_formula,
    unpack_force_constants,
)
from phonosmith.harmonic.nac import NacParams, charges_of, checked_charges

if TYPE_CHECKING:
    from ase import Atoms
    from phonopy import Phonopy

Array = NDArray[np.float64]
Calculations = Callable[[Path], Sequence["Atoms"]]
"""Returns the labelled displaced cells that another program left in a folder."""

PLANS = ("phonopy_disp.yaml", "phono3py_disp.yaml")
YAML_NAMES = ("phonopy_params.yaml", "phonopy.yaml", *PLANS)


class _StoredPhonons(Document):
    """What a phonon document says of its force constants."""

    force_constants: ArtefactRef


def read_phonopy(
    path: str | Path, *, symprec: float = SYMPREC, nac: bool = False, calculations: Calculations | None = None
) -> Phonopy:
    """Return cells, displacements, forces and stored force constants of phonopy's files; nothing is fitted.

    Parameters
    ----------
    path
        ``phonopy.yaml``, ``phonopy_params.yaml`` or ``phonopy_disp.yaml`` (plain, .gz, .xz, .lzma, .bz2), or a folder
        that holds one. Forces come from the YAML itself, else from ``FORCE_SETS`` beside it (``x.FORCE_SETS`` for
        ``x.phonopy.yaml``). Where there are none, force constants come from the YAML, ``FORCE_CONSTANTS`` or
        ``force_constants.hdf5``, else forces from ``calculations``, else from a plain ``FORCE_SETS`` in a folder with
        one phonopy file of any name.
    symprec
        Tolerance of the symmetry search, Å.
    nac
        Keep Born charges and dielectric constant (from the YAML or ``BORN`` beside it).
    calculations
        Asked for the cells calculated in the folder of a ``phonopy_disp.yaml`` or ``phono3py_disp.yaml``, e.g.
        `phonosmith.reference.importers.beside.calculations_beside` for VASP.

    Raises
    ------
    InputError
        When files are missing or damaged.
    MismatchError
        When forces, force constants and displacements do not belong together.
    """
    source = _find_yaml(Path(path))
    data = _parse(source)
    phonon = _assemble(data, source, symprec)
    if data.dataset is not None:
        phonon.dataset = data.dataset
    if data.force_constants is not None:
        phonon.force_constants = check_force_constants(data.force_constants, phonon, str(source))
    if not has_forces(phonon, str(source)):
        _attach_companions(phonon, source, calculations)
    if nac:
        phonon.nac_params = _nac_params(phonon, data, source)
    return phonon


def add_charges(phonon: Phonopy, path: str | Path) -> None:
    """Give a calculation the Born charges and the dielectric constant of a file, for the non-analytic term.

    The file is phonopy's ``BORN`` (charges of the symmetry-independent atoms of the same primitive cell), or a phonopy
    YAML with charges, or with ``BORN`` beside it, of the same crystal in any setting.
    """
    source = Path(path)
    if not source.is_dir() and not bare_name(source.name).endswith((".yaml", ".yml")):
        phonon.nac_params = _born_file(source, phonon)
        return
    phonon.nac_params = charges_of(read_phonopy(source, nac=True), phonon, str(source))


def load_harmonic(
    path: str | Path,
    *,
    fc_calculator: FcCalculator = "symfc",
    symprec: float = SYMPREC,
    nac: bool = False,
    calculations: Calculations | None = None,
) -> HarmonicModel:
    """Read a harmonic model from phonopy's files or from the JSON of a stored `PhononDoc`.

    Forces are turned into force constants here, alike for every file; stored force constants are taken as they are
    where there are no forces. Those of a document ``*.json`` are in this installation's store. For the other arguments
    and errors see `read_phonopy`.
    """
    source = Path(path)
    opened = _stored_or_read(source, symprec=symprec, nac=nac, calculations=calculations)
    return opened if isinstance(opened, HarmonicModel) else _with_force_constants(opened, fc_calculator, source)


def load_pair(
    reference: str | Path,
    candidate: str | Path,
    calculator: str = "auto",
    calculations: Calculations | None = None,
    *,
    nac: bool = False,
) -> tuple[HarmonicModel, HarmonicModel]:
    """Read both sides of a comparison (see `load_harmonic`) with force constants made in one way.

    The calculator is ``traditional``, ``symfc`` or ``auto``, which takes forces as they are (traditional, as published
    figures do) unless one side was stored as force constants from symfc; then symfc serves both. With ``nac`` the
    reference brings its Born charges along, which serve both sides of a comparison.
    """
    if calculator not in {"auto", "traditional", "symfc"}:
        raise InputError(f"Unknown force-constants calculator {calculator!r}.", "Choose auto, traditional or symfc.")
    sources = Path(reference), Path(candidate)
    opened = [
        _stored_or_read(source, nac=wanted, calculations=calculations)
        for source, wanted in zip(sources, (nac, False), strict=True)
    ]
    stored = [side for side in opened if isinstance(side, HarmonicModel)]
    # a misplaced file is told before the expensive part
    phonons = [side.phonon if isinstance(side, HarmonicModel) else side for side in opened]
    formulas = [str(composition_of(phonon.primitive).reduced_formula) for phonon in phonons]
    require_same_formula(formulas[0], formulas[1], str(reference), str(candidate))
    by_symfc = calculator == "auto" and any(model.fc_calculator == "symfc" for model in stored)
    fit: FcCalculator = "symfc" if calculator == "symfc" or by_symfc else "traditional"
    first, second = (
        side if isinstance(side, HarmonicModel) else _with_force_constants(side, fit, source)
        for side, source in zip(opened, sources, strict=True)
    )
    return first, second


def phonopy_yaml(phonon: Phonopy) -> str:
    """Return the text of phonopy.yaml with displacements and forces, with force constants where forces are unknown."""
    with_forces = phonon.dataset is not None
    settings = {"force_sets": with_forces, "displacements": with_forces, "force_constants": not with_forces}
    return str(phonon.to_phonopy_yaml(settings=settings))


def _stored_or_read(
    source: Path, *, symprec: float = SYMPREC, nac: bool = False, calculations: Calculations | None = None
) -> HarmonicModel | Phonopy:
    """Return the model a document refers to, or what phonopy's files hold."""
    if ".json" not in source.suffixes:
        return read_phonopy(source, symprec=symprec, nac=nac, calculations=calculations)
    document = read_document(source, _StoredPhonons, "phonon document", "Give phonons.json or phonopy.yaml.")
    model = unpack_force_constants(default_artefacts().get_bytes(document.force_constants), nac=nac)
    if nac and model.phonon.nac_params is None:
        raise InputError(f"The phonons of {source} have no Born charges.", "Give a BORN file with --born.")
    return model


def _with_force_constants(phonon: Phonopy, fc_calculator: FcCalculator, source: Path) -> HarmonicModel:
    """Make force constants where there are forces (both sides of a comparison then get them alike), else take them."""
    where = str(source)
    if has_forces(phonon, where):
        return HarmonicModel(phonon, make_force_constants(phonon, fc_calculator, where), where)
    if phonon.force_constants is None:
        raise InputError(
            f"{source} has neither forces nor force constants, and none lie beside it.",
            "Put FORCE_SETS beside it or save phonopy.yaml with forces.",
        )
    return HarmonicModel(phonon, "given", where)


def _existing(path: Path) -> Path | None:
    """Return the file itself or a compressed one."""
    files = (path.with_name(f"{path.name}{ending}") for ending in ("", *COMPRESSED))
    return next((file for file in files if file.is_file()), None)


def _find_yaml(path: Path) -> Path:
    """Return the phonopy YAML file that a path names or a folder holds."""
    if not path.is_dir():
        return path
    for name in YAML_NAMES:
        if (file := _existing(path / name)) is not None:
            return file
    raise InputError(f"{path} holds none of {', '.join(YAML_NAMES)}.", "Give the YAML file itself.")


def safe_tree(source: Path) -> dict[str, Any]:
    """Return what a YAML of phonopy or phono3py holds, without running anything it contains."""
    tree = load_yaml(read_bounded(source), str(source))
    if not isinstance(tree, dict) or not {"unit_cell", "supercell", "lattice", "primitive_cell"} & tree.keys():
        raise InputError(f"{source} is not a phonopy file: it holds no cell.", "Give phonopy.yaml.")
    return tree


def _parse(source: Path) -> Any:
    from phonopy.interface.phonopy_yaml import PhonopyYamlLoader

    tree = safe_tree(source)
    if "phono3py" in tree and "phonopy" not in tree:
        # pairs of displacements are not a phonopy dataset; the cells are the same in both programs
        tree = {key: value for key, value in tree.items() if not key.startswith("displacement")}
    try:
        return PhonopyYamlLoader(tree).parse().data
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise InputError(f"{source} cannot be understood: {type(error).__name__} {error}.", "Is it whole?") from error


def _assemble(data: Any, source: Path, symprec: float) -> Phonopy:
    from phonopy.interface.calculator import get_calculator_physical_units

    if data.calculator not in (None, "vasp"):
        units = get_calculator_physical_units(data.calculator)
        if units.force_constants_unit != "eV/angstrom^2":
            raise InputError(f"{source} is in {data.calculator}'s units.", "Convert it to eV and Å with phonopy.")
    if data.unitcell is None:
        raise InputError(f"{source} holds no unit cell.", "Give phonopy.yaml or phonopy_disp.yaml.")
    matrix = np.eye(3, dtype=int) if data.supercell_matrix is None else data.supercell_matrix
    try:
        phonon = new_phonon(data.unitcell, matrix, data.primitive_matrix, symprec, data.calculator)
    except Exception as error:
        raise InputError(
            f"{source}: phonopy cannot build its supercell: {error}.", "Check cell and symprec."
        ) from error
    if data.supercell is not None:
        require_same_cell(atoms_of(phonon.supercell), atoms_of(data.supercell), f"{source}: supercell")
    return phonon


def _attach_companions(phonon: Phonopy, source: Path, calculations: Calculations | None) -> None:
    """Take forces, else force constants, from what lies beside a phonopy file."""
    name = Path(bare_name(source.name)).name
    if (file := _beside(source, "FORCE_SETS")) is not None:
        _attach_force_sets(phonon, file, source)
    elif phonon.force_constants is not None:
        return
    elif (constants := _written_constants(source)) is not None:
        phonon.force_constants = check_force_constants(constants, phonon, str(source))
    elif calculations is not None and name in PLANS and (frames := calculations(source.parent)):
        attach_forces(phonon, frames)
    elif (file := _plain_force_sets(source)) is not None:
        _attach_force_sets(phonon, file, source)


def _beside(source: Path, name: str) -> Path | None:
    """Return a companion file: ``x.NAME`` of ``x.phonopy.yaml``, or plain ``NAME`` where the YAML has a plain name."""
    prefix = Path(bare_name(source.name)).name.removesuffix(".yaml")
    for known in YAML_NAMES:
        prefix = prefix.removesuffix(known.removesuffix(".yaml"))
    return _existing(source.with_name(f"{prefix}{name}"))


def _plain_force_sets(source: Path) -> Path | None:
    """Return a file named just FORCE_SETS where the folder has no second YAML it could belong to."""
    documents = [path for path in source.parent.iterdir() if bare_name(path.name).endswith(".yaml")]
    return _existing(source.with_name("FORCE_SETS")) if len(documents) < 2 else None


def _attach_force_sets(phonon: Phonopy, file: Path, source: Path) -> None:
    from phonopy.file_IO import parse_FORCE_SETS_from_strings

    n_atoms, planned = len(phonon.supercell), phonon.dataset
    text = read_bounded(file).decode(errors="replace")
    try:
        dataset = parse_FORCE_SETS_from_strings(text, natom=n_atoms)
        moved = displacements_and_forces(dataset, n_atoms, str(file))[0]
    except InputError:
        raise
    except Exception as error:
        raise MismatchError(
            f"{file} does not fit a supercell of {n_atoms} atoms: {error}.", "Give the FORCE_SETS of this supercell."
        ) from error
    if planned is not None:
        before = displacements_and_forces(planned, n_atoms, str(source))[0]
        if before.shape != moved.shape or np.abs(before - moved).max() > 1e-4:
            raise MismatchError(
                f"{file} and {source} name different displacements.", "They belong to different calculations."
            )
    phonon.dataset = dataset


def _written_constants(source: Path) -> Any:
    from phonopy.file_IO import parse_FORCE_CONSTANTS, read_force_constants_hdf5

    readers = {"FORCE_CONSTANTS": parse_FORCE_CONSTANTS, "force_constants.hdf5": read_force_constants_hdf5}
    for name, reader in readers.items():
        if (file := _beside(source, name)) is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / name
            copy.write_bytes(read_bounded(file))
            try:
                content = reader(str(copy))
            except Exception as error:
                raise InputError(f"{file} cannot be read: {error}.", "Write it again with phonopy.") from error
        return content[0] if isinstance(content, tuple) else content
    return None


def _nac_params(phonon: Phonopy, data: Any, source: Path) -> NacParams:
    if (params := data.nac_params) is not None:
        return checked_charges(params, phonon, str(source))
    if (file := _beside(source, "BORN")) is not None:
        return _born_file(file, phonon)
    raise InputError(
        f"{source} holds no Born charges and no BORN lies beside it.",
        "Give a BORN file, or leave the non-analytic term out.",
    )


def _born_file(file: Path, phonon: Phonopy) -> NacParams:
    from phonopy.file_IO import parse_BORN_from_strings

    try:
        params = parse_BORN_from_strings(
            read_bounded(file).decode(), phonon.primitive, symprec=phonon.symmetry.tolerance
        )
    except InputError:
        raise
    except Exception as error:
        raise MismatchError(
            f"{file} does not fit the primitive cell of {composition_of(phonon.primitive).formula}: {error}.",
            "BORN has a line for the unit, one for the dielectric tensor, then one for each independent atom.",
        ) from error
    return checked_charges(params, phonon, str(file))
