"""Lattice thermal conductivity in the relaxation-time approximation (phono3py, extra ``kappa``) and its error measures.

SRE and SRME are the figures of the matbench-discovery phonon benchmark (Póta et al., arXiv:2408.00755):
SRE = 2 (κ_ML - κ_ref)/(κ_ML + κ_ref) from totals, SRME = 2 Σ|κ_ML(q,s) - κ_ref(q,s)| / (κ_ML + κ_ref) from modes. Both
are 2 in size at worst, and SRME is set to 2 where the potential has imaginary modes or breaks the symmetry.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from phonosmith.core.document import Document, Missing
from phonosmith.core.errors import ConfigurationError, InputError, MismatchError
from phonosmith.core.hashing import digest_structure
from phonosmith.core.manifest import Manifest, recorded
from phonosmith.harmonic.files import safe_tree
from phonosmith.harmonic.fit import DETERMINED
from phonosmith.harmonic.model import SYMPREC, atoms_of, composition_of
from phonosmith.harmonic.nac import charges_of, checked_charges

if TYPE_CHECKING:
    from ase import Atoms
    from phono3py import Phono3py
    from pymatgen.core import Structure

    from phonosmith.harmonic.model import HarmonicModel
    from phonosmith.potentials.base import Potential

ThirdOrderCells = Literal["pairs", "random"]
WORST_SRME = 2.0
DISTANCE = 0.03
"""Å, phono3py's default."""
MOST_ATOMS_TRIED = 150
"""Supercells larger than this keep no force constants of third order twice: 0.7 GB each."""
Array = NDArray[np.float64]


class ConductivityResult(Document):
    """Thermal conductivity of one crystal at one temperature."""

    temperature: float = Field(description="K")
    mesh: tuple[int, int, int] = Field(description="q-point mesh")
    tensor: list[float] = Field(description="κ in Voigt order xx yy zz yz xz xy, W/(m K)")
    kappa: float = Field(description="a third of the trace, W/(m K)")
    mode_kappa: list[list[float]] = Field(
        description="contribution of each irreducible q-point (all arms of its star) and branch to kappa, W/(m K)"
    )
    n_imaginary: int = Field(description="modes below the cutoff frequency that phono3py left out, acoustic at Γ aside")


class KappaDoc(Document):
    """Thermal conductivity of one crystal by one potential, or by the reference."""

    formula: str = Field(description="reduced formula")
    method: str = Field(description="name of the potential or functional")
    supercell_matrix: list[list[int]] = Field(description="supercell of second and third order")
    result: ConductivityResult = Field(description="conductivity")
    srme: float | None = Field(None, description="error mode by mode against a reference, 0 to 2, where one is known")
    missing: list[Missing] = Field(default_factory=list, description="displaced cells without forces, and why")
    manifest: Manifest = Field(description="provenance")


