"""How many labels are needed: phonon and force errors by the size of nested training sets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jobflow import Flow, Maker

from phonosmith.flows.material import FineTuneMaterialMaker
from phonosmith.flows.settings import material_settings

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from phonosmith.potentials.documents import PotentialRef


@dataclass
class LearningCurveMaker(Maker):
    """Train every strategy on nested training sets and report phonon and force errors by size.

    ``sizes`` replace those of ``maker``; labels and reference results are computed once for all. Campaigns have the key
    ``learning_curve`` for the same.
    """

    name: str = "learning curve"
    maker: FineTuneMaterialMaker = field(default_factory=FineTuneMaterialMaker)
    sizes: tuple[int, ...] = (2, 4, 8, 12, 16)

    def make(self, structure: Structure, foundation: PotentialRef, material: str = "") -> Flow:
        """Return the flow; its output is a ``LearningCurveReport``."""
        settings = material_settings(self.maker.settings, n_train=(), learning_curve=self.sizes)
        inner = dataclasses.replace(self.maker, settings=settings).make(structure, foundation, material)
        (curve,) = (one for one in inner.jobs if one.name.startswith("curve "))
        return Flow([inner], output=curve.output, name=f"{self.name} {curve.name.removeprefix('curve ')}")
