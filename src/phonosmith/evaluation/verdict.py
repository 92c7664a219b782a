"""Is this potential fit for phonons of this material? One rule, thresholds in the settings, reasons with codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from phonosmith.core.document import Document

if TYPE_CHECKING:
    from phonosmith.evaluation.phonons.documents import PhononComparison
    from phonosmith.settings import Settings

ReasonCode = Literal[
    "phonon_mae", "omega_max", "heat_capacity", "entropy", "stability", "space_group", "worse_than_foundation",
    "not_improved", "mismatch", "no_phonons", "no_validation", "force_mae", "convergence_unknown", "not_converged",
    "check_forces", "imaginary_modes",
]  # fmt: skip
CONVERGENCE: tuple[ReasonCode, ...] = ("convergence_unknown", "not_converged")
"""Reasons that more labels may remove."""


class VerdictReason(Document):
    """One thing that speaks against a potential."""

    code: ReasonCode = Field(description="which rule")
    message: str = Field(description="in words")
    value: float | None = Field(None, description="what was found, in the unit of the threshold")
    threshold: float | None = Field(None, description="what is allowed: THz, percent or meV/Å, as the message says")


class Verdict(Document):
    """Yes or no, and why."""

    fit: bool = Field(description="the potential may be trusted for harmonic phonons of this material")
    reasons: list[str] = Field(description="what speaks against it; empty when fit")
    thresholds: dict[str, float] = Field(description="limits that were applied, THz, percent and meV/Å")
    details: list[VerdictReason] = Field(
        default_factory=list,
        description="the reasons with codes and numbers; empty in documents from before there were codes",
    )

    @classmethod
    def of(cls, details: Iterable[VerdictReason], thresholds: Mapping[str, float] | None = None) -> Verdict:
        """Return the verdict that some reasons, or none, amount to."""
        listed = list(details)
        return cls(
            fit=not listed,
            reasons=[reason.message for reason in listed],
            thresholds=dict(thresholds or {}),
            details=listed,
        )


def unfit(code: ReasonCode, message: str) -> Verdict:
    """Return the verdict on a potential that cannot be judged."""
    return Verdict.of([VerdictReason(code=code, message=message)])


@dataclass
class _Case:
    """What has been found against a potential."""

    reasons: list[VerdictReason] = field(default_factory=list)

    def against(
        self, code: ReasonCode, message: str, value: float | None = None, threshold: float | None = None
    ) -> None:
        self.reasons.append(VerdictReason(code=code, message=message, value=value, threshold=threshold))


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
    case = _Case()
    mae, allowed = comparison.mae_thz, limits["phonon_mae_thz"]
    if mae > allowed:
        case.against("phonon_mae", f"phonon MAE {mae:.3f} THz exceeds {allowed:g} THz", mae, allowed)
    error, allowed = comparison.omega_max_error_percent, limits["omega_max_percent"]
    if error is not None and abs(error) > allowed:
        case.against("omega_max", f"highest frequency off by {error:+.1f} %, allowed {allowed:g} %", error, allowed)
    reference, candidate = comparison.reference, comparison.candidate
    allowed = limits["thermal_percent"]
    thermal: tuple[tuple[ReasonCode, str, float, float], ...] = (
        ("heat_capacity", "heat capacity", candidate.heat_capacity, reference.heat_capacity),
        ("entropy", "entropy", candidate.entropy, reference.entropy),
    )
    for code, name, ours, theirs in thermal:
        deviation = 100 * (ours - theirs) / theirs if theirs else float("inf")
        if abs(deviation) > allowed:
            case.against(code, f"{name} off by {deviation:+.1f} %, allowed {allowed:g} %", deviation, allowed)
    if candidate.stable_practical != reference.stable_practical:
        words = {True: "stable", False: "unstable"}
        case.against(
            "stability",
            f"predicts a dynamically {words[candidate.stable_practical]} crystal, "
            f"the reference is {words[reference.stable_practical]}",
        )
    if not comparison.same_space_group:
        case.against("space_group", f"relaxes to {candidate.space_group}, the reference to {reference.space_group}")
    if foundation is not None and mae > foundation.mae_thz:
        case.against(
            "worse_than_foundation",
            f"worse than the foundation ({mae:.3f} > {foundation.mae_thz:.3f} THz)",
            mae,
            foundation.mae_thz,
        )
    if not improved:
        case.against("not_improved", "training did not lower the validation loss")
    return Verdict.of(case.reasons, limits)


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
    case = _Case()
    allowed = limits["force_mae_mev_per_angstrom"]
    if valid_force_mae is None:
        case.against("no_validation", "no validation errors")
    elif not valid_force_mae <= allowed:
        message = f"validation force MAE {valid_force_mae:.1f} meV/Å exceeds {allowed:g} meV/Å"
        case.against("force_mae", message, valid_force_mae, allowed)
    allowed = limits["phonon_change_thz"]
    if trained and phonon_change_thz is None:
        case.against(
            "convergence_unknown", "no smaller training set to compare its phonons with: convergence is unknown"
        )
    elif trained and phonon_change_thz is not None and not phonon_change_thz <= allowed:
        message = f"phonons still move with the training set: {phonon_change_thz:.3f} THz, allowed {allowed:g} THz"
        case.against("not_converged", message, phonon_change_thz, allowed)
    allowed = limits["check_percent"]
    if check_percent is not None and not check_percent <= allowed:
        message = f"forces of displaced cells off by {check_percent:.1f} %, allowed {allowed:g} %"
        case.against("check_forces", message, check_percent, allowed)
    if not improved:
        case.against("not_improved", "training did not lower the validation loss")
    if stable is False:
        case.against("imaginary_modes", "predicts imaginary modes, which only reference phonons could confirm")
    return Verdict.of(case.reasons, limits)
