"""Learning curves: nested training sets of one material."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jobflow import Flow, Maker, job

from phonosmith.analysis.documents import MaterialReport, PotentialReport
from phonosmith.analysis.learning_documents import CurvePoint, LearningCurve, LearningCurveReport
from phonosmith.core.errors import ConfigurationError
from phonosmith.core.manifest import recorded
from phonosmith.flows.jobs import read_document
from phonosmith.flows.material import FineTuneMaterialMaker

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from phonosmith.potentials.documents import PotentialRef

SIZES = (2, 4, 8, 12, 16)


def _point(entry: PotentialReport) -> CurvePoint:
    return CurvePoint(
        n_train=entry.n_train,
        phonon_mae_thz=None if entry.phonons is None else entry.phonons.mae_thz,
        phonon_change_thz=entry.phonon_change_thz,
        train_force_mae=entry.train_force_mae,
        valid_force_mae=entry.valid_force_mae,
        fit=entry.verdict.fit,
    )


def learning_curves(report: MaterialReport) -> list[LearningCurve]:
    """Sort the potentials of a report into one curve per strategy."""
    curves = []
    for strategy in dict.fromkeys(entry.strategy for entry in report.strategies):
        entries = sorted((e for e in report.strategies if e.strategy == strategy), key=lambda e: e.n_train)
        points = [_point(entry) for entry in entries]
        sufficient = None
        for point in reversed(points):
            if not point.fit:
                break
            sufficient = point.n_train
        curves.append(LearningCurve(strategy=strategy, points=points, sufficient=sufficient))
    return sorted(curves, key=lambda curve: curve.strategy)


@job(output_schema=LearningCurveReport)
def collect_curve(report: Any) -> LearningCurveReport:
    """Take the learning curves from the report of a material."""
    found = read_document(MaterialReport, report)
    with recorded({"train": found.labels.train.sha256}, seed=found.seed) as manifest:
        base = found.foundation
        return LearningCurveReport(
            material=found.material,
            mode=found.mode,
            foundation_phonon_mae_thz=None if base.phonons is None else base.phonons.mae_thz,
            foundation_force_mae=base.valid_force_mae,
            curves=learning_curves(found),
            failed=found.failed,
            manifest=manifest,
        )


@dataclass
class LearningCurveMaker(Maker):
    """Train every strategy on nested training sets and report phonon and force errors by size.

    Attributes
    ----------
    name
        Flow name.
    maker
        Strategies, engine and settings; its ``n_train`` is replaced.
    sizes
        Training-set sizes; labels and reference results are computed once for all.
    """

    name: str = "learning curve"
    maker: FineTuneMaterialMaker = field(default_factory=FineTuneMaterialMaker)
    sizes: tuple[int, ...] = SIZES

    def make(self, structure: Structure, foundation: PotentialRef, material: str = "") -> Flow:
        """Return the flow; its output is a ``LearningCurveReport``."""
        if len(set(self.sizes)) < 2:
            raise ConfigurationError("A learning curve needs two training-set sizes or more.", "Give e.g. (4, 8, 16).")
        inner = dataclasses.replace(self.maker, n_train=tuple(self.sizes)).make(structure, foundation, material)
        curve = collect_curve(inner.output)
        curve.name = f"curve {inner.name.removeprefix(self.maker.name).strip()}"
        return Flow([inner, curve], output=curve.output, name=f"{self.name} {curve.name.removeprefix('curve ')}")
