"""Equation of state and elastic constants of a potential: all strained cells relaxed together in batches.

The same cells and fits as the DFT route (volumes of ``eos``, deformations of ``elastic``); atoms relax at fixed cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from phonosmith.core.document import Document
from phonosmith.core.errors import ConvergenceError, InputError
from phonosmith.core.hashing import digest_structure
from phonosmith.core.manifest import Manifest, recorded
from phonosmith.core.units import GPA_PER_EV_PER_A3
from phonosmith.evaluation.mechanics.elastic import ElasticFit, elastic_deformations, fit_elastic
from phonosmith.evaluation.mechanics.eos import VOLUME_FACTORS, EosFit, fit_birch_murnaghan
from phonosmith.evaluation.mechanics.slack import SlackConductivity, slack_conductivity
from phonosmith.sampling.fire import Trajectory, relax_batch

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

    from phonosmith.potentials.base import Potential

FMAX = 1e-4
MAX_STEPS = 1000


class EosDoc(Document):
    """Equation of state of one crystal by one method."""

    formula: str = Field(description="reduced formula")
    structure_sha256: str = Field(description="identity of the cell the volumes were scaled from")
    method: str = Field(description="name of the potential or DFT protocol")
    n_atoms: int = Field(description="atoms in the cell")
    volumes: list[float] = Field(description="Å³ per cell, ascending")
    energies: list[float] = Field(description="energy after relaxing the atoms at fixed cell, eV per cell")
    max_forces: list[float] = Field(description="largest force left at each volume, eV/Å")
    converged: list[bool] = Field(description="forces below the criterion at each volume")
    fit: EosFit = Field(description="Birch-Murnaghan fit to the converged points")
    manifest: Manifest = Field(description="provenance")


class ElasticDoc(Document):
    """Elastic properties of one crystal by one method."""

    formula: str = Field(description="reduced formula")
    structure_sha256: str = Field(description="identity of the unstrained cell")
    method: str = Field(description="name of the potential or DFT protocol")
    fit: ElasticFit = Field(description="tensor, averages, stability, quality")
    slack: SlackConductivity | None = Field(None, description="Slack conductivity at 300 K; none when unstable")
    n_unconverged: int = Field(description="strained cells whose atoms did not reach the force criterion")
    manifest: Manifest = Field(description="provenance")


def as_atoms(structure: Structure) -> Atoms:
    """Return ASE's view of a structure."""
    from pymatgen.io.ase import AseAtomsAdaptor

    return AseAtomsAdaptor.get_atoms(structure, msonable=False)


def _deformed(atoms: Atoms, gradient: Any) -> Atoms:
    """Return a copy strained by a deformation gradient, fractional coordinates kept."""
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array @ np.asarray(gradient, dtype=float).T, scale_atoms=True)
    return moved


def scaled_cell(atoms: Atoms, factor: float) -> Atoms:
    """Return a copy of ``factor`` times the volume, fractional coordinates kept."""
    return _deformed(atoms, np.eye(3) * factor ** (1 / 3))


def _relaxed(frames: list[Atoms], potential: Potential, fmax: float, max_steps: int) -> list[Trajectory]:
    return relax_batch(frames, potential, fmax=fmax, max_steps=max_steps, cell="fixed")


