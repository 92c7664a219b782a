"""A campaign: materials × foundations × strategies × training-set sizes × cells × seeds, as data and as a flow."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from jobflow import Flow, Maker
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from phonosmith.core.errors import ConfigurationError
from phonosmith.flows.material import FineTuneMaterialMaker, Mode, VariantNames
from phonosmith.flows.parts import MaterialParts
from phonosmith.potentials.documents import PotentialRef
from phonosmith.sampling.documents import CellSize

if TYPE_CHECKING:
    from pymatgen.core import Structure

Evaluation = Literal["phonons", "elastic", "eos", "forgetting", "transitions"]
CELLS: tuple[str, ...] = get_args(CellSize)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MaterialSpec(_Strict):
    """One crystal."""

    structure: str = Field(description="structure file, relative to the campaign file; or 'embedded:Si'")
    name: str = Field("", description="short name in job names and reports; the file's name by default")

    @model_validator(mode="after")
    def _named(self) -> MaterialSpec:
        if not self.name:
            last = self.structure.partition(":")[2] if self.structure.startswith("embedded:") else self.structure
            self.name = Path(last).name.split(".")[0] if Path(last).suffix else Path(last).name
        if not re.fullmatch(r"[A-Za-z0-9_.+()-]+", self.name):
            raise ValueError(f"the name {self.name!r} may hold letters, digits and _ . + ( ) - only: give 'name'")
        return self


class EngineSpec(_Strict):
    """Who plays or is DFT."""

    name: Literal["vasp", "forcefield", "gpaw"] = Field("vasp", description="program")
    potential: str | None = Field(None, description="potential of the forcefield engine, or of a rehearsal")
    rehearsal: bool = Field(False, description="play VASP with the stand-in: a test of everything but DFT")
    protocol: dict[str, Any] = Field(default_factory=dict, description="settings that differ from the published ones")
    wall_time: int | None = Field(None, gt=0, description="VASP is asked to stop after so many seconds")


class CampaignSpec(_Strict):
    """What a campaign file may say."""

    name: str = Field("campaign", description="name of the campaign in reports")
    materials: list[MaterialSpec] = Field(min_length=1, description="crystals, relaxed")
    foundations: list[str] = Field(min_length=1, description="potentials to start from: names, sha256 or files")
    strategies: list[str] = Field(["transfer", "delta"], min_length=1, description="presets of training")
    n_train: list[int] = Field(default_factory=list, description="training-set sizes; empty: all labels")
    cells: list[CellSize] = Field(["large"], min_length=1, description="sizes of the sampling cell")
    seeds: list[int] = Field([0], min_length=1, description="training seeds")
    sampling_seed: int = Field(0, description="seed of the sampling, shared by all training seeds")
    sampler: str | None = Field(None, description="foundation that relaxes the configurations; the first by default")
    evaluate: list[Evaluation] = Field(["phonons", "forgetting"], description="what to compute of every potential")
    mode: Mode = Field("comparison", description="comparison, or production without reference phonons")
    engine: EngineSpec = Field(default_factory=EngineSpec, description="who computes labels and reference results")
    training: dict[str, Any] = Field(default_factory=dict, description="settings for all strategies, or by strategy")
    sampling: dict[str, Any] = Field(default_factory=dict, description="settings that differ from the protocol")
    replay: str | None = Field(None, description="replay structures (extended XYZ), relative to the campaign file")
    min_length: float = Field(20.0, gt=0, description="shortest edge of phonon supercells, Å")
    curvature_min_length: float = Field(5.0, gt=0, description="shortest edge of curvature supercells, Å")
    mesh: int = Field(20, gt=0, description="q-mesh of comparisons")
    n_checks: int = Field(2, ge=0, le=3, description="displaced cells the reference calculates in production mode")
    check_min_length: float = Field(10.0, gt=0, description="shortest edge of their supercell, Å")
    walltime: float | None = Field(None, gt=0, description="longest time of one training job, s")

    @field_validator("materials", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """Accept ``- Si.cif`` for ``- structure: Si.cif``."""
        return [{"structure": item} if isinstance(item, str) else item for item in value] if value else value


@dataclass
class CampaignMaker(Maker):
    """Every material with every foundation, strategy, size, cell and seed; what can be shared is computed once.

    Reference results belong to a material. Labels belong to a material and a sampling cell: one potential relaxes the
    configurations for all foundations. Names of jobs of the first foundation, cell and seed carry the material alone,
    those of others say what differs, so that appending to a list changes no job there was before.

    Attributes
    ----------
    name
        Name of the campaign.
    maker
        Everything else: engine, strategies, sizes, settings.
    cells
        Sampling cells.
    seeds
        Training seeds; ``maker.sampling_seed`` is that of the sampling.
    """

    name: str = "campaign"
    maker: FineTuneMaterialMaker = field(default_factory=FineTuneMaterialMaker)
    cells: tuple[str, ...] = ("large",)
    seeds: tuple[int, ...] = (0,)

    def make(
        self,
        materials: Mapping[str, Structure],
        foundations: Sequence[PotentialRef],
        sampler: PotentialRef | None = None,
    ) -> Flow:
        """Return the flow; its output is the list of ``MaterialReport``.

        Parameters
        ----------
        materials
            Crystals by short name.
        foundations
            Potentials to start from.
        sampler
            Potential that relaxes the configurations; the first foundation by default.

        Raises
        ------
        ConfigurationError
            For two materials or foundations of one name, and for all that ``FineTuneMaterialMaker`` refuses.
        """
        slugs = [_slug(ref.name) for ref in foundations]
        for kind, called in (("materials", [name.lower() for name in materials]), ("foundations", slugs)):
            double = sorted({name for name in called if called.count(name) > 1})
            if double:
                raise ConfigurationError(f"Two {kind} are called {double[0]!r}.", "Give each its own name.")
        base = dataclasses.replace(
            self.maker,
            campaign=self.name,
            sampling_seed=self.seeds[0] if self.maker.sampling_seed is None else self.maker.sampling_seed,
        )
        for structure in materials.values():
            for foundation in [*foundations, *([sampler] if sampler is not None else [])]:
                base.check(structure, foundation)
        flows, reports = [], []
        for label, structure in materials.items():
            key = label.lower()
            parts = MaterialParts(base, structure, key)
            for cell in self.cells:
                labels = key if cell == self.cells[0] else f"{key}-{cell}"
                for foundation, slug in zip(foundations, slugs, strict=True):
                    own = key if foundation is foundations[0] else f"{key}-{slug}"
                    for seed in self.seeds:
                        variant = own if cell == self.cells[0] else f"{own}-{cell}"
                        variant += "" if seed == self.seeds[0] else f"-s{seed}"
                        maker = dataclasses.replace(base, sampling={**base.sampling, "cell": cell}, seed=seed)
                        names = VariantNames(labels, own, variant)
                        report = maker.add_variant(parts, foundation, label, names, sampler or foundations[0])
                        reports.append(report)
            flows.append(Flow(parts.jobs, name=f"{self.name} {key}"))
        return Flow(flows, output=[report.output for report in reports], name=self.name)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
