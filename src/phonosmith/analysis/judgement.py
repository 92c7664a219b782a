"""The verdict on a potential from the numbers of its report, again whenever the limits have changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel

from phonosmith.analysis.documents import MaterialReport, PotentialReport
from phonosmith.evaluation.phonons.documents import PhononComparison
from phonosmith.evaluation.verdict import LimitName, Thresholds, Verdict, judge, judge_production, unfit
from phonosmith.settings import get_settings

T = TypeVar("T", bound=BaseModel)
_UNJUDGED = ("mismatch", "no_phonons")
"""Codes of verdicts that rest on no number."""


def verdict_on(entry: PotentialReport, limits: Thresholds, base: PhononComparison | None) -> Verdict:
    """Judge an entry of a report by its numbers; ``base``: the foundation's comparison, None for the foundation."""
    improved = entry.improved is not False
    if entry.summary is None:
        return unfit("no_phonons", "its phonons could not be computed")
    if entry.phonons is not None:
        return judge(entry.phonons, limits, base, improved=improved, expected=entry.expected_mae_thz)
    return judge_production(
        limits,
        valid_force_mae=entry.valid_force_mae,
        phonon_change_thz=entry.phonon_change_thz,
        check_percent=None if entry.check is None else entry.check.relative_percent,
        improved=improved,
        stable=entry.summary.stable_practical,
        trained=entry.n_train > 0,
        expected=entry.expected_mae_thz,
    )


def judged_again(entry: PotentialReport, limits: Thresholds, base: PhononComparison | None, mode: str) -> Verdict:
    """Return the verdict on a stored entry by other limits; one that no limit had a part in stays."""
    stays = any(reason.code in _UNJUDGED for reason in entry.verdict.details)
    return (
        entry.verdict if stays or (mode == "comparison" and entry.phonons is None) else verdict_on(entry, limits, base)
    )


def limits_of(given: Mapping[LimitName, float] | None) -> Thresholds:
    """Return the limits that hold here and now for a report whose campaign gave some of its own."""
    return Thresholds.of(get_settings(), given)


def rejudged(report: MaterialReport) -> MaterialReport:
    """Return a report with its verdicts by the limits of the campaign and, for the rest, of today's settings."""
    limits, base = limits_of(report.limits), report.foundation.phonons

    def again(entry: PotentialReport, base: PhononComparison | None) -> PotentialReport:
        return entry.model_copy(update={"verdict": judged_again(entry, limits, base, report.mode)})

    entries = [again(entry, base) for entry in report.strategies]
    return report.model_copy(update={"foundation": again(report.foundation, None), "strategies": entries})


def fit_by_todays_limits(part: Mapping[str, Any], report: Mapping[str, Any]) -> bool | None:
    """Return whether a potential of a projected report is fit by the limits that hold now; None without a verdict.

    ``part`` needs the paths `VERDICT_PATHS`, the report's foundation too.
    """
    if (part.get("verdict") or {}).get("fit") is None:
        return None
    entry, foundation = (_partial(PotentialReport, one) for one in (part, report["foundation"]))
    base = None if part is report["foundation"] else foundation.phonons
    mode = report.get("mode") or "comparison"
    return judged_again(entry, limits_of(report.get("limits")), base, mode).fit


VERDICT_PATHS = (
    "n_train", "improved", "valid_force_mae", "phonon_change_thz", "check.relative_percent",
    "summary.seconds", "summary.stable_practical", "verdict.fit", "verdict.details.code",
    "phonons.mae_thz", "phonons.omega_max_error_percent", "phonons.same_space_group",
    *(f"phonons.{side}.{name}" for side in ("candidate", "reference")
      for name in ("heat_capacity", "entropy", "stable_practical", "space_group")),
)  # fmt: skip
"""What of a potential's part of a report a verdict rests on."""


def _partial(model: type[T], data: Mapping[str, Any]) -> T:
    """Return a document of which only some fields are known, not validated."""
    # pydantic looks up the signature of a builtin factory each time it uses one: nine tenths of reading a report
    known: dict[str, Any] = {
        name: field.default_factory()
        for name, field in model.model_fields.items()
        if field.default_factory in (list, dict) and name not in data
    }
    for name, value in data.items():
        field = model.model_fields.get(name)
        if field is None:
            continue
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if _is_model(kind)]
        if inner and isinstance(value, Mapping):
            value = _partial(inner[0], value)  # noqa: PLW2901
        elif inner and isinstance(value, list):
            value = [_partial(inner[0], one) for one in value]  # noqa: PLW2901
        known[name] = value
    return model.model_construct(**known)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
