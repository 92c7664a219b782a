"""Harmonic models: phonopy files, forces and stored force constants in, a ready Phonopy object out."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import ArtefactError, InputError

if TYPE_CHECKING:
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms
    from pymatgen.core import Structure

    from phonosmith.core.artefacts import ArtefactRef, ArtefactStore
    from phonosmith.evaluation.phonons.documents import PhononDoc

Array = NDArray[np.float64]
FcCalculator = Literal["symfc", "traditional"]
SYMPREC = 1e-4
"""Å; relaxed cells carry more noise than phonopy's 1e-5 allows."""
FORMAT = "phonosmith-force-constants-1"


@dataclass
class HarmonicModel:
    """A Phonopy object with force constants, and how they came about.

    Attributes
    ----------
    phonon
        Cells, symmetry and force constants.
    fc_calculator
        ``symfc``, ``traditional`` or ``given`` (force constants were read, not made).
    source
        File or name it comes from.
    asr_residual
        See `acoustic_sum_residual`, eV/Å².
    """

    phonon: Phonopy
    fc_calculator: str
    source: str
    asr_residual: float = field(init=False)

    def __post_init__(self) -> None:
        self.asr_residual = acoustic_sum_residual(self.phonon)

    @property
    def formula(self) -> str:
        """Reduced formula of the crystal."""
        return reduced_formula(self.phonon.primitive.symbols)

    @property
    def space_group(self) -> tuple[str, int]:
        """International symbol and number of the unit cell at phonopy's tolerance."""
        dataset = self.phonon.symmetry.dataset
        symbol, number = getattr(dataset, "international", None), getattr(dataset, "number", None)
        if symbol is None:
            return str(dataset["international"]), int(dataset["number"])
        return str(symbol), int(number or 0)


def reduced_formula(symbols: list[str]) -> str:
    """Return the reduced formula of a list of chemical symbols."""
    from pymatgen.core import Composition

    counts: dict[str, int] = {}
    for symbol in symbols:
        counts[symbol] = counts.get(symbol, 0) + 1
    return str(Composition(counts).reduced_formula)


def new_phonon(
    unitcell: PhonopyAtoms,
    supercell_matrix: Any,
    primitive_matrix: Any = "auto",
    symprec: float = SYMPREC,
) -> Phonopy:
    """Return a Phonopy object; a supercell matrix that is not an integer multiple is refused."""
    from phonopy import Phonopy

    matrix = np.array(supercell_matrix, dtype=float)
    matrix = np.diag(matrix) if matrix.ndim == 1 and matrix.size == 3 else matrix
    if matrix.shape != (3, 3) or not np.allclose(matrix, np.rint(matrix), atol=1e-6):
        raise InputError(
            f"The supercell matrix {np.array(supercell_matrix).tolist()} is no integer multiple of the cell.",
            "Give three integers or a 3x3 matrix of integers.",
        )
    if round(abs(float(np.linalg.det(matrix)))) < 1:
        raise InputError(f"The supercell matrix {matrix.tolist()} is singular.", "Its rows must be independent.")
    with warnings.catch_warnings():
        # phonopy 4 warns that "auto" is its new default even where it is asked for by name
        warnings.simplefilter("ignore")
        return Phonopy(
            unitcell,
            np.rint(matrix).astype(int),
            primitive_matrix="auto" if primitive_matrix is None else primitive_matrix,
            symprec=symprec,
        )


def to_phonopy_atoms(structure: Structure) -> PhonopyAtoms:
    """Return a pymatgen structure as phonopy atoms, in the same order."""
    from phonopy.structure.atoms import PhonopyAtoms

    return PhonopyAtoms(
        symbols=[site.specie.symbol for site in structure],
        cell=structure.lattice.matrix,
        scaled_positions=structure.frac_coords,
    )


def to_structure(cell: PhonopyAtoms) -> Structure:
    """Return phonopy atoms as a pymatgen structure, in the same order."""
    from pymatgen.core import Structure

    return Structure(cell.cell, cell.symbols, cell.scaled_positions)


