"""The harmonic model of one crystal: cells, symmetry, force constants, and the form in which they are stored."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import ArtefactError, InputError, MismatchError
from phonosmith.structures.supercell import MOST_ATOMS, require_buildable

if TYPE_CHECKING:
    from ase import Atoms
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms
    from pymatgen.core import Composition, Structure

    from phonosmith.core.artefacts import ArtefactRef, ArtefactStore
    from phonosmith.structures.magnetic import MagneticOrder

Array = NDArray[np.float64]
SYMPREC = 1e-4
"""Å; relaxed cells carry more noise than phonopy's 1e-5 allows."""
FORMAT = "phonosmith-force-constants-1"
LEAST_FORCE_CONSTANT = 1e-3
"""eV/Å²; the softest bonds there are, between helium atoms, are near 0.1."""
NAC_FACTOR = 14.399652
"""e²/(4πε0) in eV Å, phonopy's value for VASP."""


@dataclass
class HarmonicModel:
    """A Phonopy object with force constants, and how they came about.

    ``fc_calculator`` is ``symfc``, ``traditional`` or ``given`` (force constants were read, not made), ``source`` the
    file or name they come from, ``asr_residual`` that of `acoustic_sum_residual` in eV/Å².
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
        return str(composition_of(self.phonon.primitive).reduced_formula)

    @property
    def space_group(self) -> tuple[str, int]:
        """International symbol and number of the unit cell at phonopy's tolerance, moments of atoms left aside."""
        from phonopy.structure.symmetry import Symmetry

        unit, known = self.phonon.unitcell, self.phonon.symmetry
        if unit.magnetic_moments is not None:
            plain = type(unit)(numbers=unit.numbers, cell=unit.cell, scaled_positions=unit.scaled_positions)
            known = Symmetry(plain, symprec=known.tolerance)
        return str(known.dataset.international), int(known.dataset.number)


def composition_of(cell: PhonopyAtoms) -> Composition:
    """Return the composition of a cell."""
    from pymatgen.core import Composition

    return Composition(Counter(cell.symbols))


def require_same_formula(reference: str, candidate: str, first: str, second: str) -> None:
    """Raise MismatchError unless two reduced formulas are the same; ``first`` and ``second`` name their sources."""
    if reference != candidate:
        raise MismatchError(
            f"Composition mismatch: {first} is {reference}, {second} is {candidate}.",
            "Compare phonons of the same material; one of the files is misplaced.",
        )


def new_phonon(
    unitcell: PhonopyAtoms,
    supercell_matrix: Any,
    primitive_matrix: Any = "auto",
    symprec: float = SYMPREC,
    calculator: str | None = None,
) -> Phonopy:
    """Return a Phonopy object; a supercell matrix that is not an integer multiple is refused."""
    from phonopy import Phonopy

    matrix = np.array(supercell_matrix, dtype=float)
    matrix = np.diag(matrix) if matrix.shape == (3,) else matrix
    whole = matrix.shape == (3, 3) and np.all(np.abs(matrix) <= MOST_ATOMS)
    if not whole or not np.allclose(matrix, np.rint(matrix), atol=1e-6):
        raise InputError(
            f"The supercell matrix {np.array(supercell_matrix).tolist()} is no integer multiple of the cell.",
            f"Give three integers or a 3x3 matrix of integers, none above {MOST_ATOMS}.",
        )
    multiple = round(abs(float(np.linalg.det(matrix))))
    if multiple < 1:
        raise InputError(f"The supercell matrix {matrix.tolist()} is singular.", "Its rows must be independent.")
    require_buildable(multiple * len(unitcell))
    masses = np.asarray(unitcell.masses, dtype=float)
    if not (
        np.all((masses > 0) & (masses < np.inf)) and np.isfinite([*unitcell.cell, *unitcell.scaled_positions]).all()
    ):
        raise InputError(
            "The cell, the positions or the masses of the unit cell are no finite numbers.", "Write the file again."
        )
    with warnings.catch_warnings():
        # phonopy 4 warns that "auto" is its new default even where it is asked for by name
        warnings.simplefilter("ignore")
        return Phonopy(
            unitcell,
            np.rint(matrix).astype(int),
            primitive_matrix="auto" if primitive_matrix is None else primitive_matrix,
            symprec=symprec,
            calculator=calculator,
        )


def to_phonopy_atoms(structure: Structure, order: MagneticOrder | None = None) -> PhonopyAtoms:
    """Return a pymatgen structure as phonopy atoms, in the same order; with moments, symmetry is magnetic."""
    from phonopy.structure.atoms import PhonopyAtoms

    symbols = [site.specie.symbol for site in structure]
    moments = None if order is None else order.moments_in(symbols, structure.lattice.matrix, structure.cart_coords)
    return PhonopyAtoms(
        symbols=symbols,
        cell=structure.lattice.matrix,
        scaled_positions=structure.frac_coords,
        magnetic_moments=moments,
    )


