"""One material from crystal to verdicts: sampling, labels, audit, every strategy and size, results on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jobflow import Flow, Job

from phonosmith.core.changing import HoldingMaker
from phonosmith.core.document import schemas_once
from phonosmith.core.errors import ConfigurationError, PotentialError
from phonosmith.core.references import references_found_quickly
from phonosmith.evaluation.verdict import Thresholds
from phonosmith.flows.finished import FinishedPhonons
from phonosmith.flows.jobs import collect_curve
from phonosmith.flows.parts import MaterialParts, Owner
from phonosmith.flows.reporting import ReportInputs, ReportSubject, TrainedPotential, report_material
from phonosmith.flows.settings import MaterialSettings, material_settings, training_of
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.datasets.documents import DatasetRef
from phonosmith.reference.engines import ReferenceEngine, make_engine
from phonosmith.sampling.documents import SamplingSettings
from phonosmith.settings import get_settings
from phonosmith.structures.magnetic import given_moments
from phonosmith.training.documents import TrainingInputs
from phonosmith.training.jobs import FineTuneMaker

if TYPE_CHECKING:
    from jobflow import OutputReference
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


@dataclass(frozen=True)
class _Training:
    """One training of a material: ``n_train`` labels asked, None: all."""

    strategy: str
    n_train: int | None
    maker: FineTuneMaker
    inputs: TrainingInputs


@dataclass(init=False)
class FineTuneMaterialMaker(HoldingMaker):
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
    static_maker, phonon_maker, elastic_maker
        Own Makers of atomate2 for VASP: a StaticMaker whose inputs every calculation has, a PhononMaker and an
        ElasticMaker for the reference (`engine_following`).
    """

    name: str = "fine-tune"
    engine: ReferenceEngine | None = None
    settings: MaterialSettings = field(default_factory=MaterialSettings)
    replay: DatasetRef | None = None
    seed: int = 0
    campaign: str = ""
    static_maker: Any = None
    phonon_maker: Any = None
    elastic_maker: Any = None

    def __init__(
        self,
        name: str = "fine-tune",
        engine: ReferenceEngine | None = None,
        settings: MaterialSettings | None = None,
        replay: DatasetRef | None = None,
        seed: int = 0,
        campaign: str = "",
        static_maker: Any = None,
        phonon_maker: Any = None,
        elastic_maker: Any = None,
        **changes: Any,
    ) -> None:
        self.name, self.engine, self.replay, self.seed, self.campaign = name, engine, replay, seed, campaign
        self.static_maker, self.phonon_maker, self.elastic_maker = static_maker, phonon_maker, elastic_maker
        self.settings = material_settings(settings, **changes)

    @schemas_once()
    @references_found_quickly()
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
        (report,) = self.add_variants(parts, [variant], label)
        return Flow(parts.jobs, output=report.output, name=f"{self.name} {key}")

    def parts(self, structure: Structure, key: str) -> MaterialParts:
        """Return what the variants of a material share, nothing of it made yet."""
        seed = self.seed if self.settings.sampling_seed is None else self.settings.sampling_seed
        return MaterialParts(
            structure,
            key,
            self.settings,
            self._engine_for(structure),
            seed,
            self.replay,
            phonon_maker=self.phonon_maker,
            elastic_maker=self.elastic_maker,
        )

    def _engine_for(self, structure: Structure) -> ReferenceEngine:
        """Return the engine, with the magnetic order of a crystal whose sites carry moments where it knows of spin."""
        engine, order = self.require_engine(), given_moments(structure)
        knows = engine.name != "forcefield" and engine.protocol.spin_polarized
        return engine.with_order(order) if order is not None and knows else engine

    def add_variants(self, parts: MaterialParts, variants: Sequence[Variant], label: str) -> list[Job]:
        """Add the jobs of foundations, cells and seeds to those of a material and return the reports'."""
        pack = None
        if self.settings.pack == "material" and self.settings.adaptive is None:
            asked = [one for variant in variants for one in self._trainings(parts, variant)]
            pack = parts.pack([one.maker for one in asked], [one.inputs for one in asked])
        return [self._add_variant(parts, variant, label, pack) for variant in variants]

    def _trainings(self, parts: MaterialParts, variant: Variant) -> list[_Training]:
        """Return the trainings of a variant; what they take is made where it is not yet."""
        settings = self.settings
        specs, sizes = settings.specs(), parts.sizes
        _, audited = parts.labels(variant.sampler, variant.sampling, variant.labels)
        curvature = parts.curvature() if any(spec.uses_curvature for spec in specs.values()) else None
        size = max((spec.replay_size for spec in specs.values() if spec.uses_replay), default=0)
        replay = parts.replay_structures(variant.foundation, variant.base, size) if size else None
        return [
            _Training(
                strategy,
                number,
                FineTuneMaker(
                    strategy=strategy,
                    settings=training_of(settings.training, strategy),
                    seed=variant.seed,
                    walltime=settings.walltime,
                ),
                TrainingInputs(
                    material=variant.name,
                    foundation=variant.foundation,
                    train=parts.training_set(audited, number, variant.labels),
                    valid=audited.valid,
                    replay=replay if spec.uses_replay else None,
                    force_constants=curvature if spec.uses_curvature else None,
                ),
            )
            for strategy, spec in specs.items()
            for number in sizes or (None,)
        ]

    def _add_variant(self, parts: MaterialParts, variant: Variant, label: str, pack: OutputReference | None) -> Job:
        """Add the jobs of one foundation, cell and seed; ``pack``: what ran its trainings, where one job did."""
        settings, foundation, engine = self.settings, variant.foundation, parts.engine
        several = len(parts.sizes) > 1
        sample: OutputReference | None
        if settings.adaptive is None:
            adaptive = None
            sample, audited = parts.labels(variant.sampler, variant.sampling, variant.labels)
        else:
            sample = parts.sample(variant.sampler, variant.sampling, variant.labels)
            adaptive = parts.adaptive(sample, foundation, variant.seed, variant.name)
            audited = adaptive.labels
        reference = parts.reference()
        owner = Owner(f"foundation {foundation.sha256}", variant.base, "foundation", "foundation")
        base = parts.results(foundation, owner)
        trained, subsets = [], {}
        if adaptive is not None:
            (strategy,) = settings.strategies
            owner = Owner(f"{variant.name} {strategy}", variant.name, strategy, strategy)
            results = parts.results(adaptive.potential, owner, foundation)
            trained.append(
                TrainedPotential(
                    strategy=strategy,
                    n_train=None,
                    training=adaptive.training,
                    results=results,
                    committee=adaptive.committee,
                    spent=adaptive.costs,
                )
            )
        for one in self._trainings(parts, variant) if adaptive is None else ():
            ending = f"{one.strategy} {one.n_train}" if several else one.strategy
            train = one.maker.make_of(one.inputs, pack)
            n_train = one.n_train if several else None
            owner = Owner(f"{variant.name} {ending}", variant.name, ending, one.strategy, n_train)
            # the training was done in the pack: its own job only takes the result from there
            step = "collect" if pack is not None else None
            spec = one.maker.spec()
            # how many visits mean is known once the labels are
            epochs = None if spec.visits else spec.epochs
            parts.add(
                train, "train", variant.name, ending, strategy=one.strategy, n_train=n_train, step=step, epochs=epochs
            )
            results = parts.results(train.output.model, owner, foundation, one.inputs.replay)
            trained.append(
                TrainedPotential(strategy=one.strategy, n_train=one.n_train, training=train.output, results=results)
            )
            if one.n_train is not None:
                subsets[str(one.n_train)] = one.inputs.train
        subject = ReportSubject(
            material=label,
            key=variant.name,
            campaign=self.campaign,
            mode=settings.mode,
            cell=_cell_name(parts, variant.sampling),
            seed=variant.seed,
            reference=engine.functional if engine.name == "forcefield" else f"{engine.name} {engine.functional}",
            rehearsal=engine.rehearsal is not None,
            mesh=settings.mesh,
            limits=settings.verdict,
            thresholds=Thresholds.of(get_settings(), settings.verdict),
        )
        inputs = ReportInputs(
            sample=sample,
            labels=audited,
            subsets=subsets,
            reference=reference,
            foundation=foundation,
            base=base,
            trained=trained,
        )
        report: Job = report_material(subject, parts.crystal, inputs)
        parts.add(report, "report", variant.name)
        if settings.learning_curve:
            parts.add(collect_curve(report.output), "curve", variant.name)
        return report

    def check(self, structure: Structure, foundation: PotentialRef) -> None:
        """Refuse an engine that is missing or lacks something, an unknown setting, a foundation without an element."""
        engine = self._engine_for(structure)
        if isinstance(engine, FinishedPhonons):
            engine.require(self.settings)
        self.settings.require_of(engine)
        self.settings.specs()
        missing = sorted({site.specie.symbol for site in structure} - set(foundation.elements))
        if missing:
            raise PotentialError(
                f"The foundation {foundation.name} does not know {', '.join(missing)}.",
                "Choose a foundation that covers every element of the material.",
            )

    def require_engine(self) -> ReferenceEngine:
        """Return the engine, with the inputs of own Makers."""
        makers = (self.static_maker, self.phonon_maker, self.elastic_maker)
        if any(maker is not None for maker in makers):
            from phonosmith.reference.vasp.own_makers import engine_following

            return engine_following(self.engine or make_engine("vasp"), *makers)
        if self.engine is None:
            raise ConfigurationError(f"{type(self).__name__} has no engine.", "Pass engine=make_engine('vasp').")
        return self.engine


def _cell_name(parts: MaterialParts, sampling: SamplingSettings) -> str:
    if parts.finished is not None:
        return ""
    return "given" if sampling.supercell_matrix is not None else sampling.cell