def check_forces(forces: Any, n_atoms: int, where: str) -> Array:
    """Return forces of displaced cells as an array after checking shape and finiteness.

    Parameters
    ----------
    forces
        eV/Å, one (n_atoms, 3) block per displaced cell.
    n_atoms
        Atoms of the supercell.
    where
        What to call the source in an error.
    """
    blocks = [np.asarray(block, dtype=float) for block in forces]
    if not blocks:
        raise InputError(f"{where} holds no forces.", "Run the displaced cells first.")
    for number, block in enumerate(blocks, start=1):
        if block.shape != (n_atoms, 3):
            raise InputError(
                f"{where}: displaced cell {number} has forces of shape {block.shape}, "
                f"but the supercell has {n_atoms} atoms.",
                "The forces belong to another supercell; give the one they were computed for.",
            )
        if not np.isfinite(block).all():
            raise InputError(
                f"{where}: forces of displaced cell {number} are not finite.", "Repeat that calculation; it failed."
            )
    return np.array(blocks)


def missing_forces(dataset: Any) -> bool:
    """Tell whether a phonopy dataset lacks the forces of any of its displaced cells."""
    if "first_atoms" in dataset:
        return not dataset["first_atoms"] or any(entry.get("forces") is None for entry in dataset["first_atoms"])
    return dataset.get("forces") is None


def make_force_constants(phonon: Phonopy, calculator: FcCalculator, where: str = "the displaced cells") -> str:
    """Fit compact force constants to the forces of ``phonon`` in place and return the calculator really used.

    ``symfc`` obeys crystal symmetry and the acoustic sum rule exactly. ``traditional`` is phonopy's direct solution
    without any symmetrisation afterwards; it needs one displaced atom per cell, otherwise symfc is used.
    """
    from phonosmith.harmonic.files import produce_force_constants

    dataset = phonon.dataset
    if dataset is None or missing_forces(dataset):
        raise InputError(f"{where} has displacements without forces.", "Put FORCE_SETS beside it or run the cells.")
    one_atom_each = "first_atoms" in dataset
    forces = [entry["forces"] for entry in dataset["first_atoms"]] if one_atom_each else list(dataset["forces"])
    check_forces(forces, len(phonon.supercell), where)
    used = calculator if one_atom_each else "symfc"
    produce_force_constants(phonon, symmetrize=False, fc_calculator=used)
    check_force_constants(phonon, where)
    return used


def check_force_constants(phonon: Phonopy, where: str) -> None:
    """Refuse force constants that are missing, not finite or of another supercell."""
    constants = phonon.force_constants
    if constants is None:
        raise InputError(f"{where} has no force constants.", "Give forces or force constants.")
    n_super, n_prim = len(phonon.supercell), len(phonon.primitive)
    if constants.shape not in {(n_prim, n_super, 3, 3), (n_super, n_super, 3, 3)}:
        raise InputError(
            f"{where}: force constants of shape {constants.shape} do not fit {n_prim} primitive "
            f"and {n_super} supercell atoms.",
            "They belong to another supercell.",
        )
    if not np.isfinite(constants).all():
        raise InputError(f"{where}: force constants are not finite.", "Repeat the calculation they come from.")


def acoustic_sum_residual(phonon: Phonopy) -> float:
    """Return how far a rigid shift is from costing nothing: the largest |Σ_j Φ_iα,jβ| or |Σ_i Φ_iα,jβ|, eV/Å².

    Both sums are needed: direct (traditional) force constants need not be symmetric, so one may vanish alone.
    """
    constants = compact_force_constants(phonon)
    over_second = np.abs(constants.sum(axis=1)).max()
    # by translation, the sum over all first atoms for one second atom runs over all images of that second atom
    sublattice = np.array([phonon.primitive.p2p_map[i] for i in phonon.primitive.s2p_map])
    columns = [constants[:, sublattice == j].sum(axis=(0, 1)) for j in range(len(phonon.primitive))]
    return float(max(over_second, np.abs(columns).max()))


