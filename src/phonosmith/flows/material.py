"""One material from crystal to verdicts: sampling, labels, audit, every strategy, phonons on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jobflow import Flow, Job, Maker

from phonosmith.core.errors import ConfigurationError, PotentialError
from phonosmith.evaluation.fastpath import choose_phonon_supercell
from phonosmith.evaluation.phonon_jobs import FastPhononMaker
from phonosmith.flows.jobs import audit_material, force_constants_file, report_material
from phonosmith.flows.reference_phonons import reference_phonons
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.engines import ReferenceEngine
from phonosmith.reference.jobs import LabelMaker
from phonosmith.sampling.jobs import SamplingMaker
from phonosmith.training.jobs import FineTuneMaker
from phonosmith.training.spec import make_spec

if TYPE_CHECKING:
    from pymatgen.core import Structure

DEFAULT_STRATEGIES = ("transfer", "delta")


@dataclass
class FineTuneMaterialMaker(Maker):
    """Fine-tune a foundation for one material with several strategies and judge each by its phonons.

    Labels and reference phonons are computed once and shared by all strategies. Job names begin with their stage and
    the material (``sample si small``, ``label si 07``, ``train si delta``, ``phonon si delta``): routing keys on them.

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
        Use only the first so many training labels (outermost first).
    min_length
        Shortest edge of the phonon supercell, Å.
    curvature_min_length
        Shortest edge of the supercell whose reference force constants supervise curvature, Å.
    mesh
        q-mesh of the comparison.
    seed
        Of every random draw.
    """

    name: str = "fine-tune"
    strategies: tuple[str, ...] = DEFAULT_STRATEGIES
    training: dict[str, Any] = field(default_factory=dict)
    engine: ReferenceEngine | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    n_train: int | None = None
    min_length: float = 20.0
    curvature_min_length: float = 5.0
    mesh: int = 20
    seed: int = 0

    def make(self, structure: Structure, foundation: PotentialRef, material: str = "") -> Flow:
        """Return the flow; its output is a ``MaterialReport``.

        Parameters
        ----------
        structure
            Relaxed crystal.
        foundation
            Potential to start from.
        material
            Short name used in job names; the formula by default.

        Raises
        ------
        ConfigurationError
            For an unknown strategy or setting, a strategy whose data this flow does not make, a missing engine, or a
            foundation that lacks an element - before any job exists.
        """
        if self.engine is None:
            raise ConfigurationError("FineTuneMaterialMaker has no engine.", "Pass engine=make_engine('vasp').")
        specs = {name: self._settings(name) for name in dict.fromkeys(self.strategies)}
        for name, settings in specs.items():
            if make_spec(name, **settings).uses_replay:
                raise ConfigurationError(
                    f"Strategy {name!r} needs replay structures.", "Train it with FineTuneMaker and a replay dataset."
                )
        missing = sorted({site.specie.symbol for site in structure} - set(foundation.elements))
        if missing:
            raise PotentialError(
                f"The foundation {foundation.name} does not know {', '.join(missing)}.",
                "Choose a foundation that covers every element of the material.",
            )
        label = material or structure.composition.reduced_formula
        key = label.lower()
        engine = self.engine
        matrix = choose_phonon_supercell(structure, self.min_length)

        sample = SamplingMaker(settings=dict(self.sampling), seed=self.seed).make(structure, foundation)
        sample.name = f"sample {key} {self.sampling.get('cell', 'large')}"
        labels = LabelMaker(engine=engine).after_sampling(sample.output, label)
        audited = audit_material(labels.output, self.n_train)
        audited.name = f"audit {key}"
        reference = reference_phonons(structure, engine, matrix, f"phonon {key} reference", self.mesh)
        base = FastPhononMaker(name=f"phonon {key} foundation", mesh=self.mesh).make(structure, foundation, matrix)
        jobs: list[Job | Flow] = [sample, labels, audited, reference, base]

        curvature = None
        if any(make_spec(name, **settings).uses_curvature for name, settings in specs.items()):
            small = choose_phonon_supercell(structure, self.curvature_min_length)
            supervising = reference_phonons(structure, engine, small, f"phonon {key} curvature", self.mesh)
            curvature = force_constants_file(supervising.output)
            curvature.name = f"curvature {key}"
            jobs += [supervising, curvature]

        trainings, phonons = [], []
        for name, settings in specs.items():
            uses = make_spec(name, **settings).uses_curvature
            train = FineTuneMaker(strategy=name, settings=settings, seed=self.seed).make(
                foundation,
                audited.output.train,
                audited.output.valid,
                material=key,
                force_constants=curvature.output if uses and curvature is not None else None,
            )
            phonon = FastPhononMaker(name=f"phonon {key} {name}", mesh=self.mesh).make(
                structure, train.output.model, matrix
            )
            trainings.append(train)
            phonons.append(phonon)
        report = report_material(
            label,
            engine.functional if engine.name == "forcefield" else f"{engine.name} {engine.functional}",
            engine.rehearsal is not None,
            audited.output,
            reference.output,
            base.output,
            list(specs),
            [train.output for train in trainings],
            [phonon.output for phonon in phonons],
            self.mesh,
        )
        report.name = f"report {key}"
        return Flow([*jobs, *trainings, *phonons, report], output=report.output, name=f"{self.name} {key}")

    def _settings(self, strategy: str) -> dict[str, Any]:
        """Return the training settings of one strategy: those for all, then its own."""
        common = {key: value for key, value in self.training.items() if not isinstance(value, Mapping)}
        return common | dict(self.training.get(strategy, {}))
