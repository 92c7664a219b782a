"""Is this potential fit for phonons of this material? One rule, thresholds in the settings, reasons in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from phonosmith.evaluation.phonons.documents import PhononComparison
    from phonosmith.settings import Settings


class Verdict(BaseModel):
    """Yes or no, and why."""

    fit: bool = Field(description="the potential may be trusted for harmonic phonons of this material")
    reasons: list[str] = Field(description="what speaks against it; empty when fit")
    thresholds: dict[str, float] = Field(description="limits that were applied, THz, percent and meV/Å")


def judge(
    comparison: PhononComparison,
    settings: Settings,
    foundation: PhononComparison | None = None,
    *,
    improved: bool = True,
) -> Verdict:
    """Judge a potential by its phonons against the reference.

    Parameters
    ----------
    comparison
        The potential against the reference.
    settings
        Holds the thresholds ``verdict_*``.
    foundation
        The foundation against the same reference; a potential worse than it is never fit.
    improved
        Whether training lowered the validation loss.
    """
    limits = {
        "phonon_mae_thz": settings.verdict_phonon_mae_thz,
        "omega_max_percent": settings.verdict_omega_max_percent,
        "thermal_percent": settings.verdict_thermal_percent,
    }
    reasons = []
    if comparison.mae_thz > limits["phonon_mae_thz"]:
        reasons.append(f"phonon MAE {comparison.mae_thz:.3f} THz exceeds {limits['phonon_mae_thz']:g} THz")
    error = comparison.omega_max_error_percent
    if error is not None and abs(error) > limits["omega_max_percent"]:
        reasons.append(f"highest frequency off by {error:+.1f} %, allowed {limits['omega_max_percent']:g} %")
    reference, candidate = comparison.reference, comparison.candidate
    for name, ours, theirs in (
        ("heat capacity", candidate.heat_capacity, reference.heat_capacity),
        ("entropy", candidate.entropy, reference.entropy),
    ):
        deviation = 100 * (ours - theirs) / theirs if theirs else float("inf")
        if abs(deviation) > limits["thermal_percent"]:
            reasons.append(f"{name} off by {deviation:+.1f} %, allowed {limits['thermal_percent']:g} %")
    if candidate.stable_practical != reference.stable_practical:
        words = {True: "stable", False: "unstable"}
        reasons.append(
            f"predicts a dynamically {words[candidate.stable_practical]} crystal, "
            f"the reference is {words[reference.stable_practical]}"
        )
    if not comparison.same_space_group:
        reasons.append(f"relaxes to {candidate.space_group}, the reference to {reference.space_group}")
    if foundation is not None and comparison.mae_thz > foundation.mae_thz:
        reasons.append(f"worse than the foundation ({comparison.mae_thz:.3f} > {foundation.mae_thz:.3f} THz)")
    if not improved:
        reasons.append("training did not lower the validation loss")
    return Verdict(fit=not reasons, reasons=reasons, thresholds=limits)


def judge_production(
    settings: Settings,
    *,
    valid_force_mae: float | None,
    phonon_change_thz: float | None,
    check_percent: float | None = None,
    improved: bool = True,
    stable: bool | None = None,
    trained: bool = True,
) -> Verdict:
    """Judge a potential where nobody paid for reference phonons: what is not known speaks against it.

    Parameters
    ----------
    settings
        Holds the thresholds ``production_*``.
    valid_force_mae
        Validation force MAE, meV/Å.
    phonon_change_thz
        Phonon MAE between this potential and the one of the next smaller training set (or the round before), THz.
    check_percent
        Relative force error in displaced cells that the reference calculated, percent; None when none were asked.
    improved
        Whether training lowered the validation loss.
    stable
        Whether the potential finds the crystal dynamically stable; an unstable one is not trusted unseen.
    trained
        False for the foundation, which has no training set to converge with.
    """
    limits = {
        "force_mae_mev_per_angstrom": settings.production_force_mae,
        "phonon_change_thz": settings.production_change_thz,
        "check_percent": settings.production_check_percent,
    }
    reasons = []
    if valid_force_mae is None:
        reasons.append("no validation errors")
    elif not valid_force_mae <= limits["force_mae_mev_per_angstrom"]:
        reasons.append(
            f"validation force MAE {valid_force_mae:.1f} meV/Å exceeds {limits['force_mae_mev_per_angstrom']:g} meV/Å"
        )
    if not trained:
        pass
    elif phonon_change_thz is None:
        reasons.append("no smaller training set to compare its phonons with: convergence is unknown")
    elif not phonon_change_thz <= limits["phonon_change_thz"]:
        reasons.append(
            f"phonons still move with the training set: {phonon_change_thz:.3f} THz, "
            f"allowed {limits['phonon_change_thz']:g} THz"
        )
    if check_percent is not None and not check_percent <= limits["check_percent"]:
        reasons.append(f"forces of displaced cells off by {check_percent:.1f} %, allowed {limits['check_percent']:g} %")
    if not improved:
        reasons.append("training did not lower the validation loss")
    if stable is False:
        reasons.append("predicts imaginary modes, which only reference phonons could confirm")
    return Verdict(fit=not reasons, reasons=reasons, thresholds=limits)