def sre(kappa: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """Return the symmetric relative error 2 (κ - κ_ref)/(κ + κ_ref), between -2 and 2."""
    ml, ref = np.asarray(kappa, dtype=float), np.asarray(reference, dtype=float)
    if np.any(ml < 0) or np.any(ref <= 0):
        raise InputError("Conductivities must be positive.", "Leave out materials without a conductivity.")
    return np.asarray(2 * (ml - ref) / (ml + ref))


def srme(modes: ArrayLike | None, reference_modes: ArrayLike) -> float:
    """Return the symmetric relative mean error of mode-resolved conductivities, between 0 and 2.

    Contributions of each q-point and branch are in W/(m K), on the same irreducible q-points; None where the potential
    has no stable phonons (gives 2).
    """
    if modes is None:
        return WORST_SRME
    ml, ref = np.asarray(modes, dtype=float), np.asarray(reference_modes, dtype=float)
    if ml.shape != ref.shape:
        message = f"Mode conductivities have shapes {ml.shape} and {ref.shape}."
        raise MismatchError(message, "Use one mesh and one primitive cell.")
    if not (np.isfinite(ml).all() and ml.sum() > 0):
        return WORST_SRME
    return float(2 * np.abs(ml - ref).sum() / (ml.sum() + ref.sum()))


def relaxation_time_conductivity(
    phonon: Phono3py, mesh: tuple[int, int, int], temperature: float = 300.0
) -> ConductivityResult:
    """Return the conductivity at a temperature (K) of a Phono3py object with ``fc2`` and ``fc3``."""
    if phonon.fc3 is None or phonon.fc2 is None:
        raise InputError("The Phono3py object has no force constants.", "Call produce_fc2() and produce_fc3() first.")
    phonon.mesh_numbers = list(mesh)
    phonon.init_phph_interaction()
    phonon.run_thermal_conductivity(temperatures=[temperature])
    conductivity = phonon.thermal_conductivity
    tensor = np.asarray(conductivity.kappa, dtype=float)[0, 0]
    # axes: smearing, temperature, irreducible q, branch, Voigt component; summed over the star of each q
    modes = np.asarray(conductivity.mode_kappa, dtype=float)[0, 0][..., :3].mean(axis=-1) / np.prod(mesh)
    return ConductivityResult(
        temperature=temperature,
        mesh=mesh,
        tensor=tensor.tolist(),
        kappa=float(tensor[:3].mean()),
        mode_kappa=modes.tolist(),
        n_imaginary=max(0, int(np.sum(conductivity.number_of_ignored_phonon_modes)) - 3),
    )


def read_phono3py(path: str | Path) -> Phono3py:
    """Return cells, displacements, forces and charges of a phono3py YAML, with force constants made from the forces.

    Forces come from the YAML itself (``phono3py_params.yaml``), else from ``FORCES_FC3`` (and ``FORCES_FC2``) beside
    it; nothing is taken from the folder the process runs in.
    """
    phono3py_class()
    from phono3py.file_IO import parse_FORCES_FC2, parse_FORCES_FC3
    from phono3py.interface.phono3py_yaml import Phono3pyYamlLoader

    source = Path(path)
    try:
        data = Phono3pyYamlLoader(safe_tree(source)).parse().data
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise InputError(f"{source} cannot be understood: {type(error).__name__} {error}.", "Is it whole?") from error
    if data.unitcell is None or data.dataset is None:
        raise InputError(f"{source} holds no pairs of displacements.", "Give phono3py_params.yaml with forces.")
    phonon = phono3py_class()(
        data.unitcell,
        data.supercell_matrix,
        primitive_matrix="auto" if data.primitive_matrix is None else data.primitive_matrix,
        phonon_supercell_matrix=data.phonon_supercell_matrix,
        symprec=SYMPREC,
        calculator=data.calculator,
        log_level=0,
    )
    written = ((data.dataset, "FORCES_FC3", parse_FORCES_FC3), (data.phonon_dataset, "FORCES_FC2", parse_FORCES_FC2))
    for dataset, name, parse in written:
        if dataset is None or _has_forces(dataset):
            continue
        if not (file := source.with_name(name)).is_file():
            raise InputError(
                f"{source} has displacements without forces, and no {name} lies beside it.",
                "Save phono3py_params.yaml with forces (phono3py --cf3 ... --sp), or put the file there.",
            )
        try:
            parse(dataset, filename=file)
        except Exception as error:
            raise MismatchError(f"{file} does not fit {source}: {error}.", "They belong together.") from error
    phonon.dataset = data.dataset
    if data.phonon_dataset is not None:
        phonon.phonon_dataset = data.phonon_dataset
    if data.nac_params is not None:
        phonon.nac_params = checked_charges(data.nac_params, phonon, str(source))
    _produce(phonon)
    return phonon


def _has_forces(dataset: Any) -> bool:
    return "forces" in dataset or ("first_atoms" in dataset and "forces" in dataset["first_atoms"][0])


def _produce(phonon: Phono3py) -> None:
    """Make force constants of second and third order, translations and permutations imposed, alike for everybody."""
    if "displacements" in phonon.dataset:
        # second order beside third: alone it would take up what third order makes of large displacements
        phonon.produce_fc3(fc_calculator="symfc")
        if phonon.phonon_supercell_matrix is not None:
            phonon.produce_fc2(fc_calculator="symfc")
        return
    phonon.produce_fc3()
    phonon.symmetrize_fc3()
    phonon.produce_fc2()
    phonon.symmetrize_fc2()


def phono3py_class() -> type[Phono3py]:
    """Return phono3py's class; ConfigurationError where the package is not installed."""
    try:
        from phono3py import Phono3py
    except ImportError as error:
        raise ConfigurationError(
            "Thermal conductivity needs phono3py.", "Install it with: pip install 'phonosmith[kappa]'."
        ) from error
    return Phono3py


def conductivity_error(candidate: ConductivityResult, reference: ConductivityResult) -> float:
    """Return SRME of two conductivities; 2 where the candidate has imaginary modes, as the benchmark has it."""
    if candidate.n_imaginary > reference.n_imaginary:
        return WORST_SRME
    return srme(candidate.mode_kappa, reference.mode_kappa)


def kappa_document(phonon: Phono3py, manifest: Manifest, *, method: str, mesh: int, temperature: float) -> KappaDoc:
    """Return the document of a crystal with force constants, whoever computed the forces, at a temperature (K)."""
    return KappaDoc(
        formula=str(composition_of(phonon.unitcell).reduced_formula),
        method=method,
        supercell_matrix=phonon.supercell_matrix.tolist(),
        result=relaxation_time_conductivity(phonon, (mesh, mesh, mesh), temperature),
        manifest=manifest,
    )


def evaluate_kappa(
    structure: Structure,
    potential: Potential,
    supercell_matrix: list[list[int]],
    *,
    method: str = "",
    mesh: int = 11,
    temperature: float = 300.0,
    cells: ThirdOrderCells = "pairs",
    charges: HarmonicModel | None = None,
) -> KappaDoc:
    """Return the conductivity of a relaxed crystal by a potential at a temperature (K).

    ``cells`` see `third_order_cells`; ``charges``: phonons with the Born charges of the non-analytic term.
    """
    phono3py_class()
    atoms = structure.to_ase_atoms(msonable=False)
    settings = {"supercell": supercell_matrix, "mesh": mesh, "temperature": temperature, "cells": cells}
    with recorded({"structure": digest_structure(atoms)}, settings) as manifest:
        phonon = third_order_phonon(atoms, potential, supercell_matrix, cells=cells)
        with_charges(phonon, charges)
        return kappa_document(phonon, manifest, method=method, mesh=mesh, temperature=temperature)


def third_order_cells(
    unitcell: Atoms,
    supercell_matrix: ArrayLike,
    *,
    like: Phono3py | None = None,
    cells: ThirdOrderCells = "pairs",
    distance: float = DISTANCE,
) -> Phono3py:
    """Return a Phono3py object of a relaxed cell with the displacements whose forces are wanted.

    The supercell matrix serves second and third order, ``distance`` is the displacement in Å. What ``like`` has instead
    (primitive cell, larger second-order supercell) is taken from there, so that modes can be compared. ``cells``: every
    pair of displacements that symmetry leaves, or as many cells with all atoms displaced at random as phono3py
    estimates symfc's fit to need, always the same ones: far fewer where the symmetry is low.
    """
    from phonopy.structure.atoms import PhonopyAtoms

    cell = PhonopyAtoms(
        symbols=unitcell.get_chemical_symbols(),
        cell=unitcell.cell.array,
        scaled_positions=unitcell.get_scaled_positions(),
    )
    phonon = phono3py_class()(
        cell,
        np.asarray(supercell_matrix, dtype=int),
        primitive_matrix="auto" if like is None else like.primitive_matrix,
        phonon_supercell_matrix=None if like is None else like.phonon_supercell_matrix,
        symprec=SYMPREC,
        log_level=0,
    )
    several = {"number_of_snapshots": "auto", "random_seed": 0} if cells == "random" else {}
    phonon.generate_displacements(distance=distance, **several)
    if phonon.phonon_supercell_matrix is not None:
        phonon.generate_fc2_displacements(distance=distance)
    return phonon


def displaced_frames(phonon: Phono3py) -> list[Atoms]:
    """Return the displaced cells of third order, then those of second order where that has a larger supercell."""
    moved = [cell for cell in phonon.supercells_with_displacements if cell is not None]
    if phonon.phonon_supercell_matrix is not None:
        moved += phonon.phonon_supercells_with_displacements
    return [atoms_of(cell) for cell in moved]


def set_forces(phonon: Phono3py, forces: Sequence[ArrayLike | None], where: str = "The data set") -> list[int]:
    """Make force constants from the forces (eV/Å) in `displaced_frames`; return the numbers (from 1) of those without.

    Pairs of displacements without forces (None) are left out where the others determine force constants of second and
    third order all the same, which symfc then fits.

    Raises
    ------
    MismatchError
        When they do not, when second order has a supercell of its own, or when the displacements are random: these are
        so few that fourth order, no longer averaged out, would change kappa by a tenth and more.
    """
    kept = [number for number, one in enumerate(forces) if one is not None]
    lost = [number + 1 for number, one in enumerate(forces) if one is None]
    third = sum(cell is not None for cell in phonon.supercells_with_displacements)
    if lost:
        spare = "first_atoms" in phonon.dataset and phonon.phonon_supercell_matrix is None
        if not spare or not _still_determined(phonon, kept):
            raise MismatchError(
                f"{where}: displaced cells {', '.join(map(str, lost))} of {len(forces)} have no forces, and the others "
                "do not determine the force constants well enough.",
                "Repair the cause and run these calculations again.",
            )
        known = np.array([forces[number] for number in kept], dtype=float)
        phonon.dataset = {"displacements": _moved(phonon)[kept], "forces": known}
    else:
        phonon.forces = np.array(forces[:third], dtype=float)
        if phonon.phonon_supercell_matrix is not None:
            phonon.phonon_forces = np.array(forces[third:], dtype=float)
    _produce(phonon)
    return lost


def _moved(phonon: Phono3py) -> Array:
    """Return the displacements (cells, atoms, 3) of `displaced_frames`, Å."""
    rest = phonon.supercell.positions
    return np.array([atoms.positions - rest for atoms in displaced_frames(phonon)])


def _still_determined(phonon: Phono3py, kept: list[int]) -> bool:
    """Tell whether some displaced cells determine the force constants as all do.

    It is tried as `harmonic.fit.still_determined` does: force constants without meaning give forces, and are fitted
    again to those in the cells that are left.
    """
    if not kept or len(phonon.supercell) > MOST_ATOMS_TRIED:
        return False
    moved = _moved(phonon)

    def fitted(displacements: Array, forces: Array) -> tuple[Array, Array]:
        copy = phono3py_class()(
            phonon.unitcell, phonon.supercell_matrix, primitive_matrix=phonon.primitive_matrix, symprec=SYMPREC,
            log_level=0,
        )  # fmt: skip
        copy.dataset = {"displacements": displacements, "forces": forces}
        copy.produce_fc3(fc_calculator="symfc", is_compact_fc=False)
        return np.asarray(copy.fc2), np.asarray(copy.fc3)

    second, third = fitted(moved, np.random.default_rng(0).normal(size=moved.shape))
    some = moved[kept]
    forces = (
        -np.einsum("ijab,njb->nia", second, some)
        - np.einsum("ijkabc,njb,nkc->nia", third, some, some, optimize=True) / 2
    )
    try:
        again = fitted(some, forces)
    except np.linalg.LinAlgError:
        return False
    pairs = zip(again, (second, third), strict=True)
    return all(bool(np.abs(one - true).max() <= DETERMINED * np.abs(true).max()) for one, true in pairs)


def with_charges(phonon: Phono3py, charges: HarmonicModel | None) -> None:
    """Give a conductivity the Born charges of phonons of the same crystal, where there are some."""
    if charges is not None:
        phonon.nac_params = charges_of(charges.phonon, phonon, charges.source)


def third_order_phonon(
    unitcell: Atoms,
    potential: Potential,
    supercell_matrix: ArrayLike,
    *,
    like: Phono3py | None = None,
    cells: ThirdOrderCells = "pairs",
    progress: bool = False,
) -> Phono3py:
    """Return a Phono3py object of a relaxed cell, its force constants from a potential in one batch.

    For the arguments see `third_order_cells`; charges are taken from ``like``, too.
    """
    phonon = third_order_cells(unitcell, supercell_matrix, like=like, cells=cells)
    results = potential.evaluate(displaced_frames(phonon), stress=False, progress=progress)
    set_forces(phonon, [result.forces for result in results])
    if like is not None and like.nac_params is not None:
        phonon.nac_params = like.nac_params
    return phonon
