"""How sure phonons are: what several trainings for one crystal disagree about, and the error to expect from that.

Definitions, with frequencies paired as in `phonosmith.evaluation.phonons.comparison`:

- Standard deviations are those of a sample (n - 1), of one frequency between the members, at every q-point and branch.
- Disagreement: mean phonon MAE over all pairs of members.
- With reference phonons the error of every member is known, and an interval says where one more training of the same
  kind falls: Student's prediction interval, of logarithms for what is positive.
- Without, an interval says where the truth is: the disagreement times factors, or the mean and a multiple of the
  standard deviation. Members share foundation and most labels, and with them errors that no disagreement shows;
  factors and multiple are those that held on real crystals (``benchmarks/studies/sure``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from scipy.stats import t as student

from phonosmith.core.document import Document
from phonosmith.core.errors import InputError
from phonosmith.evaluation.phonons.bands import band_structure, standard_path
from phonosmith.evaluation.phonons.comparison import frequency_errors, with_charges_of
from phonosmith.evaluation.phonons.mesh import DEFAULT_MESH, Mesh, MeshFrequencies, mesh_frequencies, sorted_frequencies
from phonosmith.evaluation.phonons.thermodynamics import thermal_properties
from phonosmith.harmonic.matching import match_models
from phonosmith.harmonic.model import HarmonicModel

Array = NDArray[np.float64]

COVERAGE = 0.8
"""Share of cases in which an interval is meant to hold."""
LEAST = 1e-6
"""What an error (THz) has at least where logarithms are taken."""
MAE_FACTORS = (1.2, 5.5)
"""Phonon MAE of a member against the truth over the disagreement of its committee: lowest and highest to expect."""
SEED_SPREAD = 0.12
"""Standard deviation of the logarithm of the phonon MAE between trainings that differ by their seeds."""
TRUTH_FACTOR = 4.3
"""Standard deviations of a committee around its mean within which the true highest frequency or entropy is."""


class Interval(Document):
    """Where a number is expected in four of five cases, in the unit of the number."""

    low: float = Field(description="lower end")
    high: float = Field(description="upper end")


class Committee(Document):
    """What several trainings for one crystal agree on."""

    formula: str = Field(description="reduced formula")
    members: list[str] = Field(description="names of the potentials")
    basis: Literal["reference", "disagreement"] = Field(
        description="reference: errors are known, intervals say where another training falls; disagreement: intervals "
        "say where the truth is"
    )
    coverage: float = Field(COVERAGE, description="share of cases in which an interval is meant to hold")
    mae_thz: Interval = Field(description="phonon MAE against the truth, THz")
    omega_max_thz: Interval = Field(description="highest frequency on the band path, THz")
    entropy: Interval = Field(description="vibrational entropy, J/K/mol of primitive cells")
    member_mae_thz: list[float] = Field(
        default_factory=list, description="phonon MAE of each member against the reference, THz; empty without one"
    )
    disagreement_thz: float = Field(description="mean phonon MAE between pairs of members, THz")
    std_thz: float = Field(description="standard deviation of a frequency, mean over mesh and branches, THz")
    branch_std_thz: list[float] = Field(description="the same of every branch, lowest first, THz")
    largest_std_thz: float = Field(description="largest standard deviation of any frequency, THz")
    largest_at: list[float] = Field(description="its q-point, reduced coordinates")
    largest_branch: int = Field(description="its branch, 1 the lowest")
    mesh: list[int] = Field(description="q-mesh")
    temperature: float = Field(description="of the entropy, K")


@dataclass(frozen=True)
class CommitteePhonons:
    """A committee's figures with the arrays behind them.

    ``frequencies`` are those of all members, THz, shape (members, q-points, branches), at the points of ``mesh``, whose
    own frequencies are the members' means; ``std`` is their standard deviation, THz, shape (q-points, branches).
    """

    result: Committee
    mesh: MeshFrequencies
    frequencies: Array
    std: Array


def committee_in_full(
    members: Mapping[str, HarmonicModel],
    reference: HarmonicModel | None = None,
    mesh: Mesh = DEFAULT_MESH,
    *,
    temperature: float = 300.0,
) -> CommitteePhonons:
    """Say how far the phonons of potentials for one crystal are apart, and how sure that makes their errors.

    Parameters
    ----------
    members
        Two or more harmonic models by name.
    reference
        The truth, where it is known.
    mesh, temperature
        q-points along each axis; K, for the entropy.

    Raises
    ------
    MismatchError
        When two of them relaxed into different structures: such a committee agrees on nothing.
    """
    if len(members) < 2:
        raise InputError("One potential is no committee.", "Train with two seeds or more, or give more candidates.")
    anchor = next(iter(members.values())) if reference is None else reference
    paired = [with_charges_of(anchor, model, match_models(anchor, model)) for model in members.values()]
    sampled = mesh_frequencies(anchor, mesh, symmetry=all(match.same_rotations for _, match in paired))
    found = np.array([sorted_frequencies(model, match.to_candidate(sampled.qpoints)) for model, match in paired])
    std, share = found.std(axis=0, ddof=1), sampled.weights / sampled.weights.sum()
    apart = [frequency_errors(one, other, sampled.weights)[0] for one, other in combinations(found, 2)]
    errors = (
        [] if reference is None else [frequency_errors(sampled.frequencies, one, sampled.weights)[0] for one in found]
    )
    highest = [band_structure(model, standard_path(model)).highest for model in members.values()]
    entropies = [thermal_properties(one, sampled.weights, [temperature], mesh=sampled.mesh).entropy[0] for one in found]
    disagreement = float(np.mean(apart))
    place, branch = np.unravel_index(np.argmax(std), std.shape)
    spread = another_training if errors else the_truth
    result = Committee(
        formula=anchor.formula,
        members=list(members),
        basis="reference" if errors else "disagreement",
        mae_thz=another_training(errors, SEED_SPREAD) if errors else error_behind(disagreement),
        omega_max_thz=spread(highest),
        entropy=spread(entropies),
        member_mae_thz=errors,
        disagreement_thz=disagreement,
        std_thz=float((share @ std).mean()),
        branch_std_thz=(share @ std).tolist(),
        largest_std_thz=float(std[place, branch]),
        largest_at=sampled.qpoints[place].tolist(),
        largest_branch=int(branch) + 1,
        mesh=list(sampled.mesh),
        temperature=temperature,
    )
    means = MeshFrequencies(sampled.qpoints, sampled.weights, found.mean(axis=0), sampled.mesh)
    return CommitteePhonons(result, means, found, std)


def another_training(values: Sequence[float] | ArrayLike, spread: float | None = None) -> Interval:
    """Return where one more value of the kind of some falls: Student's prediction interval.

    Parameters
    ----------
    spread
        For values that are errors: their logarithms are normally distributed, with about this standard deviation
        from experience, which counts as one value more. Two trainings that happen to agree then do not promise that a
        third one will.

    >>> another_training([1.0, 1.0])
    Interval(low=1.0, high=1.0)
    """
    numbers = np.asarray(values, dtype=float)
    numbers = numbers if spread is None else np.log(np.maximum(numbers, LEAST))
    count, freedom, variance = len(numbers), len(numbers) - 1, numbers.var(ddof=1)
    if spread is not None:
        variance, freedom = (freedom * variance + spread**2) / (freedom + 1), freedom + 1
    half = student.ppf((1 + COVERAGE) / 2, freedom) * np.sqrt(variance * (1 + 1 / count))
    ends = [float(numbers.mean() + sign * half) for sign in (-1, 1)]
    low, high = ends if spread is None else (float(np.exp(end)) for end in ends)
    return Interval(low=low, high=high)


def the_truth(values: Sequence[float]) -> Interval:
    """Return where the true value is when a committee finds some and no reference is known."""
    half = TRUTH_FACTOR * float(np.std(values, ddof=1))
    return Interval(low=float(np.mean(values)) - half, high=float(np.mean(values)) + half)


def error_behind(disagreement_thz: float) -> Interval:
    """Return the phonon MAE to expect of the members of a committee, THz, from their disagreement, THz."""
    low, high = (factor * disagreement_thz for factor in MAE_FACTORS)
    return Interval(low=low, high=high)


def force_disagreement(forces: Sequence[Sequence[ArrayLike]]) -> list[float]:
    """Return how far forces are apart in each configuration, eV/Å.

    ``forces`` are those of each member in each configuration, eV/Å; the result is the root mean square over atoms of
    the standard deviation of a force vector between members.
    """
    return [
        float(np.sqrt(np.var(np.stack([np.asarray(one) for one in members]), axis=0, ddof=1).sum(axis=-1).mean()))
        for members in zip(*forces, strict=True)
    ]