def compact_force_constants(phonon: Phonopy) -> Array:
    """Return force constants between primitive-cell atoms and all supercell atoms, eV/Å², shape (n_p, n_s, 3, 3)."""
    constants = np.asarray(phonon.force_constants, dtype=float)
    if constants.shape[0] == constants.shape[1] and len(phonon.primitive) != len(phonon.supercell):
        return np.ascontiguousarray(constants[phonon.primitive.p2s_map])
    return constants


def pack_force_constants(model: HarmonicModel) -> bytes:
    """Return everything needed to rebuild the model as compressed npz bytes (compact force constants, cells, NAC)."""
    phonon = model.phonon
    unit = phonon.unitcell
    content: dict[str, Any] = {
        "format": np.array(FORMAT),
        "force_constants": compact_force_constants(phonon),
        "cell": unit.cell,
        "scaled_positions": unit.scaled_positions,
        "numbers": np.asarray(unit.numbers, dtype=np.int64),
        "masses": unit.masses,
        "supercell_matrix": np.asarray(phonon.supercell_matrix, dtype=np.int64),
        "primitive_matrix": np.asarray(phonon.primitive_matrix, dtype=float),
        "symprec": np.array(phonon.symmetry.tolerance),
        "fc_calculator": np.array(model.fc_calculator),
        "source": np.array(model.source),
    }
    if phonon.nac_params is not None:
        content["born"] = np.asarray(phonon.nac_params["born"])
        content["dielectric"] = np.asarray(phonon.nac_params["dielectric"])
        content["nac_factor"] = np.array(phonon.nac_params.get("factor", 14.399652))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **content)
    return buffer.getvalue()


def unpack_force_constants(data: bytes, *, nac: bool = False) -> HarmonicModel:
    """Rebuild a model from the bytes of `pack_force_constants`; ``nac`` switches the non-analytic term on."""
    from phonopy.structure.atoms import PhonopyAtoms

    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            content = {name: archive[name] for name in archive.files}
    except (ValueError, OSError) as error:
        raise ArtefactError(f"Stored force constants cannot be read: {error}.", "Compute the phonons again.") from error
    if str(content.get("format")) != FORMAT:
        raise ArtefactError(
            "The artefact holds no force constants of phonosmith.", "Give the reference of a PhononDoc."
        )
    unit = PhonopyAtoms(
        numbers=content["numbers"],
        cell=content["cell"],
        scaled_positions=content["scaled_positions"],
        masses=content["masses"],
    )
    phonon = new_phonon(unit, content["supercell_matrix"], content["primitive_matrix"], float(content["symprec"]))
    phonon.force_constants = content["force_constants"]
    if nac and "born" in content:
        phonon.nac_params = {
            "born": content["born"],
            "dielectric": content["dielectric"],
            "factor": float(content["nac_factor"]),
        }
    check_force_constants(phonon, "the artefact")
    return HarmonicModel(phonon, str(content["fc_calculator"]), str(content["source"]))


def store_force_constants(model: HarmonicModel, artefacts: ArtefactStore) -> ArtefactRef:
    """Keep a model's force constants in the artefact store."""
    return artefacts.put_bytes(pack_force_constants(model), kind="force_constants", suffix=".npz")


def harmonic_from_document(document: PhononDoc, artefacts: ArtefactStore, *, nac: bool = False) -> HarmonicModel:
    """Rebuild the harmonic model of a stored document."""
    return unpack_force_constants(artefacts.get_bytes(document.force_constants), nac=nac)


def _load_document(source: Path, artefacts: ArtefactStore | None, *, nac: bool) -> HarmonicModel:
    from pydantic import ValidationError

    from phonosmith.core.artefacts import default_artefacts
    from phonosmith.core.reading import read_bounded
    from phonosmith.evaluation.phonons.documents import PhononDoc

    try:
        document = PhononDoc.model_validate_json(read_bounded(source))
    except ValidationError as error:
        raise InputError(f"{source} is no phonon document: {error}.", "Give phonons.json or phonopy.yaml.") from error
    return harmonic_from_document(document, artefacts or default_artefacts(), nac=nac)


