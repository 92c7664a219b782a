"""Is this potential fit for phonons of this material? One rule, thresholds in the settings, reasons in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from phonosmith.evaluation.phonon_documents import PhononComparison
    from phonosmith.settings import Settings


class Verdict(BaseModel):
    """Yes or no, and why."""

    fit: bool = Field(description="the potential may be trusted for harmonic phonons of this material")
    reasons: list[str] = Field(description="what speaks against it; empty when fit")
    thresholds: dict[str, float] = Field(description="limits that were applied, THz and percent")


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
