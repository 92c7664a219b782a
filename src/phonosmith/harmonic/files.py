"""phonopy's files: displacements, forces and force constants for comparison and curvature supervision.

phonopy's own loader has two traps: it silently takes ``FORCE_SETS``, ``FORCE_CONSTANTS`` and ``BORN`` from whatever
folder the process happens to run in, and it parses YAML with a loader that runs code a file asks for. Here the YAML is
parsed safely, only files that lie beside it under its own name are used, and forces must fit the displacements.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from phonosmith.core.errors import InputError, MismatchError
from phonosmith.core.reading import COMPRESSED, bare_name, read_bounded
from phonosmith.harmonic.displacements import (
    atoms_of,
    attach_forces,
    calculations_beside,
    displacements_and_forces,
    has_forces,
    require_same_cell,
)

if TYPE_CHECKING:
    from phonopy import Phonopy

__all__ = [
    "atoms_of",
    "attach_forces",
    "displaced_frames",
    "displacements_and_forces",
    "find_yaml",
    "full_force_constants",
    "has_forces",
    "load_phonopy",
    "produce_force_constants",
    "require_same_cell",
]

Array = NDArray[np.float64]
YAML_NAMES = ("phonopy_params.yaml", "phonopy.yaml", "phonopy_disp.yaml", "phono3py_disp.yaml")
PLANS = ("phonopy_disp.yaml", "phono3py_disp.yaml")
_ENDINGS = ("", *COMPRESSED)


def load_phonopy(
    path: str | Path,
    *,
    is_nac: bool = False,
    symprec: float = 1e-4,
    produce: bool = True,
    symmetrize: bool = True,
    fc_calculator: str | None = None,
) -> Phonopy:
    """Return a Phonopy object with force constants from phonopy's files.

    Parameters
    ----------
    path
        ``phonopy.yaml``, ``phonopy_params.yaml`` or ``phonopy_disp.yaml`` (plain, .gz, .xz, .lzma, .bz2), or a folder
        that holds one. Forces come from the YAML itself, else from ``FORCE_SETS`` beside it (``x.FORCE_SETS`` for
        ``x.phonopy.yaml``), else from ``FORCE_CONSTANTS`` or ``force_constants.hdf5``, else from the vasprun.xml files
        or archives of them in the folder of a ``phonopy_disp.yaml`` or ``phono3py_disp.yaml``.
    is_nac
        Keep Born charges and dielectric constant (from the YAML or ``BORN`` beside it).
    symprec
        Tolerance of the symmetry search, Å.
    produce
        Make force constants, and refuse files that allow none. False returns structure and dataset alone.
    symmetrize
        Impose translational and index symmetry on force constants from finite differences.
    fc_calculator
        "traditional" or "symfc"; None takes symfc for random displacements only.

    Raises
    ------
    InputError
        When files are missing, damaged or hold no forces.
    MismatchError
        When forces and displacements do not belong together.
    """
    source = find_yaml(Path(path))
    data = _parse(source)
    phonon = _assemble(data, source, symprec)
    _attach_files(phonon, data, source)
    if is_nac:
        _attach_nac(phonon, data, source)
    if not produce:
        return phonon
    if phonon.force_constants is None:
        if not has_forces(phonon):
            raise InputError(
                f"{source} has displacements but no forces; neither FORCE_SETS nor the displaced calculations lie"
                " beside it.",
                "Put FORCE_SETS or the vasprun.xml files beside it.",
            )
        produce_force_constants(phonon, symmetrize=symmetrize, fc_calculator=fc_calculator)
    if not np.all(np.isfinite(phonon.force_constants)):
        raise InputError(f"{source} leads to force constants that are not finite.", "Check its forces.")
    return phonon


def find_yaml(path: Path) -> Path:
    """Return the phonopy YAML file that a path names or a folder holds."""
    if not path.is_dir():
        return path
    for name in YAML_NAMES:
        for ending in _ENDINGS:
            if (path / f"{name}{ending}").is_file():
                return path / f"{name}{ending}"
    raise InputError(f"{path} holds none of {', '.join(YAML_NAMES)}.", "Give the YAML file itself.")


def _parse(source: Path) -> Any:
    """Parse a phonopy YAML without running anything it contains."""
    import yaml
    from phonopy.interface.phonopy_yaml import PhonopyYamlLoader

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    content = read_bounded(source)
    try:
        tree = yaml.load(content, Loader=loader)  # noqa: S506  (both candidates are safe loaders)
    except yaml.YAMLError as error:
        raise InputError(f"{source} is not valid YAML: {str(error)[:200]}.", "Write it again with phonopy.") from error
    if not isinstance(tree, dict) or not {"unit_cell", "supercell", "lattice", "primitive_cell"} & tree.keys():
        raise InputError(f"{source} is not a phonopy file: it holds no cell.", "Give phonopy.yaml.")
    if "phono3py" in tree and "phonopy" not in tree:
        # pairs of displacements are not a phonopy dataset; the cells are the same in both programs
        tree = {key: value for key, value in tree.items() if not key.startswith("displacement")}
    try:
        return PhonopyYamlLoader(tree).parse().data
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise InputError(f"{source} cannot be understood: {type(error).__name__} {error}.", "Is it whole?") from error


def _assemble(data: Any, source: Path, symprec: float) -> Phonopy:
    from phonopy import Phonopy

    if data.calculator not in (None, "vasp"):
        from phonopy.interface.calculator import get_calculator_physical_units

        units = get_calculator_physical_units(data.calculator)
        if units.force_constants_unit != "eV/angstrom^2":
            raise InputError(f"{source} is in {data.calculator}'s units.", "Convert it to eV and Å with phonopy.")
    if data.unitcell is None:
        raise InputError(f"{source} holds no unit cell.", "Give phonopy.yaml or phonopy_disp.yaml.")
    matrix = np.eye(3, dtype=int) if data.supercell_matrix is None else data.supercell_matrix
    primitive = "auto" if data.primitive_matrix is None else data.primitive_matrix
    try:
        with warnings.catch_warnings():
            # old files name no primitive cell; "auto" is what phonopy.load takes for them too
            warnings.simplefilter("ignore")
            phonon = Phonopy(
                data.unitcell, matrix, primitive_matrix=primitive, symprec=symprec, calculator=data.calculator
            )
    except Exception as error:
        raise InputError(
            f"{source}: phonopy cannot build its supercell: {error}.", "Check cell and symprec."
        ) from error
    if data.supercell is not None:
        require_same_cell(atoms_of(phonon.supercell), atoms_of(data.supercell), f"{source}: supercell")
    return phonon


def _beside(source: Path, name: str) -> Path | None:
    """Return a companion file: ``x.NAME`` of ``x.phonopy.yaml``, or plain ``NAME`` where the YAML has a plain name."""
    stem = Path(bare_name(source.name)).name
    prefix = stem.removesuffix(".yaml")
    for known in ("phonopy_params", "phonopy_disp", "phono3py_disp", "phonopy"):
        prefix = prefix.removesuffix(known)
    for ending in _ENDINGS:
        candidate = source.with_name(f"{prefix}{name}{ending}")
        if candidate.is_file():
            return candidate
    return None


def _attach_files(phonon: Phonopy, data: Any, source: Path) -> None:
    """Give the Phonopy object its dataset and, where written down, its force constants."""
    if data.dataset is not None:
        phonon.dataset = data.dataset
    if data.force_constants is not None:
        phonon.force_constants = _checked_constants(data.force_constants, phonon, source)
    if not has_forces(phonon) and (file := _beside(source, "FORCE_SETS")) is not None:
        planned = phonon.dataset
        phonon.dataset = _force_sets(file, len(phonon.supercell))
        if planned is not None:
            _require_same_displacements(planned, phonon.dataset, file, source)
    if has_forces(phonon):
        _check_forces(phonon, source)
    elif phonon.force_constants is None:
        constants = _written_constants(source)
        if constants is not None:
            phonon.force_constants = _checked_constants(constants, phonon, source)
        elif Path(bare_name(source.name)).name in PLANS and (frames := calculations_beside(source.parent)):
            attach_forces(phonon, frames)


def _force_sets(file: Path, count: int) -> Any:
    from phonopy.file_IO import parse_FORCE_SETS_from_strings

    try:
        return parse_FORCE_SETS_from_strings(read_bounded(file).decode(), natom=count)
    except InputError:
        raise
    except Exception as error:
        raise MismatchError(
            f"{file} does not fit a supercell of {count} atoms: {error}.", "Give the FORCE_SETS of this supercell."
        ) from error


def _written_constants(source: Path) -> Array | None:
    import tempfile

    from phonopy.file_IO import parse_FORCE_CONSTANTS, read_force_constants_hdf5

    for name, reader in (
        ("FORCE_CONSTANTS", parse_FORCE_CONSTANTS),
        ("force_constants.hdf5", read_force_constants_hdf5),
    ):
        file = _beside(source, name)
        if file is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / name
            copy.write_bytes(read_bounded(file))
            try:
                found = reader(str(copy))
            except Exception as error:
                raise InputError(f"{file} cannot be read: {error}.", "Write it again with phonopy.") from error
        return np.asarray(found[0] if isinstance(found, tuple) else found, dtype=float)
    return None


def _checked_constants(constants: Any, phonon: Phonopy, source: Path) -> Array:
    values = np.asarray(constants, dtype=float)
    full, compact = len(phonon.supercell), len(phonon.primitive)
    if values.shape not in ((full, full, 3, 3), (compact, full, 3, 3)):
        raise MismatchError(
            f"{source}: force constants of shape {values.shape} do not belong to a supercell of {full} atoms.",
            "Give the force constants of this supercell.",
        )
    return values


def _attach_nac(phonon: Phonopy, data: Any, source: Path) -> None:
    from phonopy.file_IO import parse_BORN_from_strings
    from phonopy.interface.calculator import get_calculator_physical_units

    params = data.nac_params
    if params is None and (file := _beside(source, "BORN")) is not None:
        try:
            params = parse_BORN_from_strings(read_bounded(file).decode(), phonon.primitive)
        except Exception as error:
            raise MismatchError(f"{file} does not fit the primitive cell: {error}.", "Check BORN.") from error
    if params is None:
        raise InputError(f"{source} holds no Born charges and no BORN lies beside it.", "Ask for is_nac=False.")
    if params.get("factor") is None:
        params["factor"] = get_calculator_physical_units(phonon.calculator).nac_factor
    phonon.nac_params = params


def _require_same_displacements(planned: Any, found: Any, file: Path, source: Path) -> None:
    count = max(int(np.asarray(found["natom"]) if "natom" in found else np.shape(found["displacements"])[1]), 1)
    before = displacements_and_forces(planned, count)[0]
    after = displacements_and_forces(found, count)[0]
    if before.shape != after.shape or np.abs(before - after).max() > 1e-4:
        raise MismatchError(
            f"{file} and {source} name different displacements.", "They belong to different calculations."
        )


def _check_forces(phonon: Phonopy, source: Path) -> None:
    count = len(phonon.supercell)
    moved, forces, _ = displacements_and_forces(phonon.dataset, count)
    shape = () if forces is None else forces.shape
    if forces is None or shape != (len(moved), count, 3) or moved.shape[1] != count:
        raise MismatchError(
            f"{source}: forces of shape {shape} do not belong to {len(moved)} displaced cells of {count} atoms.",
            "The files do not belong together.",
        )
    if not np.all(np.isfinite(forces)) or not np.all(np.isfinite(moved)):
        raise InputError(f"{source} holds forces or displacements that are not finite.", "Compute them again.")


def produce_force_constants(phonon: Phonopy, *, symmetrize: bool = True, fc_calculator: str | None = None) -> None:
    """Make compact force constants from the dataset, quietly.

    Random displacements need a fit and go to symfc, which obeys all symmetries by construction.
    """
    chosen = fc_calculator or ("traditional" if "first_atoms" in phonon.dataset else "symfc")
    phonon.produce_force_constants(calculate_full_force_constants=False, fc_calculator=chosen, show_drift=False)
    if symmetrize and chosen == "traditional":
        phonon.symmetrize_force_constants(show_drift=False, use_symfc_projector=True)


def full_force_constants(phonon: Phonopy) -> Array:
    """Return force constants as (n, n, 3, 3) in eV/Å² over the supercell."""
    from phonopy.harmonic.force_constants import compact_fc_to_full_fc

    constants = np.asarray(phonon.force_constants, dtype=float)
    if constants.shape[0] == constants.shape[1]:
        return constants
    return np.asarray(compact_fc_to_full_fc(phonon.primitive, constants), dtype=float)


def displaced_frames(phonon: Phonopy) -> list[Atoms]:
    """Return every displaced supercell with its forces, and its energy where the files give one.

    Frames without an energy carry ``config_energy_weight=0`` and ``config_stress_weight=0``: they teach forces only.
    """
    from phonosmith.structures.labels import label_frame

    perfect = atoms_of(phonon.supercell)
    moved, forces, energies = displacements_and_forces(phonon.dataset, len(perfect))
    if forces is None:
        raise InputError("The displaced cells have no forces.", "Load a file with forces.")
    frames = []
    for index, displacement in enumerate(moved):
        atoms = perfect.copy()
        atoms.positions += displacement
        energy = None if energies is None else float(energies[index])
        weight = None if energies is not None else 0.0
        frames.append(
            label_frame(
                atoms,
                energy=energy,
                forces=forces[index],
                config_type="phonon",
                config_energy_weight=weight,
                config_stress_weight=0.0,
            )
        )
    return frames
