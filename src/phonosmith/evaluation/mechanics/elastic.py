"""Elastic tensor from strains and stresses: one fit for DFT and potentials, moduli, Born stability, sound velocities.

Deformations and fit are those of atomate2's ElasticMaker (Green-Lagrange strains, second Piola-Kirchhoff stresses,
finite differences over four magnitudes), so that numbers from either route can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import InputError
from phonosmith.core.units import KG_PER_M3_PER_AMU_PER_A3
from phonosmith.evaluation.known import crystal_fields
from phonosmith.evaluation.mechanics.documents import ElasticFit, ElasticModuli, KnownElasticity
from phonosmith.evaluation.mechanics.slack import sound_velocities

if TYPE_CHECKING:
    from pymatgen.analysis.elasticity import ElasticTensor, Strain, Stress
    from pymatgen.core import Structure

Array = NDArray[np.float64]

STRAIN_MAGNITUDES = (-0.01, -0.005, 0.005, 0.01)
SYMPREC = 1e-3
MAX_RESIDUAL = 0.02
"""A fit whose stresses scatter by more than this share of their size is refused."""
SINGULAR = 1e-12
"""Determinant of a 6x6 tensor in GPa below which nothing is derived from its inverse."""


def elastic_deformations(structure: Structure, *, symmetry: bool = True) -> list[Array]:
    """Return the deformation gradients (3x3) ElasticMaker uses for a relaxed cell, reduced by symmetry."""
    from atomate2.common.jobs.elastic import generate_elastic_deformations

    made = generate_elastic_deformations.original(
        structure, strain_magnitudes=list(STRAIN_MAGNITUDES), symprec=SYMPREC, sym_reduce=False
    )
    deformations = [np.array(deformation, dtype=float) for deformation in made]
    return _inequivalent(deformations, structure) if symmetry else deformations


def _inequivalent(deformations: Sequence[Array], structure: Structure) -> list[Array]:
    """Return the first of each set of deformations whose strains a symmetry operation maps onto each other.

    What pymatgen's ``symmetry_reduce`` returns; that one takes more time than everything else in the elastic constants
    of a cheap potential.
    """
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    operations = SpacegroupAnalyzer(structure, SYMPREC).get_symmetry_operations(cartesian=True)
    rotations = np.array([operation.rotation_matrix for operation in operations])
    kept: list[Array] = []
    images = np.empty((0, 3, 3))
    for deformation in deformations:
        strain = 0.5 * (deformation.T @ deformation - np.eye(3))
        if (np.abs(images - strain) < 1e-7).all(axis=(1, 2)).any():
            continue
        kept.append(deformation)
        images = np.concatenate([images, rotations @ strain @ rotations.transpose(0, 2, 1)])
    return kept


def _expand(
    structure: Structure,
    deformations: Sequence[Array],
    stresses: Sequence[Array],
    calculations: Sequence[Mapping[str, Any]],
) -> tuple[list[Strain], list[Stress], list[str | None], list[str | None]]:
    """Return strains, Cauchy stresses, uuids and folders of all symmetry-equivalent strains."""
    from atomate2.common.schemas.elastic import expand_strains
    from pymatgen.analysis.elasticity import Deformation, Stress

    strains = [Deformation(d).green_lagrange_strain for d in deformations]
    uuids, folders = ([one.get(key) for one in calculations or [{}] * len(strains)] for key in ("uuid", "job_dir"))
    expanded: tuple[list[Strain], list[Stress], list[str | None], list[str | None]] = expand_strains(
        structure, strains, [Stress(s) for s in stresses], uuids, folders, SYMPREC
    )
    return expanded


def fit_residual(strains: Array, stresses: Array, directions: Array, equilibrium: Array | None = None) -> float:
    """Return how far stresses scatter about a smooth (quadratic) function of each strain, over their size.

    The stress of the unstrained cell is one more point where it is known.
    A linear elastic crystal gives 0, anharmonicity enters at third order in a 1 % strain (a few 1e-4), noise directly.
    """
    scatter = size = 0.0
    for direction in np.unique(directions):
        along = directions == direction
        x, y = strains[along, direction], stresses[along]
        if equilibrium is not None:
            x, y = np.append(x, 0.0), np.vstack([y, equilibrium])
        if len(x) < 4:
            continue
        design = np.vander(x / np.abs(x).max(), 3)
        coefficients, *_ = np.linalg.lstsq(design, y, rcond=None)
        scatter += ((y - design @ coefficients) ** 2).sum() / (len(x) - 3)
        size += ((y - coefficients[-1]) ** 2).sum() / len(x)
    return float(np.sqrt(scatter / size)) if size > 0 else float("inf")


def fit_elastic(
    structure: Structure,
    deformations: Sequence[Array],
    stresses: Sequence[Array],
    equilibrium_stress: Array | None = None,
    calculations: Sequence[Mapping[str, Any]] = (),
) -> tuple[ElasticFit, KnownElasticity]:
    """Fit the elastic tensor of a relaxed, unstrained cell and judge the fit; also return what atomate2 says of it.

    Deformation gradient and Cauchy stress (GPa, positive = tension) of each strained cell are 3x3, as is the stress of
    the unstrained one where it is known. ``calculations`` have the ``uuid`` and ``job_dir`` of each strained cell that
    a job of its own computed.

    Raises
    ------
    InputError
        When a stress is missing or not finite, or numbers of strains and stresses differ.
    """
    from pymatgen.analysis.elasticity import ElasticTensor, ElasticTensorExpansion, Stress

    if len(deformations) != len(stresses) or not deformations:
        raise InputError(f"{len(deformations)} deformations but {len(stresses)} stresses.", "Rerun the missing ones.")
    if not all(np.isfinite(stress).all() for stress in stresses):
        raise InputError("A stress of the elastic fit is not finite.", "Rerun that deformation; see its document.")
    strains, cauchy, uuids, folders = _expand(structure, deformations, stresses, calculations)
    gradients = [strain.get_deformation_matrix() for strain in strains]
    second = [stress.piola_kirchoff_2(gradient) for stress, gradient in zip(cauchy, gradients, strict=True)]
    base = Stress(np.zeros((3, 3)) if equilibrium_stress is None else equilibrium_stress)
    raw = ElasticTensor(ElasticTensorExpansion.from_diff_fit(strains, second, eq_stress=base, order=2)[0])
    tensor = raw.convert_to_ieee(structure, initial_fit=False)
    matrix = 0.5 * (tensor.voigt + tensor.voigt.T)
    eigenvalues = np.linalg.eigvalsh(matrix)
    stable = bool(eigenvalues[0] > 0)
    along = np.array([strain.voigt for strain in strains])
    residual = fit_residual(
        along,
        np.array([stress.voigt for stress in second]),
        np.abs(along).argmax(axis=1),
        None if equilibrium_stress is None else base.voigt,
    )
    density = float(structure.composition.weight) / structure.volume * KG_PER_M3_PER_AMU_PER_A3
    moduli = average_moduli(matrix) if abs(np.linalg.det(matrix)) >= SINGULAR else None
    v_t, v_l = None, None
    if stable and moduli is not None:
        v_t, v_l = sound_velocities(moduli.bulk_vrh, moduli.shear_vrh, density)
    warnings = []
    if residual > MAX_RESIDUAL:
        warnings.append(
            f"stresses scatter by {100 * residual:.1f} % about a smooth function of strain (limit "
            f"{100 * MAX_RESIDUAL:.0f} %): tighten forces and SCF, the tensor cannot be trusted"
        )
    if not stable:
        warnings.append(f"elastically unstable: lowest eigenvalue {eigenvalues[0]:.2f} GPa")
    fit = ElasticFit(
        tensor=matrix.tolist(),
        moduli=moduli,
        eigenvalues=eigenvalues.tolist(),
        born_stable=stable,
        v_transverse=v_t,
        v_longitudinal=v_l,
        density=density,
        residual=residual,
        reliable=residual <= MAX_RESIDUAL,
        n_deformations=len(deformations),
        equilibrium_stress=float(np.abs(base).max()),
        warnings=warnings,
    )
    data: dict[str, Sequence[Any]] = {
        "strains": strains,
        "deformations": gradients,
        "cauchy_stresses": cauchy,
        "pk_stresses": second,
    }
    known = known_elasticity(structure, raw, None if equilibrium_stress is None else base)
    fitted: dict[str, list[Any] | None] = {name: [one.tolist() for one in tensors] for name, tensors in data.items()}
    fitted["uuids"], fitted["job_dirs"] = (uuids, folders) if calculations else (None, None)
    known.fitting_data = fitted | {"failed_uuids": []}
    return fit, known


def known_elasticity(structure: Structure, raw: ElasticTensor, equilibrium: Stress | None) -> KnownElasticity:
    """Return what atomate2's documents say of a tensor fitted by finite differences."""
    tensors = {"raw": raw, "ieee_format": raw.convert_to_ieee(structure)}
    stiffness = {name: np.asarray(tensor.voigt) for name, tensor in tensors.items()}
    singular = min(abs(np.linalg.det(matrix)) for matrix in stiffness.values()) < SINGULAR
    derived: dict[str, float | None] = {}
    if not singular:
        found = tensors["ieee_format"].get_structure_property_dict(structure, ignore_errors=True)
        derived = {
            name: None if value is None else float(value) for name, value in found.items() if name != "structure"
        }
    return KnownElasticity(
        **crystal_fields(structure),
        structure=structure,
        volume=float(structure.volume),
        elastic_tensor={name: matrix.tolist() for name, matrix in stiffness.items()},
        compliance_tensor=None
        if singular
        else {name: (1000 * np.linalg.inv(matrix)).tolist() for name, matrix in stiffness.items()},
        eq_stress=None if equilibrium is None else equilibrium.tolist(),
        derived_properties=derived,
        fitting_method="finite_difference",
        order=2,
    )


def average_moduli(matrix: Array) -> ElasticModuli:
    """Return Voigt, Reuss and Hill averages of a 6x6 elastic tensor in GPa (Hill 1952)."""
    from pymatgen.analysis.elasticity import ElasticTensor

    tensor = ElasticTensor.from_voigt(matrix)
    return ElasticModuli(
        bulk_voigt=tensor.k_voigt,
        bulk_reuss=tensor.k_reuss,
        bulk_vrh=tensor.k_vrh,
        shear_voigt=tensor.g_voigt,
        shear_reuss=tensor.g_reuss,
        shear_vrh=tensor.g_vrh,
    )
