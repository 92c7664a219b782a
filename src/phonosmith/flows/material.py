"""One material from crystal to verdicts: sampling, labels, audit, every strategy and size, results on both sides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jobflow import Flow, Job, Maker

from phonosmith.core.errors import ConfigurationError, PotentialError
from phonosmith.flows.parts import MaterialParts, Owner
from phonosmith.flows.reporting import ReportInputs, ReportSubject, TrainedPotential, report_material
from phonosmith.flows.settings import MaterialSettings, material_settings, training_of
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.datasets.documents import DatasetRef
from phonosmith.reference.engines import ReferenceEngine
from phonosmith.sampling.documents import SamplingSettings
from phonosmith.training.jobs import FineTuneMaker

if TYPE_CHECKING:
    from pymatgen.core import Structure


@dataclass(frozen=True)
class Variant:
    """One foundation, sampling cell and seed of a material, and what its jobs call it.

    Attributes
    ----------
    sampler
        Potential that relaxes the configurations.
    labels, base, name
        In the names of sampling, label and audit jobs; of the foundation's own jobs; of trainings, of the results of
        trained potentials and of the report.
    """

    foundation: PotentialRef
    sampler: PotentialRef
    sampling: SamplingSettings
    seed: int
    labels: str
    base: str
    name: str


@dataclass(init=False)
class FineTuneMaterialMaker(Maker):
    """Fine-tune a foundation for one material with several strategies and judge each by its phonons.

    Labels and reference results are computed once and shared by all strategies and training-set sizes. Job names begin
    with their stage and the material (``sample si small``, ``label si 07``, ``train si delta``, ``phonon si delta``;
    with several sizes ``train si delta 12``): users' routing rules key on them.

    Parameters
    ----------
    engine
        Who computes labels and reference phonons.
    settings
        What to do; ``changes`` replace fields of it (``strategies``, ``training``, ``sampling``, ``min_length``, ...).
    replay
        Replay structures of strategies that use them; simple crystals labelled by the foundation when None.
    seed
        Of every random draw in training, and of the sampling unless ``sampling_seed`` says otherwise.
    campaign
        Name of the campaign in the report.
    """

    name: str = "fine-tune"
    engine: ReferenceEngine | None = None
    settings: MaterialSettings = field(default_factory=MaterialSettings)
    replay: DatasetRef | None = None
    seed: int = 0
    campaign: str = ""

    def __init__(
        self,
        name: str = "fine-tune",
        engine: ReferenceEngine | None = None,
        settings: MaterialSettings | None = None,
        replay: DatasetRef | None = None,
        seed: int = 0,
        campaign: str = "",
        **changes: Any,
    ) -> None:
        self.name, self.engine, self.replay, self.seed, self.campaign = name, engine, replay, seed, campaign
        self.settings = material_settings(settings, **changes)

    def make(
        self, structure: Structure, foundation: PotentialRef, material: str = "", sampler: PotentialRef | None = None
    ) -> Flow:
        """Return the flow for a crystal, relaxed unless the setting ``relax`` says so; output: a ``MaterialReport``.

        ``material`` is the short name used in job names, by default the formula; ``sampler`` relaxes the
        configurations, by default the foundation. What cannot work is refused before any job exists (`check`).
        """
        self.check(structure, foundation)
        label = material or structure.composition.reduced_formula
        key = "-".join(label.lower().split())
        parts = self.parts(structure, key)
        variant = Variant(foundation, sampler or foundation, self.settings.sampling, self.seed, key, key, key)
        report = self.add_variant(parts, variant, label)
        return Flow(parts.jobs, output=report.output, name=f"{self.name} {key}")

    def parts(self, structure: Structure, key: str) -> MaterialParts:
        """Return what the variants of a material share, nothing of it made yet."""
        seed = self.seed if self.settings.sampling_seed is None else self.settings.sampling_seed
        return MaterialParts(structure, key, self.settings, self.require_engine(), seed, self.replay)

    def add_variant(self, parts: MaterialParts, variant: Variant, label: str) -> Job:
        """Add the jobs of one foundation, cell and seed to those of a material and return the report's."""
        settings, foundation, engine = self.settings, variant.foundation, parts.engine
        specs, sizes = settings.specs(), settings.sizes
        several = len(sizes) > 1
        sample, audited = parts.labels(variant.sampler, variant.sampling, variant.labels)
        reference = parts.reference()
        owner = Owner(f"foundation {foundation.sha256}", variant.base, "foundation", "foundation")
        base = parts.results(foundation, owner)
        curvature = parts.curvature() if any(spec.uses_curvature for spec in specs.values()) else None
        size = max((spec.replay_size for spec in specs.values() if spec.uses_replay), default=0)
        replay = parts.replay_structures(foundation, variant.base, size) if size else None
        subsets = {number: parts.training_set(audited, number, variant.labels) for number in sizes or (None,)}
        trained = []
        for strategy, spec in specs.items():
            for number, train_set in subsets.items():
                ending = f"{strategy} {number}" if several else strategy
                trainer = FineTuneMaker(
                    strategy=strategy,
                    settings=training_of(settings.training, strategy),
                    seed=variant.seed,
                    walltime=settings.walltime,
                )
                train = trainer.make(
                    foundation,
                    train_set,
                    audited.valid,
                    material=variant.name,
                    replay=replay if spec.uses_replay else None,
                    force_constants=curvature if spec.uses_curvature else None,
                )
                owner = Owner(f"{variant.name} {ending}", variant.name, ending, strategy, number if several else None)
                parts.add(train, "train", variant.name, ending, strategy=strategy, n_train=owner.n_train)
                results = parts.results(train.output.model, owner, foundation, replay if spec.uses_replay else None)
                trained.append(
                    TrainedPotential(strategy=strategy, n_train=number, training=train.output, results=results)
                )
        subject = ReportSubject(
            material=label,
            key=variant.name,
            campaign=self.campaign,
            mode=settings.mode,
            cell="given" if variant.sampling.supercell_matrix is not None else variant.sampling.cell,
            seed=variant.seed,
            reference=engine.functional if engine.name == "forcefield" else f"{engine.name} {engine.functional}",
            rehearsal=engine.rehearsal is not None,
            mesh=settings.mesh,
        )
        inputs = ReportInputs(
            sample=sample,
            labels=audited,
            subsets={str(number): ref for number, ref in subsets.items() if number is not None},
            reference=reference,
            foundation=foundation,
            base=base,
            trained=trained,
        )
        report: Job = report_material(subject, parts.crystal, inputs)
        parts.add(report, "report", variant.name)
        return report

    def check(self, structure: Structure, foundation: PotentialRef) -> None:
        """Refuse a missing engine, an unknown strategy or setting, and a foundation that lacks an element."""
        self.require_engine()
        self.settings.specs()
        missing = sorted({site.specie.symbol for site in structure} - set(foundation.elements))
        if missing:
            raise PotentialError(
                f"The foundation {foundation.name} does not know {', '.join(missing)}.",
                "Choose a foundation that covers every element of the material.",
            )

    def require_engine(self) -> ReferenceEngine:
        """Return the engine."""
        if self.engine is None:
            raise ConfigurationError(f"{type(self).__name__} has no engine.", "Pass engine=make_engine('vasp').")
        return self.engine
