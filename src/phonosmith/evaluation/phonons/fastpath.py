"""Phonons of a potential in one go: relax, displace, evaluate every displaced cell in one batch, fit, judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from phonosmith.core.errors import InputError
from phonosmith.core.hashing import digest_json
from phonosmith.core.manifest import recorded
from phonosmith.evaluation.phonons.mesh import DEFAULT_MESH, Mesh
from phonosmith.evaluation.phonons.summary import summarise_phonons
from phonosmith.evaluation.relax import FMAX, relax_atoms
from phonosmith.harmonic.displacements import check_forces
from phonosmith.harmonic.files import add_charges
from phonosmith.harmonic.fit import FcCalculator, make_force_constants
from phonosmith.harmonic.model import SYMPREC, HarmonicModel, atoms_of, new_phonon, to_phonopy_atoms
from phonosmith.structures.supercell import MOST_ATOMS, SupercellRule, phonon_supercell

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ase import Atoms
    from phonopy import Phonopy
    from pymatgen.core import Structure

    from phonosmith.evaluation.phonons.documents import PhononDoc
    from phonosmith.potentials.base import Potential
    from phonosmith.potentials.documents import PotentialRef
    from phonosmith.structures.magnetic import MagneticOrder

DISPLACEMENT = 0.01
"""Å, phonopy's default and that of the published DFT reference."""


@dataclass(frozen=True)
class PhononResult:
    """Phonons of one crystal with one potential.

    ``model.phonon`` holds (relaxed) cell, displacements, forces and force constants, ``document`` is what is stored.
    """

    model: HarmonicModel
    document: PhononDoc


