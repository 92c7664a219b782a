"""Is this potential fit for phonons of this material? One rule, thresholds given, reasons with codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import ConfigDict, Field, PositiveFloat

from phonosmith.core.document import Document

if TYPE_CHECKING:
    from phonosmith.evaluation.phonons.committee import Interval
    from phonosmith.evaluation.phonons.documents import PhononComparison
    from phonosmith.settings import Settings

ReasonCode = Literal[
    "phonon_mae", "omega_max", "heat_capacity", "entropy", "stability", "space_group", "worse_than_foundation",
    "not_improved", "mismatch", "no_phonons", "no_validation", "force_mae", "convergence_unknown", "not_converged",
    "check_forces", "imaginary_modes", "mae_uncertain",
]  # fmt: skip
_WORDS: dict[ReasonCode, str] = {
    "phonon_mae": "phonon MAE {value:.3f} THz exceeds {limit:g} THz",
    "omega_max": "highest frequency off by {value:+.1f} %, allowed {limit:g} %",
    "heat_capacity": "heat capacity off by {value:+.1f} %, allowed {limit:g} %",
    "entropy": "entropy off by {value:+.1f} %, allowed {limit:g} %",
    "stability": "predicts a dynamically {ours} crystal, the reference is {theirs}",
    "space_group": "relaxes to {ours}, the reference to {theirs}",
    "worse_than_foundation": "worse than the foundation ({value:.3f} > {limit:.3f} THz)",
    "not_improved": "training did not lower the validation loss",
    "no_validation": "no validation errors",
    "force_mae": "validation force MAE {value:.1f} meV/Å exceeds {limit:g} meV/Å",
    "convergence_unknown": "no smaller training set to compare its phonons with: convergence is unknown",
    "not_converged": "phonons still move with the training set: {value:.3f} THz, allowed {limit:g} THz",
    "check_forces": "forces of displaced cells off by {value:.1f} %, allowed {limit:g} %",
    "imaginary_modes": "predicts imaginary modes, which only reference phonons could confirm",
    "mae_uncertain": "phonon MAE may be {value:.3f} THz, the upper end of what its committee leaves open; allowed "
    "{limit:g} THz",
}
CONVERGENCE: tuple[ReasonCode, ...] = ("convergence_unknown", "not_converged")
"""Reasons that more labels may remove."""


LimitName = Literal[
    "phonon_mae_thz", "omega_max_percent", "thermal_percent", "force_mae_mev_per_angstrom", "phonon_change_thz",
    "check_percent",
]  # fmt: skip
GivenLimits = dict[LimitName, PositiveFloat]
"""Limits that a campaign sets for itself; what it leaves out is a setting of the installation."""


class Thresholds(Document):
    """What is good enough: one set of limits for both rules."""

    model_config = ConfigDict(frozen=True)

    phonon_mae_thz: float = Field(gt=0, description="largest phonon MAE, THz")
    omega_max_percent: float = Field(gt=0, description="largest error of the highest frequency, percent")
    thermal_percent: float = Field(gt=0, description="largest error of C_v and S at 300 K, percent")
    force_mae_mev_per_angstrom: float = Field(gt=0, description="production: largest validation force MAE, meV/Å")
    phonon_change_thz: float = Field(
        gt=0, description="production: largest phonon MAE between the last two training sets, THz"
    )
    check_percent: float = Field(
        gt=0, description="production: largest relative force error in displaced cells, percent"
    )

    @classmethod
    def of(cls, settings: Settings, given: Mapping[LimitName, float] | None = None) -> Thresholds:
        """Return the limits of the settings, those a campaign gives itself in their place."""
        limits: dict[LimitName, float] = {
            "phonon_mae_thz": settings.verdict_phonon_mae_thz,
            "omega_max_percent": settings.verdict_omega_max_percent,
            "thermal_percent": settings.verdict_thermal_percent,
            "force_mae_mev_per_angstrom": settings.production_force_mae,
            "phonon_change_thz": settings.production_change_thz,
            "check_percent": settings.production_check_percent,
        }
        return cls.model_validate({**limits, **(given or {})})

    def named(self, *names: LimitName) -> dict[str, float]:
        """Return some of them, as a verdict records those it applied."""
        return {name: getattr(self, name) for name in names}


SAME_THZ = 1e-6
"""THz by which a phonon MAE may exceed the foundation's and be no worse: sums in another order differ by less."""


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
    def of(cls, details: list[VerdictReason], thresholds: Mapping[str, float] | None = None) -> Verdict:
        """Return the verdict that some reasons, or none, amount to."""
        reasons = [reason.message for reason in details]
        return cls(fit=not details, reasons=reasons, thresholds=dict(thresholds or {}), details=details)

    def __str__(self) -> str:
        return "fit" if self.fit else f"not fit: {'; '.join(self.reasons)}"