def evaluate_eos(
    structure: Structure,
    potential: Potential,
    *,
    method: str = "",
    factors: Sequence[float] = VOLUME_FACTORS,
    fmax: float = FMAX,
    max_steps: int = MAX_STEPS,
) -> EosDoc:
    """Return the equation of state of a potential.

    Parameters
    ----------
    structure
        The relaxed cell; it is scaled isotropically.
    potential
        What to evaluate.
    method
        Name written into the document.
    factors
        Volumes relative to that of ``structure``.
    fmax
        Force criterion of the relaxation of atoms at each volume, eV/Å.
    max_steps
        Steps of FIRE allowed.

    Notes
    -----
    Points whose atoms did not converge are left out of the fit and can be seen in ``converged``.
    """
    atoms = as_atoms(structure)
    chosen = sorted(float(factor) for factor in factors)
    settings = {"factors": chosen, "fmax": fmax, "max_steps": max_steps}
    with recorded({"structure": digest_structure(atoms)}, settings) as manifest:
        frames = [scaled_cell(atoms, factor) for factor in chosen]
        found = _relaxed(frames, potential, fmax, max_steps)
        volumes = [float(frame.get_volume()) for frame in frames]
        energies = [trajectory.energies[-1] for trajectory in found]
        good = [i for i, trajectory in enumerate(found) if trajectory.converged]
        require_enough_volumes(len(good), len(found), f"relaxed below {fmax:g} eV/Å")
        fit = fit_birch_murnaghan([volumes[i] for i in good], [energies[i] for i in good], len(atoms))
    # indices of the fit count converged points only; the document counts all
    fit = fit.model_copy(update={"excluded": [good[i] for i in fit.excluded]})
    return EosDoc(
        formula=structure.composition.reduced_formula,
        structure_sha256=manifest.inputs["structure"],
        method=method,
        n_atoms=len(atoms),
        volumes=volumes,
        energies=energies,
        max_forces=[trajectory.max_forces[-1] for trajectory in found],
        converged=[trajectory.converged for trajectory in found],
        fit=fit,
        manifest=manifest,
    )


def evaluate_elastic(
    structure: Structure,
    potential: Potential,
    *,
    method: str = "",
    fmax: float = FMAX,
    max_steps: int = MAX_STEPS,
    temperature: float = 300.0,
) -> ElasticDoc:
    """Return elastic tensor, moduli and Slack conductivity of a potential.

    Parameters
    ----------
    structure
        The relaxed cell.
    potential
        What to evaluate.
    method
        Name written into the document.
    fmax
        Force criterion of the relaxation of atoms in each strained cell, eV/Å.
    max_steps
        Steps of FIRE allowed.
    temperature
        Of the Slack conductivity, K.
    """
    atoms = as_atoms(structure)
    settings = {"fmax": fmax, "max_steps": max_steps}
    with recorded({"structure": digest_structure(atoms)}, settings) as manifest:
        deformations = elastic_deformations(structure)
        found = _relaxed([_deformed(atoms, gradient) for gradient in deformations], potential, fmax, max_steps)
        ends = [trajectory.frames[-1] for trajectory in found]
        *strained, unstrained = (_tensor(item.stress) for item in potential.evaluate([*ends, atoms]))
        fit = fit_elastic(structure, deformations, strained, unstrained)
    missed = sum(not trajectory.converged for trajectory in found)
    if missed:
        note = f"{missed} of {len(found)} strained cells did not relax below {fmax:g} eV/Å"
        fit = fit.model_copy(update={"warnings": [*fit.warnings, note]})
    return elastic_document(structure, fit, manifest, method=method, temperature=temperature, n_unconverged=missed)


def elastic_document(
    structure: Structure,
    fit: ElasticFit,
    manifest: Manifest,
    *,
    method: str = "",
    temperature: float = 300.0,
    n_unconverged: int = 0,
) -> ElasticDoc:
    """Return the document of a fit, with the Slack conductivity of a stable crystal at a temperature in K."""
    slack = None
    if fit.born_stable and fit.moduli is not None:
        primitive = structure.get_primitive_structure()
        slack = slack_conductivity(
            fit.moduli.bulk_vrh,
            fit.moduli.shear_vrh,
            primitive.volume,
            [float(site.specie.atomic_mass) for site in primitive],
            temperature,
        )
    return ElasticDoc(
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
    """Return the document, or raise when its tensor cannot be trusted.

    Raises
    ------
    ConvergenceError
        When strained cells did not relax, or stresses scatter about a smooth function of strain.
    """
    if document.n_unconverged or not document.fit.reliable:
        reasons = "; ".join(document.fit.warnings)
        raise ConvergenceError(
            f"The elastic tensor of {document.formula} by {document.method or 'this method'} is refused: {reasons}.",
            "Evaluate a potential in float64 or loosen its force criterion (fmax); for DFT, tighten SCF and forces.",
        )
    return document


def _tensor(voigt: Any) -> Any:
    """Return ASE's Voigt stress in eV/Å³ as a 3x3 tensor in GPa."""
    xx, yy, zz, yz, xz, xy = np.asarray(voigt, dtype=float) * GPA_PER_EV_PER_A3
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
