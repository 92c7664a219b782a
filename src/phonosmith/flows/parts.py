"""Jobs of one material that several potentials share: each is made once and its output handed out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from jobflow import Flow, Job

from phonosmith.core.metadata import PACK, describe, named
from phonosmith.evaluation.forgetting.jobs import ForgettingMaker
from phonosmith.evaluation.mechanics.jobs import (
    ElasticFlowMaker,
    EosFlowMaker,
    FastElasticMaker,
    FastEosMaker,
    eos_volumes,
)
from phonosmith.evaluation.modes.jobs import ModeFollowingMaker, TransitionMaker
from phonosmith.evaluation.phonons.fastpath import choose_phonon_supercell, displaced_cells
from phonosmith.evaluation.phonons.jobs import FastPhononMaker, PhononFlowMaker, engine_potential
from phonosmith.evaluation.thermal.jobs import KappaFlowMaker, QhaFlowMaker, run_kappa, run_qha
from phonosmith.evaluation.thermal.kappa import displaced_frames, third_order_cells
from phonosmith.evaluation.thermal.qha import FACTORS
from phonosmith.flows.adaptive import AdaptiveMaker, AdaptiveState
from phonosmith.flows.costs import collect_program_costs
from phonosmith.flows.finished import FinishedPhonons, labels_of_file, phonons_of_file
from phonosmith.flows.jobs import (
    audit_material,
    force_constants_file,
    label_displaced,
    replay_material,
    start_needed_labels,
    training_subset,
)
from phonosmith.flows.reference import check_cells, reference_relaxation
from phonosmith.flows.reporting import PotentialResults, ReferenceResults
from phonosmith.flows.settings import MaterialSettings, most_labels, training_of
from phonosmith.harmonic.model import new_phonon, to_phonopy_atoms
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.datasets.documents import DatasetRef
from phonosmith.reference.engines import ReferenceEngine
from phonosmith.reference.jobs import LabelMaker
from phonosmith.sampling.documents import SamplingSettings
from phonosmith.sampling.jobs import SamplingMaker
from phonosmith.training.documents import TrainingInputs
from phonosmith.training.jobs import FineTuneMaker, PackMaker

if TYPE_CHECKING:
    from jobflow import OutputReference
    from pymatgen.core import Structure

REFERENCE = "reference"
_STAGES = {
    "relax": "relax", "phonons": "phonon", "elastic": "elastic", "eos": "eos", "transitions": "follow", "qha": "qha",
    "kappa": "kappa",
}  # fmt: skip


@dataclass(frozen=True)
class Owner:
    """Whose results (``identity``), and what their jobs are called: the stage, ``variant`` and ``ending``."""

    identity: str
    variant: str
    ending: str
    strategy: str
    n_train: int | None = None


@dataclass
class MaterialParts:
    """Everything that is calculated once per material, whatever the foundations, strategies, sizes and seeds.

    Cell and seed of training, which tell apart variants, are given to the methods; ``seed`` is that of the sampling, of
    forgetting sets and of replay structures. ``phonon_maker`` and ``elastic_maker`` are own flows of atomate2 for the
    reference. ``jobs`` are those made so far, in order.
    """

    structure: Structure
    key: str
    settings: MaterialSettings
    engine: ReferenceEngine
    seed: int
    given_replay: DatasetRef | None = None
    phonon_maker: Any = None
    elastic_maker: Any = None
    jobs: list[Job | Flow] = field(default_factory=list)
    _made: dict[tuple[str, ...], Job | Flow] = field(default_factory=dict)
    _matrices: dict[float, list[list[int]]] = field(default_factory=dict)

    def add(self, member: Job | Flow, stage: str, variant: str, *words: str, **what: str | int | None) -> Job:
        """Name and describe a job (see `named`), add it to the others and return it."""
        self.jobs.append(named(member, stage, variant, *words, material=self.key, **what))
        return member

    def _once(self, depends_on: tuple[str, ...], make: Callable[[], Job | Flow]) -> OutputReference:
        """Return the output of a job, made the first time it is asked for with what its result depends on."""
        if depends_on not in self._made:
            self._made[depends_on] = make()
        return self._made[depends_on].output

    def _program(self, member: Job | Flow, stage: str) -> Job | Flow:
        """Describe the flow of a reference program, whose last job has the flow's name, and add it."""
        describe(member.jobs[-1] if isinstance(member, Flow) else member, stage=stage)
        describe(member, material=self.key, variant=self.key, strategy=REFERENCE)
        self.jobs.append(member)
        return member

    @property
    def finished(self) -> FinishedPhonons | None:
        """The reference, where its phonons exist already."""
        return self.engine if isinstance(self.engine, FinishedPhonons) else None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Training-set sizes, ascending; empty: one training with all labels."""
        return () if self.finished is not None else self.settings.sizes

    def matrix(self, min_length: float) -> list[list[int]]:
        """Return the supercell of phonons: that of phonons at hand, the one the settings name, or by its edge, Å."""
        if self.finished is not None:
            return self.finished.supercell_matrix
        if not isinstance(rule := self.settings.supercell, str):
            return [list(row) for row in rule]
        if min_length not in self._matrices:
            self._matrices[min_length] = choose_phonon_supercell(self.structure, min_length, rule)
        return self._matrices[min_length]

    @property
    def crystal(self) -> Structure | OutputReference:
        """The crystal everything is calculated for: as given, or the output of its relaxation with the reference."""
        if not self.settings.relax:
            return self.structure

        def make() -> Job | Flow:
            return self._program(reference_relaxation(self.structure, self.engine, f"relax {self.key}"), "relax")

        return self._once((REFERENCE, "relax"), make).structure

    def reference(self) -> ReferenceResults:
        """Return the reference's results: its phonons where they are paid for, and what else was asked."""
        settings, engine, name = self.settings, self.engine, f"{self.key} {REFERENCE}"
        checks = self._checks()
        if settings.mode == "production":
            return ReferenceResults(asked=["checks"] if checks is not None else [], checks=checks)
        phonons = self._reference_phonons(self.matrix(settings.min_length), REFERENCE)
        potential = engine_potential(engine)
        if potential is not None:
            properties = self._properties(potential, Owner(REFERENCE, self.key, REFERENCE, REFERENCE), phonons)
            return ReferenceResults(asked=list(properties), phonons=phonons, **properties)
        makers: dict[str, Callable[[], Job | Flow]] = {
            "elastic": lambda: ElasticFlowMaker(name=f"elastic {name}", engine=engine, maker=self.elastic_maker).make(
                self.crystal
            ),
            "eos": lambda: EosFlowMaker(name=f"eos {name}", engine=engine).make(self.crystal),
            "transitions": lambda: TransitionMaker(engine=engine, options=settings.follow).make(phonons, name),
            "qha": lambda: QhaFlowMaker(name=f"qha {name}", engine=engine).make(
                phonons,
                self.matrix(settings.min_length),
                self._charges,
                eos_volumes(self._made[REFERENCE, "eos"]) if "eos" in settings.evaluate else None,
            ),
            "kappa": lambda: KappaFlowMaker(
                name=f"kappa {name}", engine=engine, mesh=settings.kappa_mesh, cells=settings.kappa_cells
            ).make(phonons, self.matrix(settings.kappa_min_length), self._charges),
        }
        properties = self._asked(REFERENCE, makers, self._program)
        paid = [
            kind for kind in ("relax", "phonons", "elastic", "eos", "qha", "kappa") if (REFERENCE, kind) in self._made
        ]
        costs = [self._program_costs(kind) for kind in paid]
        return ReferenceResults(asked=list(properties), phonons=phonons, costs=costs, **properties)

    def calculations(self) -> dict[str, int]:
        """Count the displaced cells a program will be asked for, by what they are for; potentials have no such jobs."""
        settings = self.settings
        if settings.mode == "production" or engine_potential(self.engine) is not None:
            return {}
        phonon = new_phonon(to_phonopy_atoms(self.structure, self.engine.order), self.matrix(settings.min_length))
        counts = {"phonons": len(displaced_cells(phonon))}
        if "qha" in settings.evaluate:
            counts["qha"] = (len(FACTORS) - 1) * counts["phonons"]
        if "kappa" in settings.evaluate:
            atoms = self.structure.to_ase_atoms(msonable=False)
            matrix = self.matrix(settings.kappa_min_length)
            counts["kappa"] = len(displaced_frames(third_order_cells(atoms, matrix, cells=settings.kappa_cells)))
        return counts

    def _reference_phonons(self, matrix: list[list[int]], what: str) -> OutputReference:
        def make() -> Job | Flow:
            if self.finished is not None:
                made = phonons_of_file(self.finished, self.settings.mesh)
                return self.add(made, "phonon", self.key, what, strategy=REFERENCE)
            name, nac = f"phonon {self.key} {what}", self.settings.nac and what == REFERENCE
            own = {"engine": self.engine, "maker": self.phonon_maker}
            maker = PhononFlowMaker(name=name, mesh=self.settings.mesh, nac=nac, **own)
            return self._program(maker.make(self.crystal, matrix), "phonon")

        return self._once((what, "phonons"), make)

    @property
    def _charges(self) -> OutputReference | None:
        """The reference's phonons where they have Born charges, which then serve every side."""
        matrix = self.matrix(self.settings.min_length)
        return self._reference_phonons(matrix, REFERENCE) if self.settings.nac else None

    def _program_costs(self, kind: str) -> OutputReference:
        """Return what a flow of program calculations took."""
        last, stage = self._made[REFERENCE, kind].output, _STAGES[kind]
        return self._once(
            ("cost", kind),
            lambda: self.add(collect_program_costs(stage, last.uuid, last), "cost", self.key, stage, REFERENCE),
        )

    def _checks(self) -> OutputReference | None:
        """Return the labels of a few displaced cells, or None where none are asked."""
        settings = self.settings
        if settings.mode != "production" or settings.n_checks == 0:
            return None

        def make() -> Job | Flow:
            matrix, maker = self.matrix(settings.check_min_length), LabelMaker(engine=self.engine, fraction=0.01)
            name = f"{self.key} check"
            if settings.relax:
                start = label_displaced(self.crystal, matrix, settings.n_checks, maker, name)
                return self.add(start, "label", self.key, "check", "start", step="start")
            made = maker.make(check_cells(self.structure, matrix, settings.n_checks, self.engine.order), name)
            self.jobs.append(describe(made, stage="label", material=self.key, variant=self.key))
            return made

        return self._once(("check",), make)

    def results(
        self,
        potential: PotentialRef | OutputReference,
        owner: Owner,
        foundation: PotentialRef | None = None,
        replay: DatasetRef | OutputReference | None = None,
    ) -> PotentialResults:
        """Return the results of a potential; the same owner is calculated once.

        A trained potential has a ``foundation``: errors where it was not tuned are then computed where asked.
        ``replay``: structures it was trained with.
        """

        def make_phonons() -> Job:
            maker = FastPhononMaker(mesh=self.settings.mesh, order=self.engine.order)
            made = maker.make(self.crystal, potential, self.matrix(self.settings.min_length))
            return self._add_result(made, "phonon", owner)

        def make_forgetting(foundation: PotentialRef) -> Job:
            # against the reference where it is a potential itself, else against the foundation
            maker, known = ForgettingMaker(seed=self.seed), engine_potential(self.engine)
            made = maker.make(self.crystal, potential, foundation, reference=known, replay=replay)
            return self._add_result(made, "forgetting", owner)

        phonons = self._once((owner.identity, "phonons"), make_phonons)
        properties = self._properties(potential, owner, phonons)
        if foundation is not None and "forgetting" in self.settings.evaluate:
            properties["forgetting"] = self._once((owner.identity, "forgetting"), partial(make_forgetting, foundation))
        return PotentialResults(asked=list(properties), phonons=phonons, **properties)

    def _properties(
        self, potential: PotentialRef | OutputReference, owner: Owner, phonons: OutputReference
    ) -> dict[str, OutputReference]:
        """Return what is asked of a potential besides phonons, by the field of the report that will hold it."""
        makers: dict[str, Callable[[], Job | Flow]] = {
            "elastic": lambda: FastElasticMaker().make(self.crystal, potential),
            "eos": lambda: FastEosMaker(fmax=self.engine.protocol.relax_fmax).make(self.crystal, potential),
            "transitions": lambda: ModeFollowingMaker(options=self.settings.follow).make(phonons, potential),
            "qha": lambda: run_qha(phonons, potential, charges=self._charges, order=self.engine.order),
            "kappa": lambda: run_kappa(
                phonons,
                potential,
                self.matrix(self.settings.kappa_min_length),
                self.settings.kappa_mesh,
                cells=self.settings.kappa_cells,
                charges=self._charges,
            ),
        }
        return self._asked(owner.identity, makers, lambda member, stage: self._add_result(member, stage, owner))

    def _asked(
        self,
        identity: str,
        makers: dict[str, Callable[[], Job | Flow]],
        add: Callable[[Job | Flow, str], Job | Flow],
    ) -> dict[str, OutputReference]:
        def make(kind: str) -> Job | Flow:
            return add(makers[kind](), _STAGES[kind])

        asked = [kind for kind in makers if kind in self.settings.evaluate]
        return {kind: self._once((identity, kind), partial(make, kind)) for kind in asked}

    def _add_result(self, member: Job | Flow, stage: str, owner: Owner) -> Job:
        return self.add(member, stage, owner.variant, owner.ending, strategy=owner.strategy, n_train=owner.n_train)

    def sample(self, sampler: PotentialRef, sampling: SamplingSettings, variant: str) -> OutputReference:
        """Return the configurations drawn; ``variant``: what their job calls the material."""
        settings = sampling.model_dump(mode="json")

        def make() -> Job:
            maker = SamplingMaker(settings=settings, seed=self.seed, standardise=self.engine.order is None)
            made = maker.make(self.crystal, sampler)
            return self.add(made, "sample", variant, sampling.cell)

        return self._once(("sample", variant, sampler.sha256, sampling.model_dump_json()), make)

    def adaptive(self, sample: OutputReference, foundation: PotentialRef, seed: int, variant: str) -> OutputReference:
        """Return the report of labels made a few at a time, where a committee disagrees (``AdaptiveReport``)."""
        settings = self.settings
        (strategy,) = settings.strategies
        assert settings.adaptive is not None
        maker = AdaptiveMaker(
            engine=self.engine,
            strategy=strategy,
            training=training_of(settings.training, strategy),
            options=settings.adaptive.model_dump(exclude_defaults=True),
            limits=dict(settings.verdict),
            pack=settings.pack,
            mesh=settings.mesh,
            seed=seed,
        )
        state = AdaptiveState(
            material=variant,
            key=variant,
            foundation=foundation,
            matrix=self.matrix(settings.min_length),
            sample=sample,
        )

        def make() -> Job:
            start = describe(maker.start(self.crystal, state), material=self.key, variant=variant)
            self.jobs.append(start)
            return start

        return self._once(("adaptive", variant), make)

    def labels(
        self, sampler: PotentialRef, sampling: SamplingSettings, variant: str
    ) -> tuple[OutputReference | None, OutputReference]:
        """Return sampling (None: there is none) and audited labels; ``variant``: what their jobs call the material."""
        if self.finished is not None:
            return None, self._finished_labels().labels
        drawn = (variant, sampler.sha256, sampling.model_dump_json())

        def make_labels() -> Job:
            needed = max(self.sizes, default=None)
            made = start_needed_labels(sample, LabelMaker(engine=self.engine), variant, needed)
            most = most_labels(sampling)
            # training and validation frames, and the job that collects them
            jobs = min(needed or most, most) + sampling.n_select + 1
            return self.add(made, "label", variant, "start", step="start", makes=jobs)

        sample = self.sample(sampler, sampling, variant)
        labels = self._once(("label", *drawn), make_labels)
        audited = self._once(("audit", *drawn), lambda: self.add(audit_material(labels, sampler), "audit", variant))
        return sample, audited

    def _finished_labels(self) -> OutputReference:
        """Return what the force constants that exist give to train on."""
        return self._once(
            (REFERENCE, "labels"),
            lambda: self.add(labels_of_file(self.finished, self.key, self.seed), "label", self.key),
        )

    def training_set(self, audited: OutputReference, size: int | None, variant: str) -> OutputReference:
        """Return the training labels, or the first so many of them."""
        if size is None:
            return audited.train
        return self._once(
            ("subset", audited.uuid, str(size)),
            lambda: self.add(training_subset(audited.train, size), "subset", variant, str(size), n_train=size),
        )

    def pack(self, makers: list[FineTuneMaker], inputs: list[TrainingInputs]) -> OutputReference:
        """Return what one job reports that runs all trainings of the material side by side."""
        made = PackMaker(makers=makers).make_each(inputs)
        return self.add(made, "train", self.key, PACK, strategy=PACK).output

    def curvature(self) -> OutputReference:
        """Return the force constants that supervise curvature."""
        if self.finished is not None:
            return self._finished_labels().curvature
        small, large = (self.matrix(edge) for edge in (self.settings.curvature_min_length, self.settings.min_length))
        shared = self.settings.mode == "comparison" and small == large
        phonons = self._reference_phonons(small, REFERENCE if shared else "curvature")
        return self._once(("curvature", "file"), lambda: self.add(force_constants_file(phonons), "curvature", self.key))

    def replay_structures(self, foundation: PotentialRef, variant: str, size: int) -> DatasetRef | OutputReference:
        """Return replay structures: those given, or simple crystals labelled by the foundation."""
        if self.given_replay is not None:
            return self.given_replay
        elements = list(dict.fromkeys(site.specie.symbol for site in self.structure))
        return self._once(
            ("replay", foundation.sha256, str(size)),
            lambda: self.add(replay_material(foundation, elements, size, self.seed), "replay", variant),
        )
