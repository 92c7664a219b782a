"""Comparison of the phonons of two models on the same q-mesh.

Definitions (those of the published benchmark of MACE-MP-0b3 unless said otherwise):

- The mesh is phonopy's: n x n x n, for even n shifted by half a step so that Γ is no point of it. Both sides use the
  same q-points and weights, reduced by the point group where both have the same, else by time reversal alone.
- Branches are paired by their order at every q-point. mae = Σ_q w_q Σ_b |Δω| / (Σ_q w_q · n_branches); rmse likewise.
- scaled rmse: the candidate is multiplied by (highest reference / highest candidate mesh frequency) first.
- ω_mean: weighted mean over the positive mesh frequencies. ω_min, ω_max: extremes on each side's own standard path.
- Where the reference has Born charges, the non-analytic term of its charges is in the frequencies of both sides (a
  potential has none of its own).
- C_v, S, F: sums over the same mesh, see `phonosmith.evaluation.phonons.thermodynamics`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.errors import InputError
from phonosmith.evaluation.phonons.bands import BandStructure, band_structure, lo_to_splitting, standard_path
from phonosmith.evaluation.phonons.documents import PhononComparison, PhononDoc, PhononSide
from phonosmith.evaluation.phonons.dos import SMEARING_THZ, density_of_states, dos_difference_percent, frequency_grid
from phonosmith.evaluation.phonons.mesh import DEFAULT_MESH, Mesh, MeshFrequencies, mesh_frequencies, sorted_frequencies
from phonosmith.evaluation.phonons.stability import PRACTICAL_THZ, judge_stability
from phonosmith.evaluation.phonons.summary import harmonic_from_document
from phonosmith.evaluation.phonons.thermodynamics import thermal_properties
from phonosmith.harmonic.files import load_harmonic, load_pair
from phonosmith.harmonic.matching import IDENTITY, CellMatch, match_models
from phonosmith.harmonic.model import HarmonicModel, full_force_constants, new_phonon
from phonosmith.harmonic.nac import carried_charges

Array = NDArray[np.float64]
PhononSource = HarmonicModel | PhononDoc | str | Path
"""A model, the document of one, or a file: phonopy.yaml or phonons.json."""

PERCENT_FLOOR_THZ = 0.01
"""Below this |ω| of the reference an error in percent says nothing."""


def frequency_errors(reference: Array, candidate: Array, weights: Array) -> tuple[float, float, float]:
    """Return mae, rmse (THz) and rmse over the reference's root mean square of frequencies (THz, n_q by n_branches)."""
    shapes = reference.shape, candidate.shape
    if shapes[0] != shapes[1]:
        raise InputError(f"Frequencies of shapes {shapes[0]} and {shapes[1]} cannot be compared.", "Use one mesh.")
    share = np.asarray(weights, dtype=float)[:, None] / (np.sum(weights) * reference.shape[1])
    delta = candidate - reference
    rmse = float(np.sqrt((share * delta**2).sum()))
    scale = float(np.sqrt((share * reference**2).sum()))
    return float((share * np.abs(delta)).sum()), rmse, rmse / scale if scale else float("nan")


@dataclass(frozen=True)
class ComparedPhonons:
    """A comparison with the curves behind it, for figures.

    Bands of both sides run along the reference's path; densities are in states per THz and primitive cell, their grid
    in THz; the meshes are behind the metrics.
    """

    result: PhononComparison
    reference_bands: BandStructure
    candidate_bands: BandStructure
    dos_grid: Array
    reference_dos: Array
    candidate_dos: Array
    reference_mesh: MeshFrequencies
    candidate_mesh: MeshFrequencies


def _side(
    model: HarmonicModel, sampled: MeshFrequencies, bands: BandStructure, temperature: float, practical_thz: float
) -> PhononSide:
    thermal = thermal_properties(sampled.frequencies, sampled.weights, [temperature], mesh=sampled.mesh)
    verdict = judge_stability(model, practical_thz=practical_thz)
    symbol, number = model.space_group
    return PhononSide(
        omega_min_thz=bands.lowest,
        omega_max_thz=bands.highest,
        omega_mean_thz=sampled.mean_of_real,
        heat_capacity=thermal.heat_capacity[0],
        entropy=thermal.entropy[0],
        free_energy=thermal.free_energy[0],
        volume=float(model.phonon.primitive.volume),
        n_imaginary_commensurate=verdict.n_imaginary,
        stable=verdict.stable,
        n_imaginary_practical=verdict.n_imaginary_practical,
        stable_practical=verdict.stable_practical,
        imaginary_share=thermal.imaginary_share,
        asr_residual=model.asr_residual,
        space_group=symbol,
        space_group_number=number,
        lo_to_splitting_thz=lo_to_splitting(model, standard_path(model)),
    )