def unfit(code: ReasonCode, message: str) -> Verdict:
    """Return the verdict on a potential that cannot be judged."""
    return Verdict.of([VerdictReason(code=code, message=message)])


def _reason(code: ReasonCode, value: float | None = None, limit: float | None = None, **words: str) -> VerdictReason:
    message = _WORDS[code].format(value=value, limit=limit, **words)
    return VerdictReason(code=code, message=message, value=value, threshold=limit)


def _exceeded(measured: Iterable[tuple[ReasonCode, float | None, float]]) -> list[VerdictReason]:
    """Return the reasons whose value is known and not within its limit, nan included."""
    return [_reason(code, x, limit) for code, x, limit in measured if x is not None and not abs(x) <= limit]


def _uncertain(expected: Interval | None, limits: Thresholds) -> list[VerdictReason]:
    """Return the reason of a committee whose interval of the phonon MAE reaches beyond the limit."""
    high = None if expected is None else expected.high
    return _exceeded([("mae_uncertain", high, limits.phonon_mae_thz)])


def _percent(ours: float, theirs: float) -> float:
    return 100 * (ours - theirs) / theirs if theirs else float("inf")


def judge(
    comparison: PhononComparison,
    limits: Thresholds,
    foundation: PhononComparison | None = None,
    *,
    improved: bool = True,
    expected: Interval | None = None,
) -> Verdict:
    """Judge a potential by its phonons against the reference.

    Where there is a committee, the upper end of its interval of the phonon MAE (``expected``) must keep the limit too:
    a potential is fit when one more training of its kind would be. A potential worse than the foundation (against the
    same reference), or whose training did not lower the validation loss (``improved``), is never fit.
    """
    ours, theirs, mae = comparison.candidate, comparison.reference, comparison.mae_thz
    reasons = _exceeded(
        [
            ("phonon_mae", mae, limits.phonon_mae_thz),
            ("omega_max", comparison.omega_max_error_percent, limits.omega_max_percent),
            ("heat_capacity", _percent(ours.heat_capacity, theirs.heat_capacity), limits.thermal_percent),
            ("entropy", _percent(ours.entropy, theirs.entropy), limits.thermal_percent),
        ]
    )
    if ours.stable_practical != theirs.stable_practical:
        words = {True: "stable", False: "unstable"}
        reasons.append(_reason("stability", ours=words[ours.stable_practical], theirs=words[theirs.stable_practical]))
    if not comparison.same_space_group:
        reasons.append(_reason("space_group", ours=ours.space_group, theirs=theirs.space_group))
    if foundation is not None and mae > foundation.mae_thz + SAME_THZ:
        reasons.append(_reason("worse_than_foundation", mae, foundation.mae_thz))
    if not improved:
        reasons.append(_reason("not_improved"))
    if mae <= limits.phonon_mae_thz:
        reasons += _uncertain(expected, limits)
    return Verdict.of(reasons, limits.named("phonon_mae_thz", "omega_max_percent", "thermal_percent"))


def judge_production(
    limits: Thresholds,
    *,
    valid_force_mae: float | None,
    phonon_change_thz: float | None,
    check_percent: float | None = None,
    improved: bool = True,
    stable: bool | None = None,
    trained: bool = True,
    expected: Interval | None = None,
) -> Verdict:
    """Judge a potential where nobody paid for reference phonons: what is not known speaks against it.

    Parameters
    ----------
    valid_force_mae
        Validation force MAE, meV/Å.
    phonon_change_thz
        Phonon MAE between this potential and the one of the next smaller training set (or the round before), THz.
    check_percent
        Relative force error in displaced cells that the reference calculated, percent; None when none were asked.
    improved, stable
        Training lowered the validation loss; the potential finds the crystal dynamically stable (an unstable one is
        not trusted unseen).
    trained
        False for the foundation, which has no training set to converge with.
    expected
        Phonon MAE that the disagreement of its committee leaves open, THz; its upper end must keep the limit.
    """
    reasons = [_reason("no_validation")] if valid_force_mae is None else []
    reasons += _exceeded([("force_mae", valid_force_mae, limits.force_mae_mev_per_angstrom)])
    if trained and phonon_change_thz is None:
        reasons.append(_reason("convergence_unknown"))
    reasons += _exceeded(
        [
            ("not_converged", phonon_change_thz if trained else None, limits.phonon_change_thz),
            ("check_forces", check_percent, limits.check_percent),
        ]
    )
    if not improved:
        reasons.append(_reason("not_improved"))
    if stable is False:
        reasons.append(_reason("imaginary_modes"))
    reasons += _uncertain(expected, limits)
    applied: list[LimitName] = ["force_mae_mev_per_angstrom", "phonon_change_thz", "check_percent"]
    if expected is not None:
        applied.append("phonon_mae_thz")
    return Verdict.of(reasons, limits.named(*applied))
