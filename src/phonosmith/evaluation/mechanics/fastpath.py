"""Equation of state and elastic constants of a potential: all strained cells relaxed together in batches.

The same cells and fits as the DFT route (volumes of ``eos``, deformations of ``elastic``); atoms relax at fixed cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from phonosmith.core.errors import ConvergenceError, InputError
from phonosmith.core.hashing import digest_structure
from phonosmith.core.manifest import recorded
from phonosmith.core.units import GPA_PER_EV_PER_A3
from phonosmith.evaluation.mechanics.documents import ElasticDoc, ElasticFit, EosDoc, KnownElasticity
from phonosmith.evaluation.mechanics.elastic import elastic_deformations, fit_elastic
from phonosmith.evaluation.mechanics.eos import VOLUME_FACTORS, fit_birch_murnaghan
from phonosmith.evaluation.mechanics.slack import slack_conductivity
from phonosmith.sampling.fire import relax_batch

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

    from phonosmith.core.manifest import Manifest
    from phonosmith.potentials.base import Potential

FMAX = 1e-4
"""eV/Å, where elastic constants are wanted: forces of the published 1 meV/Å shift C44 of silicon by 0.3 GPa."""
EOS_FMAX = 5e-4
"""eV/Å, of relaxations at a volume, as published."""
MAX_STEPS = 1000


def _deformed(atoms: Atoms, gradient: Any) -> Atoms:
    """Return a copy strained by a deformation gradient, fractional coordinates kept."""
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array @ np.asarray(gradient, dtype=float).T, scale_atoms=True)
    return moved


def scaled_cell(atoms: Atoms, factor: float) -> Atoms:
    """Return a copy of ``factor`` times the volume, fractional coordinates kept."""
    return _deformed(atoms, np.eye(3) * factor ** (1 / 3))


def evaluate_eos(
    structure: Structure,
    potential: Potential,
    *,
    method: str = "",
    factors: Sequence[float] = VOLUME_FACTORS,
    fmax: float = EOS_FMAX,
    max_steps: int = MAX_STEPS,
) -> EosDoc:
    """Return the equation of state of a potential.

    The relaxed cell given is scaled isotropically to ``factors`` times its volume, and the atoms relax at each by FIRE
    to forces below ``fmax`` (eV/Å). Points whose atoms did not converge are left out of the fit and can be seen in
    ``converged``. ``method`` is the name written into the document.
    """
    atoms = structure.to_ase_atoms(msonable=False)
    ordered = sorted(float(factor) for factor in factors)
    settings = {"factors": ordered, "fmax": fmax, "max_steps": max_steps}
    with recorded({"structure": digest_structure(atoms)}, settings) as manifest:
        frames = [scaled_cell(atoms, factor) for factor in ordered]
        ends = relax_batch(frames, potential, fmax=fmax, max_steps=max_steps, cell="fixed")
        require_enough_volumes(sum(end.converged for end in ends), len(ends), f"relaxed below {fmax:g} eV/Å")
        return eos_document(
            structure,
            manifest,
            method,
            volumes=[float(frame.get_volume()) for frame in frames],
            energies=[end.energies[-1] for end in ends],
            max_forces=[end.max_forces[-1] for end in ends],
            converged=[end.converged for end in ends],
        )


def eos_document(
    structure: Structure,
    manifest: Manifest,
    method: str,
    *,
    volumes: list[float],
    energies: list[float],
    max_forces: list[float],
    converged: list[bool],
) -> EosDoc:
    """Return the document of an equation of state fitted to the converged points; lists are as in `EosDoc`."""
    good = [i for i, reached in enumerate(converged) if reached]
    fit = fit_birch_murnaghan([volumes[i] for i in good], [energies[i] for i in good], len(structure))
    # indices of the fit count converged points only; the document counts all
    fit.excluded = [good[i] for i in fit.excluded]
    return EosDoc(
        formula=structure.composition.reduced_formula,
        structure_sha256=manifest.inputs["structure"],
        method=method,
        n_atoms=len(structure),
        volumes=volumes,
        energies=energies,
        max_forces=max_forces,
        converged=converged,
        fit=fit,
        manifest=manifest,
    )


def evaluate_elastic(
    structure: Structure, potential: Potential, *, method: str = "", fmax: float = FMAX, max_steps: int = MAX_STEPS
) -> ElasticDoc:
    """Return elastic tensor, moduli and Slack conductivity of a potential.

    For the arguments see `evaluate_eos`; atoms relax in each strained cell.
    """
    from ase.stress import voigt_6_to_full_3x3_stress

    atoms = structure.to_ase_atoms(msonable=False)
    settings = {"fmax": fmax, "max_steps": max_steps}
    with recorded({"structure": digest_structure(atoms)}, settings) as manifest:
        deformations = elastic_deformations(structure)
        frames = [_deformed(atoms, gradient) for gradient in deformations]
        ends = relax_batch(frames, potential, fmax=fmax, max_steps=max_steps, cell="fixed")
        *strained, unstrained = (
            voigt_6_to_full_3x3_stress(result.stress) * GPA_PER_EV_PER_A3
            for result in potential.evaluate([*(end.frames[-1] for end in ends), atoms])
        )
        fit, known = fit_elastic(structure, deformations, strained, unstrained)
    missed = sum(not end.converged for end in ends)
    if missed:
        fit.warnings.append(f"{missed} of {len(ends)} strained cells did not relax below {fmax:g} eV/Å")
    return elastic_document(structure, manifest, method, fit, known, n_unconverged=missed)


def elastic_document(
    structure: Structure,
    manifest: Manifest,
    method: str,
    fit: ElasticFit,
    known: KnownElasticity,
    *,
    n_unconverged: int = 0,
) -> ElasticDoc:
    """Return the document of a fit (`fit_elastic`), with the Slack conductivity of a stable crystal at 300 K."""
    slack = None
    if fit.born_stable and fit.moduli is not None:
        primitive = structure.get_primitive_structure()
        masses = [float(site.specie.atomic_mass) for site in primitive]
        slack = slack_conductivity(fit.moduli.bulk_vrh, fit.moduli.shear_vrh, primitive.volume, masses)
    return ElasticDoc(
        **dict(known),
        formula=structure.composition.reduced_formula,
        structure_sha256=manifest.inputs["structure"],
        method=method,
        fit=fit,
        slack=slack,
        n_unconverged=n_unconverged,
        manifest=manifest,
    )


def require_enough_volumes(good: int, tried: int, what: str) -> None:
    """Raise unless more than half of the volumes of an equation of state can be used."""
    if good < tried // 2 + 1:
        raise InputError(
            f"Only {good} of {tried} volumes {what}.",
            "Allow more steps, loosen the criterion, or look at the structure: the potential may not hold it.",
        )


def require_reliable(document: ElasticDoc) -> ElasticDoc:
    """Return the document; raise when strained cells did not relax, or stresses scatter about a smooth function."""
    if document.n_unconverged or not document.fit.reliable:
        reasons = "; ".join(document.fit.warnings)
        raise ConvergenceError(
            f"The elastic tensor of {document.formula} by {document.method or 'this method'} is refused: {reasons}.",
            "Evaluate a potential in float64 or loosen its force criterion (fmax); for DFT, tighten SCF and forces.",
        )
    return document