def to_structure(cell: PhonopyAtoms) -> Structure:
    """Return phonopy atoms as a pymatgen structure, in the same order."""
    from pymatgen.core import Structure

    return Structure(cell.cell, cell.symbols, cell.scaled_positions)


def atoms_of(cell: PhonopyAtoms) -> Atoms:
    """Return phonopy atoms as ASE Atoms, in the same order."""
    from ase import Atoms

    return Atoms(cell.symbols, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True)


def check_force_constants(constants: Any, phonon: Phonopy, where: str) -> Array:
    """Return force constants as an array; refuse those that are missing, zero, not finite or of another supercell."""
    if constants is None:
        raise InputError(f"{where} has no force constants.", "Give forces or force constants.")
    values = np.asarray(constants, dtype=float)
    n_super, n_prim = len(phonon.supercell), len(phonon.primitive)
    if values.shape not in {(n_prim, n_super, 3, 3), (n_super, n_super, 3, 3)}:
        raise MismatchError(
            f"{where}: force constants of shape {values.shape} do not belong to a supercell of {n_super} atoms "
            f"({n_prim} in the primitive cell).",
            "Give the force constants of this supercell.",
        )
    if not np.isfinite(values).all():
        raise InputError(f"{where}: force constants are not finite.", "Repeat the calculation they come from.")
    if np.abs(values).max(initial=0.0) < LEAST_FORCE_CONSTANT:
        raise InputError(
            f"{where}: all force constants are zero (below {LEAST_FORCE_CONSTANT} eV/Å²): nothing holds the atoms.",
            "Look at the forces they come from: were they written, in eV/Å?",
        )
    return values


def compact_force_constants(phonon: Phonopy) -> Array:
    """Return force constants between primitive-cell atoms and all supercell atoms, eV/Å², shape (n_p, n_s, 3, 3)."""
    constants = np.asarray(phonon.force_constants, dtype=float)
    if constants.shape[0] == constants.shape[1] and len(phonon.primitive) != len(phonon.supercell):
        return np.ascontiguousarray(constants[phonon.primitive.p2s_map])
    return constants


def full_force_constants(phonon: Phonopy) -> Array:
    """Return force constants between all supercell atoms, eV/Å², shape (n_s, n_s, 3, 3)."""
    from phonopy.harmonic.force_constants import compact_fc_to_full_fc

    constants = np.asarray(phonon.force_constants, dtype=float)
    if constants.shape[0] == constants.shape[1]:
        return constants
    return np.asarray(compact_fc_to_full_fc(phonon.primitive, constants), dtype=float)


def acoustic_sum_residual(phonon: Phonopy) -> float:
    """Return how far a rigid shift is from costing nothing: the largest |Σ_j Φ_iα,jβ| or |Σ_i Φ_iα,jβ|, eV/Å².

    Both sums are needed: direct (traditional) force constants need not be symmetric, so one may vanish alone.
    """
    constants = compact_force_constants(phonon)
    rows = constants.sum(axis=1)
    # by translation, the sum over all first atoms for one second atom runs over all images of that second atom
    sublattice = np.array([phonon.primitive.p2p_map[i] for i in phonon.primitive.s2p_map])
    columns = [constants[:, sublattice == j].sum(axis=(0, 1)) for j in range(len(phonon.primitive))]
    return float(max(np.abs(rows).max(), np.abs(columns).max()))


def pack_force_constants(model: HarmonicModel) -> bytes:
    """Return everything needed to rebuild the model as compressed npz bytes (compact force constants, cells, NAC)."""
    phonon, unit, nac = model.phonon, model.phonon.unitcell, model.phonon.nac_params
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
    if unit.magnetic_moments is not None:
        content["magnetic_moments"] = np.asarray(unit.magnetic_moments, dtype=float)
    if nac is not None:
        content |= {name: np.asarray(nac[name]) for name in ("born", "dielectric")}
        content["nac_factor"] = np.array(nac.get("factor", NAC_FACTOR))
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
    known = ("numbers", "cell", "scaled_positions", "masses", "magnetic_moments")
    unit = PhonopyAtoms(**{name: content[name] for name in known if name in content})
    phonon = new_phonon(unit, content["supercell_matrix"], content["primitive_matrix"], float(content["symprec"]))
    phonon.force_constants = check_force_constants(content["force_constants"], phonon, "the artefact")
    if nac and "born" in content:
        factor = float(content["nac_factor"])
        phonon.nac_params = {"born": content["born"], "dielectric": content["dielectric"], "factor": factor}
    return HarmonicModel(phonon, str(content["fc_calculator"]), str(content["source"]))


def store_force_constants(model: HarmonicModel, artefacts: ArtefactStore) -> ArtefactRef:
    """Keep a model's force constants in the artefact store."""
    return artefacts.put_bytes(pack_force_constants(model), kind="force_constants", suffix=".npz")