def _open_phonopy(source: Path, symprec: float = SYMPREC, *, nac: bool = False) -> Phonopy:
    """Return cells and forces of a phonopy file, before force constants are made."""
    from phonosmith.harmonic.files import load_phonopy
    from phonosmith.harmonic.writing import attach_plain_force_sets

    with warnings.catch_warnings():
        # near-cubic supercells of hexagonal crystals have fewer rotations than the crystal; that is meant
        warnings.filterwarnings("ignore", message="Warning: Point group symmetries")
        phonon = load_phonopy(source, is_nac=nac, symprec=symprec, produce=False)
    if phonon.force_constants is None and (phonon.dataset is None or missing_forces(phonon.dataset)):
        attach_plain_force_sets(phonon, source)
    return phonon


def _with_force_constants(phonon: Phonopy, fc_calculator: FcCalculator, source: str) -> HarmonicModel:
    """Make force constants where there are forces (both sides of a comparison then get them alike), else take them."""
    if phonon.dataset is not None and not missing_forces(phonon.dataset):
        return HarmonicModel(phonon, make_force_constants(phonon, fc_calculator, source), source)
    if phonon.force_constants is None:
        raise InputError(
            f"{source} has neither forces nor force constants, and none lie beside it.",
            "Put FORCE_SETS beside it or save phonopy.yaml with forces.",
        )
    check_force_constants(phonon, source)
    return HarmonicModel(phonon, "given", source)


def load_harmonic(
    path: str | Path,
    *,
    fc_calculator: FcCalculator = "symfc",
    symprec: float = SYMPREC,
    nac: bool = False,
    artefacts: ArtefactStore | None = None,
) -> HarmonicModel:
    """Read a harmonic model from phonopy's files or from the JSON of a stored `PhononDoc`.

    Forces are turned into force constants here; force constants that were stored are taken as they are.

    Parameters
    ----------
    path
        ``phonopy.yaml`` (plain or compressed, forces inside or in FORCE_SETS beside it), a folder with one, or a
        document ``*.json``.
    fc_calculator
        How force constants are made from forces.
    symprec
        Symmetry tolerance, Å.
    nac
        Use Born charges (dipole-dipole term).
    artefacts
        Where a document's force constants are; default this installation's store.

    Raises
    ------
    InputError
        Naming the file, when forces or force constants are missing, not finite or of another supercell.
    """
    source = Path(path)
    if ".json" in source.suffixes:
        return _load_document(source, artefacts, nac=nac)
    return _with_force_constants(_open_phonopy(source, symprec, nac=nac), fc_calculator, str(source))


def load_pair(
    reference: str | Path, candidate: str | Path, calculator: str = "auto"
) -> tuple[HarmonicModel, HarmonicModel]:
    """Read both sides of a comparison with force constants made in one way.

    Parameters
    ----------
    reference, candidate
        See `load_harmonic`.
    calculator
        ``traditional``, ``symfc`` or ``auto``. ``auto`` takes forces as they are (traditional, as published figures do)
        unless one side was stored as force constants from symfc; then symfc serves both.
    """
    if calculator not in {"auto", "traditional", "symfc"}:
        raise InputError(f"Unknown force-constants calculator {calculator!r}.", "Choose auto, traditional or symfc.")
    from phonosmith.harmonic.matching import require_same_formula
    from phonosmith.reference.importers.identity import quick_formula

    paths = (Path(reference), Path(candidate))
    # a misplaced file is told from its first lines, before the expensive part
    seen = [quick_formula(path) if path.is_file() and ".json" not in path.suffixes else None for path in paths]
    if seen[0] and seen[1]:
        require_same_formula(seen[0], seen[1], str(reference), str(candidate))
    opened = [_load_document(p, None, nac=False) if ".json" in p.suffixes else _open_phonopy(p) for p in paths]
    stored = {side.fc_calculator for side in opened if isinstance(side, HarmonicModel)}
    fit: FcCalculator = (
        "symfc" if calculator == "symfc" or (calculator == "auto" and "symfc" in stored) else "traditional"
    )
    first, second = (
        side if isinstance(side, HarmonicModel) else _with_force_constants(side, fit, str(path))
        for side, path in zip(opened, paths, strict=True)
    )
    return first, second