def parse_supercell(text: str) -> list[list[int]]:
    """Read ``"4 4 4"`` or nine integers (rows of phonopy's matrix) into a 3x3 integer matrix.

    >>> parse_supercell("2 2 1")
    [[2, 0, 0], [0, 2, 0], [0, 0, 1]]
    """
    try:
        numbers = [int(word) for word in text.replace(",", " ").replace("x", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) == 3 and min(numbers) > 0 and max(numbers) <= MOST_ATOMS:
        return np.diag(numbers).tolist()
    small = max(map(abs, numbers), default=0) <= MOST_ATOMS
    if len(numbers) == 9 and small and round(np.linalg.det(np.array(numbers).reshape(3, 3))) > 0:
        return np.array(numbers).reshape(3, 3).tolist()
    raise InputError(
        f"{text!r} is no supercell.", 'Give three positive integers as in "4 4 4", or nine with a positive determinant.'
    )


def choose_phonon_supercell(structure: Structure, min_length: float, rule: SupercellRule = "cubic") -> list[list[int]]:
    """Return phonopy's matrix of a supercell with edges of at least ``min_length`` Å, cubic as published or compact."""
    if not np.isfinite(min_length) or min_length <= 0:
        raise InputError(f"A minimum length of {min_length} Å is not positive.", "Give e.g. 20.")
    return phonon_supercell(structure, min_length, rule=rule).phonopy_matrix


def displaced_cells(phonon: Phonopy, displacement: float = DISPLACEMENT) -> list[Atoms]:
    """Generate symmetry-reduced displacements in ``phonon`` and return the displaced cells as ASE atoms."""
    phonon.generate_displacements(distance=displacement)
    return [atoms_of(cell) for cell in phonon.supercells_with_displacements]


def harmonic_from_potential(
    structure: Structure,
    potential: Potential,
    supercell_matrix: Sequence[Sequence[int]],
    *,
    displacement: float = DISPLACEMENT,
    fc_calculator: FcCalculator = "symfc",
    source: str = "potential",
    order: MagneticOrder | None = None,
    progress: bool = False,
) -> HarmonicModel:
    """Return the harmonic model of a structure as it is, all displaced cells evaluated in one call.

    For the arguments see :func:`harmonics_from_potential`.
    """
    (model,) = harmonics_from_potential(
        [structure],
        potential,
        supercell_matrix,
        displacement=displacement,
        fc_calculator=fc_calculator,
        source=source,
        order=order,
        progress=progress,
    )
    return model


def harmonics_from_potential(
    structures: Sequence[Structure],
    potential: Potential,
    supercell_matrix: Sequence[Sequence[int]],
    *,
    displacement: float = DISPLACEMENT,
    fc_calculator: FcCalculator = "symfc",
    source: str = "potential",
    order: MagneticOrder | None = None,
    progress: bool = False,
) -> list[HarmonicModel]:
    """Return the harmonic models of structures as they are, the displaced cells of all evaluated in one call.

    ``supercell_matrix`` is phonopy's, ``displacement`` is in Å, ``source`` names the potential in messages and files,
    ``order`` keeps the magnetic cell and its symmetry, ``progress`` shows a bar.
    """
    phonons = [new_phonon(to_phonopy_atoms(structure, order), supercell_matrix) for structure in structures]
    cells = [displaced_cells(phonon, displacement) for phonon in phonons]
    evaluated = iter(potential.evaluate([one for some in cells for one in some], stress=False, progress=progress))
    models = []
    for phonon, some in zip(phonons, cells, strict=True):
        forces = [next(evaluated).forces for _ in some]
        phonon.forces = check_forces(forces, len(phonon.supercell), source)
        models.append(HarmonicModel(phonon, make_force_constants(phonon, fc_calculator, source), source))
    return models


def evaluate_phonons(
    structure: Structure,
    potential: Potential,
    *,
    supercell_matrix: Sequence[Sequence[int]] | None = None,
    min_length: float | None = None,
    relax: bool = True,
    mesh: Mesh = DEFAULT_MESH,
    temperatures: Sequence[float] = (300.0,),
    displacement: float = DISPLACEMENT,
    fc_calculator: FcCalculator = "symfc",
    fmax: float = FMAX,
    steps: int = 500,
    ref: PotentialRef | None = None,
    born: Path | None = None,
    order: MagneticOrder | None = None,
    progress: bool = False,
) -> PhononResult:
    """Relax a crystal with its symmetry kept and compute its harmonic phonons.

    Parameters
    ----------
    supercell_matrix, min_length
        phonopy's matrix, to stay comparable with a reference; or the shortest edge of a near-cubic one, Å (20 without
        both).
    mesh, temperatures, displacement
        For thermodynamics and means, temperatures in K; Å.
    relax, fmax, steps
        Whether cell and positions are relaxed first, to which largest force (eV/Å) and in how many steps.
    ref
        Identity of the potential for the document.
    born
        File of Born charges and dielectric constant for the non-analytic term, see `add_charges`.
    order
        Magnetic order of the reference, whose cell and symmetry the phonons then have; a potential knows no moments.

    Raises
    ------
    ConvergenceError
        When the relaxation does not reach ``fmax``.
    """
    if supercell_matrix is not None and min_length is not None:
        raise InputError("Both a supercell and a minimum length were given.", "Give one of them.")
    made = {"displacement": displacement, "fc_calculator": fc_calculator, "symprec": SYMPREC}
    settings = made | {"relax": relax, "fmax": fmax}
    relaxation = None
    with recorded({"potential": ref.sha256} if ref is not None else {}, settings) as manifest:
        if relax:
            relaxation = relax_atoms(structure.to_ase_atoms(msonable=False), potential, fmax=fmax, steps=steps)
            structure = structure.from_ase_atoms(relaxation.atoms)
        if supercell_matrix is None:
            supercell_matrix = choose_phonon_supercell(structure, 20.0 if min_length is None else min_length)
        model = harmonic_from_potential(
            structure,
            potential,
            supercell_matrix,
            displacement=displacement,
            fc_calculator=fc_calculator,
            source=ref.name if ref is not None else potential.architecture,
            order=order,
            progress=progress,
        )
        if born is not None:
            add_charges(model.phonon, born)
            manifest.inputs["born"] = digest_json(
                {name: np.asarray(value).tolist() for name, value in model.phonon.nac_params.items()}
            )
        document = summarise_phonons(model, manifest, mesh=mesh, temperatures=temperatures, potential=ref)
    if relaxation is not None:
        document.energy, document.relaxation = relaxation.energy, relaxation.summary()
    return PhononResult(model, document)