def with_charges_of(
    reference: HarmonicModel, candidate: HarmonicModel, match: CellMatch
) -> tuple[HarmonicModel, CellMatch]:
    """Return the candidate with the reference's Born charges (without any where the reference has none).

    It then has the reference's primitive vectors: phonopy truncates its sums over reciprocal vectors by them, and
    another choice alone shifts frequencies of TiO2 by 0.01 THz.
    """
    if reference.phonon.nac_params is None and candidate.phonon.nac_params is None:
        return candidate, match
    old = candidate.phonon
    matrix = np.asarray(old.primitive_matrix) @ match.transform.T
    phonon = new_phonon(old.unitcell, old.supercell_matrix, matrix, old.symmetry.tolerance, old.calculator)
    phonon.force_constants = full_force_constants(old)
    if reference.phonon.nac_params is not None:
        phonon.nac_params = carried_charges(reference.phonon, phonon, IDENTITY)
    return replace(candidate, phonon=phonon), replace(match, transform=IDENTITY)


def _percent(candidate: float, reference: float) -> float | None:
    return 100 * (candidate - reference) / abs(reference) if abs(reference) >= PERCENT_FLOOR_THZ else None


def compare_phonons_in_full(
    reference: HarmonicModel,
    candidate: HarmonicModel,
    mesh: Mesh = DEFAULT_MESH,
    *,
    temperature: float = 300.0,
    practical_thz: float = PRACTICAL_THZ,
) -> ComparedPhonons:
    """Compare phonons of the same crystal in the same supercell and keep the curves.

    The temperature (K) is that of C_v, S and F; ``practical_thz`` the practical stability threshold.

    Raises
    ------
    MismatchError
        When the two do not belong together.
    """
    match = match_models(reference, candidate)
    candidate, match = with_charges_of(reference, candidate, match)
    ours = mesh_frequencies(reference, mesh, symmetry=match.same_rotations)
    qpoints = match.to_candidate(ours.qpoints)
    theirs = replace(ours, qpoints=qpoints, frequencies=sorted_frequencies(candidate, qpoints))
    mae, rmse, relative = frequency_errors(ours.frequencies, theirs.frequencies, ours.weights)
    factor = float(ours.frequencies.max() / theirs.frequencies.max())
    scaled = replace(theirs, frequencies=theirs.frequencies * factor)
    share, delta = ours.weights / np.sum(ours.weights), theirs.frequencies - ours.frequencies
    grid = frequency_grid([ours.frequencies, theirs.frequencies])
    our_dos, their_dos = (density_of_states(side.frequencies, side.weights, grid) for side in (ours, theirs))
    path = standard_path(reference)
    bands = band_structure(reference, path), band_structure(candidate, path, match)
    left = _side(reference, ours, bands[0], temperature, practical_thz)
    right = _side(candidate, theirs, band_structure(candidate, standard_path(candidate)), temperature, practical_thz)
    result = PhononComparison(
        formula=reference.formula,
        mae_thz=mae,
        rmse_thz=rmse,
        scaled_rmse_thz=frequency_errors(ours.frequencies, scaled.frequencies, ours.weights)[1],
        relative_rmse=relative,
        omega_max_error_thz=right.omega_max_thz - left.omega_max_thz,
        omega_max_error_percent=_percent(right.omega_max_thz, left.omega_max_thz),
        omega_mean_error_percent=_percent(right.omega_mean_thz, left.omega_mean_thz),
        omega_min_error_thz=right.omega_min_thz - left.omega_min_thz,
        omega_min_error_percent=_percent(right.omega_min_thz, left.omega_min_thz),
        omega_mean_scaled_thz=scaled.mean_of_real,
        dos_error_percent=dos_difference_percent(our_dos, their_dos),
        dos_smearing_thz=SMEARING_THZ,
        branch_mae_thz=(share @ np.abs(delta)).tolist(),
        branch_bias_thz=(share @ delta).tolist(),
        same_space_group=match.same_space_group,
        reference=left,
        candidate=right,
        mesh=list(ours.mesh),
        n_qpoints=len(ours.qpoints),
        temperature=temperature,
        fc_calculator=f"{reference.fc_calculator} / {candidate.fc_calculator}",
        notes=[
            *match.notes,
            *(
                ["non-analytic term of the reference's Born charges on both sides"]
                if left.lo_to_splitting_thz is not None
                else []
            ),
        ],
    )
    return ComparedPhonons(result, *bands, grid, our_dos, their_dos, ours, theirs)


def compare_phonons(
    reference: PhononSource, candidate: PhononSource, mesh: Mesh = DEFAULT_MESH, *, temperature: float = 300.0
) -> PhononComparison:
    """Return the figures of `compare_phonons_in_full`, for phonons as models, documents or files (see `load_pair`)."""
    if isinstance(reference, str | Path) and isinstance(candidate, str | Path):
        reference, candidate = load_pair(reference, candidate)
    return compare_phonons_in_full(_model(reference), _model(candidate), mesh, temperature=temperature).result


def _model(source: PhononSource) -> HarmonicModel:
    if isinstance(source, PhononDoc):
        return harmonic_from_document(source, default_artefacts())
    return source if isinstance(source, HarmonicModel) else load_harmonic(source)
