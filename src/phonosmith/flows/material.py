"""One material from crystal to verdicts: sampling, labels, audit, every strategy and size, results on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from jobflow import Flow, Job, Maker

from phonosmith.core.errors import ConfigurationError, PotentialError, did_you_mean
from phonosmith.flows.parts import MaterialParts
from phonosmith.flows.reporting import report_material
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.datasets.documents import DatasetRef
from phonosmith.reference.engines import ReferenceEngine
from phonosmith.sampling.documents import SamplingSettings
from phonosmith.training.jobs import FineTuneMaker
from phonosmith.training.spec import TrainSpec, make_spec

if TYPE_CHECKING:
    from pymatgen.core import Structure

DEFAULT_STRATEGIES = ("transfer", "delta")
EVALUATIONS = ("phonons", "elastic", "eos", "forgetting", "transitions")
Mode = Literal["comparison", "production"]


@dataclass(frozen=True)
class VariantNames:
    """What the jobs of one variant (foundation, cell, seed) of a material call it.

    Attributes
    ----------
    labels
        In the names of sampling, label and audit jobs.
    foundation
        In the names of the foundation's own jobs.
    variant
        In the names of trainings, of the results of trained potentials and of the report.
    """

    labels: str
    foundation: str
    variant: str


def sampling_cell(settings: Mapping[str, Any]) -> str:
    """Return what reports call the size of a sampling cell: primitive, small, large, or given as a matrix."""
    return "given" if settings.get("supercell_matrix") is not None else str(settings.get("cell", "large"))


@dataclass
class FineTuneMaterialMaker(Maker):
    """Fine-tune a foundation for one material with several strategies and judge each by its phonons.

    Labels and reference results are computed once and shared by all strategies and training-set sizes. Job names begin
    with their stage and the material (``sample si small``, ``label si 07``, ``train si delta``, ``phonon si delta``;
    with several sizes ``train si delta 12``): routing keys on them.

    Attributes
    ----------
    name
        Flow name.
    strategies
        Presets of ``TrainSpec``.
    training
        Settings that replace those of every preset; ``{"delta": {...}}`` entries apply to one strategy only.
    engine
        Who computes labels and reference phonons.
    sampling
        Settings of ``SamplingSettings`` that differ from the protocol.
    n_train
        Training-set sizes: nested sets of the first so many labels, outermost first; all labels when empty (in
        production mode half of them and all: the difference shows whether phonons have converged).
    evaluate
        What to compute of reference, foundation and every fine-tuned potential: ``phonons`` (always), ``elastic``,
        ``eos``, ``forgetting``, ``transitions``.
    mode
        ``comparison`` with reference phonons, or ``production`` without: the verdict then rests on validation errors,
        convergence with the training set and a few displaced cells.
    n_checks
        Displaced cells that the reference calculates in production mode, 0 to 3.
    check_min_length
        Shortest edge of the supercell of those, Å.
    min_length
        Shortest edge of the phonon supercell, Å.
    curvature_min_length
        Shortest edge of the supercell whose reference force constants supervise curvature, Å.
    mesh
        q-mesh of the comparison.
    replay
        Replay structures of strategies that use them; simple crystals labelled by the foundation when None.
    seed
        Of every random draw in training, and of the sampling unless ``sampling_seed`` says otherwise.
    sampling_seed
        Of the sampling: trainings with different seeds share one set of labels when it is given.
    walltime
        Seconds of one training job, after which the training goes on in a following job.
    campaign
        Name of the campaign in the report.
    """

    name: str = "fine-tune"
    strategies: tuple[str, ...] = DEFAULT_STRATEGIES
    training: dict[str, Any] = field(default_factory=dict)
    engine: ReferenceEngine | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    n_train: tuple[int, ...] = ()
    evaluate: tuple[str, ...] = ("phonons", "forgetting")
    mode: Mode = "comparison"
    n_checks: int = 2
    check_min_length: float = 10.0
    min_length: float = 20.0
    curvature_min_length: float = 5.0
    mesh: int = 20
    replay: DatasetRef | None = None
    seed: int = 0
    sampling_seed: int | None = None
    walltime: float | None = None
    campaign: str = ""

    def make(
        self, structure: Structure, foundation: PotentialRef, material: str = "", sampler: PotentialRef | None = None
    ) -> Flow:
        """Return the flow; its output is a ``MaterialReport``.

        Parameters
        ----------
        structure
            Relaxed crystal.
        foundation
            Potential to start from.
        material
            Short name used in job names; the formula by default.
        sampler
            Potential that relaxes the configurations; the foundation by default.

        Raises
        ------
        ConfigurationError
            For an unknown strategy or setting, a missing engine, or a size that cannot be - before any job exists.
        PotentialError
            For a foundation that lacks an element.
        """
        self.check(structure, foundation)
        label = material or structure.composition.reduced_formula
        key = "-".join(label.lower().split())
        parts = MaterialParts(self, structure, key)
        report = self.add_variant(parts, foundation, label, VariantNames(key, key, key), sampler or foundation)
        return Flow(parts.jobs, output=report.output, name=f"{self.name} {key}")

    def add_variant(
        self, parts: MaterialParts, foundation: PotentialRef, label: str, names: VariantNames, sampler: PotentialRef
    ) -> Job:
        """Add the jobs of one foundation, cell and seed to those of a material and return the report's."""
        parts.maker = self
        engine, specs = self.require_engine(), self.specs()
        sample, audited = parts.labels(sampler, names.labels)
        reference, checks = parts.reference(), parts.checks()
        base = parts.potential(foundation, f"foundation {foundation.sha256}", f"{names.foundation} foundation")
        curvature = parts.curvature() if any(spec.uses_curvature for spec in specs.values()) else None
        size = max((spec.replay_size for spec in specs.values() if spec.uses_replay), default=0)
        replay = parts.replay(foundation, names.foundation, size) if size else None

        results: list[dict[str, Any]] = []
        for strategy, spec in specs.items():
            for number in self.sizes or (None,):
                suffix = f"{strategy} {number}" if len(self.sizes) > 1 else strategy
                trainer = FineTuneMaker(
                    strategy=strategy, settings=self._settings(strategy), seed=self.seed, walltime=self.walltime
                )
                train = trainer.make(
                    foundation,
                    parts.training_set(audited, number, names.labels),
                    audited.valid,
                    material=names.variant,
                    replay=replay if spec.uses_replay else None,
                    force_constants=curvature if spec.uses_curvature else None,
                )
                train.name = f"train {names.variant} {suffix}"
                parts.jobs.append(train)
                owner = f"{names.variant} {suffix}"
                found = parts.potential(train.output.model, owner, owner)
                found |= parts.forgetting(train.output.model, foundation, owner, replay if spec.uses_replay else None)
                results.append({"strategy": strategy, "n_train": number, "training": train.output} | found)
        report = report_material(
            {
                "material": label,
                "key": names.variant,
                "campaign": self.campaign,
                "mode": self.mode,
                "cell": sampling_cell(self.sampling),
                "seed": self.seed,
                "reference": engine.functional if engine.name == "forcefield" else f"{engine.name} {engine.functional}",
                "rehearsal": engine.rehearsal is not None,
                "mesh": self.mesh,
                "evaluate": list(self.evaluate),
            },
            sample,
            audited,
            {str(number): parts.training_set(audited, number, names.labels) for number in self.sizes},
            reference | {"checks": checks},
            base | {"potential": foundation},
            results,
            parts.structure,
        )
        report.name = f"report {names.variant}"
        parts.jobs.append(report)
        return report

    def check(self, structure: Structure, foundation: PotentialRef) -> None:
        """Refuse what cannot work, before any job exists."""
        self.require_engine()
        self.specs()
        SamplingSettings.model_validate(self.sampling)
        for kind in self.evaluate:
            if kind not in EVALUATIONS:
                raise ConfigurationError(
                    f"Unknown evaluation {kind!r}.",
                    f"{did_you_mean(kind, EVALUATIONS)}Known: {', '.join(EVALUATIONS)}.",
                )
        wrong = [number for number in self.n_train if number < 1]
        if wrong:
            raise ConfigurationError(f"A training set of {wrong[0]} structures was asked.", "Ask for 1 or more.")
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

    def specs(self) -> dict[str, TrainSpec]:
        """Return the full settings of every strategy; those ``training`` names must be asked for."""
        chosen = list(dict.fromkeys(self.strategies))
        for name, value in self.training.items():
            if isinstance(value, Mapping) and name not in chosen and name not in TrainSpec.model_fields:
                raise ConfigurationError(
                    f"The training settings name {name!r}, which is not among the strategies.",
                    f"{did_you_mean(name, chosen)}Strategies asked: {', '.join(chosen)}.",
                )
        return {name: make_spec(name, **self._settings(name)) for name in chosen}

    @property
    def sizes(self) -> tuple[int, ...]:
        """Training-set sizes, ascending; empty: one training with all labels."""
        if self.n_train or self.mode == "comparison":
            return tuple(sorted(set(self.n_train)))
        settings = SamplingSettings.model_validate(self.sampling)
        total = (len(settings.volume_factors) - 1) * settings.n_select
        return (max(1, total // 2), total)

    @property
    def draw_seed(self) -> int:
        """Seed of the sampling."""
        return self.seed if self.sampling_seed is None else self.sampling_seed

    def _settings(self, strategy: str) -> dict[str, Any]:
        """Return the training settings of one strategy: those for all, then its own."""
        common = {
            key: value
            for key, value in self.training.items()
            if not isinstance(value, Mapping) or key in TrainSpec.model_fields
        }
        return common | dict(self.training.get(strategy, {}))
