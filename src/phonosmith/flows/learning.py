"""How many labels are needed: learning curves over nested training sets, and labelling until phonons stand still."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jobflow import CURRENT_JOB, Flow, Job, JobConfig, Maker, Response, job
from pydantic import Field
from pymatgen.core import Structure

from phonosmith.analysis.documents import AuditedLabels, Cost, MaterialReport, PhononSummary
from phonosmith.analysis.learning_documents import (
    AdaptiveReport,
    AdaptiveRound,
    CurvePoint,
    LearningCurve,
    LearningCurveReport,
)
from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.document import Awaited, Document
from phonosmith.core.errors import ConfigurationError, InputError, MismatchError
from phonosmith.core.identity import fix_identities, has_content_identity
from phonosmith.core.manifest import recorded
from phonosmith.core.metadata import PACK, describe, named
from phonosmith.evaluation.phonons.committee import force_disagreement
from phonosmith.evaluation.phonons.documents import PhononDoc
from phonosmith.evaluation.phonons.fastpath import choose_phonon_supercell
from phonosmith.evaluation.phonons.jobs import FastPhononMaker
from phonosmith.evaluation.verdict import CONVERGENCE, Thresholds, judge_production
from phonosmith.flows import costs
from phonosmith.flows.jobs import audited, baseline_for
from phonosmith.flows.material import FineTuneMaterialMaker
from phonosmith.flows.settings import Pack, material_settings
from phonosmith.potentials.documents import PotentialRef
from phonosmith.potentials.registry import load
from phonosmith.reference.datasets.documents import DatasetRef
from phonosmith.reference.documents import LabelReport
from phonosmith.reference.engines import ReferenceEngine
from phonosmith.reference.jobs import LabelMaker
from phonosmith.reference.labels import sampled_frames
from phonosmith.sampling.documents import SamplingDoc
from phonosmith.sampling.jobs import SamplingMaker
from phonosmith.settings import get_settings
from phonosmith.training.documents import TrainingDocument, TrainingInputs
from phonosmith.training.jobs import FineTuneMaker, PackMaker
from phonosmith.training.spec import make_spec

if TYPE_CHECKING:
    from phonosmith.harmonic.model import HarmonicModel

MIN_TRAIN = 2
"""Labels a training needs at least."""


class AdaptiveState(Document):
    """What all rounds share, and what those so far have left; results are references until their jobs have run."""

    material: str = Field(description="name given to the material")
    key: str = Field(description="what job names call it")
    foundation: PotentialRef = Field(description="potential to start from")
    matrix: list[list[int]] = Field(description="supercell of phonons")
    sample: Awaited[SamplingDoc] = Field(description="every configuration there is")
    asked: list[int] = Field(default_factory=list, description="training configurations asked so far, by their place")
    doubts: dict[int, float] = Field(
        default_factory=dict,
        description="configurations not asked yet: how far forces of the committee are apart there, eV/Å",
    )
    labels: Awaited[AuditedLabels] | None = Field(None, description="of all rounds")
    trainings: list[Awaited[TrainingDocument]] = Field(default_factory=list, description="of the committee, last round")
    phonons: list[Awaited[PhononDoc]] = Field(default_factory=list, description="of the committee, last round")
    before: PhononDoc | None = Field(None, description="phonons of its first member in the round before")
    rounds: list[AdaptiveRound] = Field(default_factory=list)
    costs: list[Cost] = Field(default_factory=list)


@dataclass
class AdaptiveMaker(Maker):
    """Label a few configurations at a time until phonons and verdict stop moving.

    Every configuration is sampled at once (that is cheap); each round labels some more, trains, and computes phonons.
    The first are the outermost of every training trajectory; with a committee the next are those where its forces are
    furthest apart, without one the next layer. It ends when the phonons moved less than ``change_thz``
    since the round before and the verdict did not change; with a committee, when its members' phonons differ by less
    than ``spread_thz``, which can be after the first round. No reference phonons are needed.

    Attributes
    ----------
    strategy, training, sampling
        Preset, settings that replace its own, and those that differ from the protocol.
    layer_size
        Training configurations labelled per round; as many as there are trajectories when None.
    n_valid
        Validation configurations, labelled in the first round.
    change_thz, spread_thz
        Largest change of the phonons between rounds, and largest mean phonon MAE between pairs of the committee, THz.
    committee
        Trainings per round. The first has all labels and is the result; each of the others goes without another part of
        them (a jackknife), so that their phonons show what the labels do not decide.
    pack
        Whether each of them is a job of its own (none) or one job runs them side by side (material).
    max_rounds
        Rounds at most; None: until everything sampled is labelled.
    min_length, mesh, seed
        See ``FineTuneMaterialMaker``.
    """

    name: str = "adaptive"
    engine: ReferenceEngine | None = None
    strategy: str = "delta"
    training: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    layer_size: int | None = None
    n_valid: int = 4
    change_thz: float = 0.05
    committee: int = 1
    pack: Pack = "none"
    spread_thz: float = 0.05
    max_rounds: int | None = None
    min_length: float = 20.0
    mesh: int = 20
    seed: int = 0

    def make(self, structure: Structure, foundation: PotentialRef, material: str = "") -> Flow:
        """Return the flow for a relaxed crystal; its output is an ``AdaptiveReport``."""
        if self.engine is None:
            raise ConfigurationError("AdaptiveMaker has no engine.", "Pass engine=make_engine('vasp').")
        spec = make_spec(self.strategy, **self.training)
        if spec.uses_replay or spec.uses_curvature:
            raise ConfigurationError(
                f"Strategy {self.strategy!r} needs replay structures or reference force constants.",
                "Use one that trains on labels alone, e.g. delta or transfer.",
            )
        if self.committee < 1 or self.n_valid < 1 or (self.layer_size or 1) < 1:
            raise ConfigurationError("committee, n_valid and layer_size must be 1 or more.", "Correct the setting.")
        if self.committee > 1 and self.layer_size is not None and self.layer_size <= MIN_TRAIN:
            raise ConfigurationError(
                f"With a committee the first round needs {MIN_TRAIN + 1} training labels, layer_size is "
                f"{self.layer_size}.",
                "Each member goes without some, and could not be trained on fewer. Raise layer_size, or committee=1.",
            )
        material_settings(pack=self.pack)
        label = material or structure.composition.reduced_formula
        key = "-".join(label.lower().split())
        sample = SamplingMaker(settings=dict(self.sampling), seed=self.seed).make(structure, foundation)
        named(sample, "sample", key, self.sampling.get("cell", "large"), material=key)
        state = AdaptiveState(
            material=label,
            key=key,
            foundation=foundation,
            matrix=choose_phonon_supercell(structure, self.min_length),
            sample=sample.output,
        )
        start = start_round(self, structure, state)
        named(start, "adaptive", key, "start", step="start", material=key, strategy=self.strategy)
        return Flow([sample, start], output=start.output, name=f"{self.name} {key}")

    def round(self, structure: Structure, state: AdaptiveState) -> Flow | None:
        """Return the flow of the next round, or None when nothing is left to label."""
        number, key, engine = len(state.rounds) + 1, state.key, self.engine
        frames = sampled_frames(state.sample)
        train = [frame for frame in frames if frame.split == "train"]
        layer = self.layer_size or sum(abs(one.volume_factor - 1.0) > 1e-9 for one in state.sample.configurations)
        places = next_places(len(train), state.asked, state.doubts, layer)
        if not places or (self.max_rounds is not None and number > self.max_rounds):
            return None
        asked = [train[place] for place in places]
        if number == 1:
            asked = [*[frame for frame in frames if frame.split == "valid"][: self.n_valid], *asked]
        assert engine is not None  # make has checked
        labels = describe(LabelMaker(engine=engine).make(asked, f"{key} r{number}"), stage="label")
        join = join_labels(labels.output, state.labels, state.material, state.foundation)
        named(join, "audit", key, f"r{number}")
        jobs: list[Job | Flow] = [labels, join]
        trainings, phonons = [], []
        makers = [
            FineTuneMaker(strategy=self.strategy, settings=dict(self.training), seed=self.seed + member)
            for member in range(self.committee)
        ]
        words = [
            (self.strategy, f"r{number}", *([f"s{member}"] if self.committee > 1 else []))
            for member in range(self.committee)
        ]
        train_sets = [join.output.train]
        for member in range(1, self.committee):
            # seeds alone agree on whatever few labels say: members of a committee must have seen different ones
            part = leave_out(join.output.train, member - 1, self.committee - 1)
            jobs.append(named(part, "subset", key, *words[member]))
            train_sets.append(part.output)
        inputs = [
            TrainingInputs(material=key, foundation=state.foundation, train=train_set, valid=join.output.valid)
            for train_set in train_sets
        ]
        pack = None
        if self.pack == "material" and self.committee > 1:
            made = PackMaker(makers=makers).make_each(inputs)
            jobs.append(named(made, "train", key, PACK, f"r{number}", strategy=PACK))
            pack = made.output
        for trainer, own, name in zip(makers, inputs, words, strict=True):
            training = trainer.make_of(own, pack)
            named(training, "train", key, *name, step="collect" if pack is not None else None)
            phonon = FastPhononMaker(mesh=self.mesh).make(structure, training.output.model, state.matrix)
            jobs += [training, named(phonon, "phonon", key, *name)]
            trainings.append(training.output)
            phonons.append(phonon.output)
        following = {
            "asked": [*state.asked, *places],
            "doubts": {},
            "labels": join.output,
            "trainings": trainings,
            "phonons": phonons,
            "before": state.phonons[0] if state.phonons else None,
        }
        decide = named(judge_round(self, structure, state.model_copy(update=following)), "adaptive", key, f"r{number}")
        flow = Flow([*jobs, decide], output=decide.output, name=f"{self.name} {key} r{number}")
        describe(flow, material=key, variant=key, strategy=self.strategy)
        current = CURRENT_JOB.job
        return fix_identities(flow) if current is not None and has_content_identity(current.uuid) else flow


@job(config=JobConfig(pass_manager_config=False))
def start_round(maker: AdaptiveMaker, structure: Structure, state: AdaptiveState) -> Response[Any]:
    """Replace this job by the first round."""
    flow = maker.round(structure, state)
    if flow is None:
        raise InputError(f"The sampling of {state.material} left no training configuration.", "Sample again.")
    return Response(replace=flow)


@job(output_schema=AuditedLabels)
def join_labels(report: Any, previous: AuditedLabels | None, material: str, foundation: Any = None) -> AuditedLabels:
    """Audit the labels of this round (a ``LabelReport``) together with those of the rounds before.

    Labels of DFT are compared with the foundation, as in `audit_material`.
    """
    from phonosmith.reference.datasets.dataset import get_dataset

    labels = LabelReport.model_validate(report).model_copy(update={"material": material})
    splits = {name: get_dataset(ref) for name, ref in labels.datasets.items()}
    if previous is None:
        return audited(labels, splits, foundation=baseline_for(labels, foundation))
    train = [*get_dataset(previous.train), *splits["train"]]
    both = {"train": train, "valid": get_dataset(previous.valid)}
    joined = audited(labels, both, foundation=baseline_for(labels, foundation))
    summed = ("label_seconds", "n_failed", "n_excluded")
    return joined.model_copy(update={name: getattr(joined, name) + getattr(previous, name) for name in summed})


@job(output_schema=DatasetRef)
def leave_out(train: Any, part: int, parts: int) -> DatasetRef:
    """Return the training labels that a member of a committee sees (see `places_without`)."""
    from phonosmith.reference.datasets.dataset import get_dataset, put_dataset

    ref = DatasetRef.model_validate(train)
    frames = get_dataset(ref)
    kept = [frames[place] for place in places_without(len(frames), part, parts)]
    return put_dataset(kept, name=f"{ref.name} without {part}", parents=[ref.sha256])


def places_without(n_frames: int, part: int, parts: int) -> list[int]:
    """Return the places whose number modulo ``parts`` is not ``part``; all but one where few would be left.

    >>> places_without(6, 0, 2), places_without(3, 0, 2)
    ([1, 3, 5], [1, 2])
    """
    few = parts < 2 or n_frames - -(-n_frames // parts) < MIN_TRAIN
    groups = n_frames if few else parts
    return [place for place in range(n_frames) if place % groups != part % groups]


@job(config=JobConfig(pass_manager_config=False))
def judge_round(maker: AdaptiveMaker, structure: Structure, state: AdaptiveState) -> AdaptiveReport | Response[Any]:
    """Return the report when phonons have stopped moving or nothing is left, else start the next round."""
    from phonosmith.evaluation.phonons.summary import harmonic_from_document

    labels, sample, first = state.labels, state.sample, state.phonons[0]
    assert labels is not None  # a round has labels
    criteria = {"spread_thz": maker.spread_thz} if maker.committee > 1 else {"change_thz": maker.change_thz}
    with recorded({"train": labels.train.sha256, "valid": labels.valid.sha256}, criteria, maker.seed) as manifest:
        models = [harmonic_from_document(one, default_artefacts()) for one in state.phonons]
        change = spread = None
        if state.before is not None:
            change = _distance(harmonic_from_document(state.before, default_artefacts()), models[0], maker.mesh)
        if len(models) > 1:
            apart = [_distance(a, b, maker.mesh) for a, b in itertools.combinations(models, 2)]
            spread = None if None in apart else float(np.mean(np.array(apart, dtype=float)))
        this = _round(state, len(state.asked) + min(maker.n_valid, sample.n_valid), change, spread)
    key, atoms = state.key, round(labels.train.n_atoms / labels.train.n_frames)
    earlier = [one for one in state.costs if one.stage != "label"] or [costs.sampling_cost(f"sample {key}", sample)]
    spent = [
        *earlier,
        costs.label_cost(f"label {key}", labels),
        *(costs.training_cost(f"train {key} r{this.number}", one, atoms) for one in state.trainings),
        *(costs.phonon_cost(f"phonon {key} r{this.number}", one) for one in state.phonons),
    ]
    rounds = [*state.rounds, this]
    reason = _reason(maker, rounds)
    if reason is None:
        doubts = _doubts(state) if maker.committee > 1 else {}
        flow = maker.round(structure, state.model_copy(update={"rounds": rounds, "costs": spent, "doubts": doubts}))
        if flow is not None:
            return Response(replace=flow)
    total = sample.n_train + sample.n_valid
    return AdaptiveReport(
        material=state.material,
        formula=first.formula,
        strategy=maker.strategy,
        rounds=rounds,
        stopped=reason is not None,
        reason=reason or _exhausted(this, state),
        potential=this.potential,
        verdict=this.verdict,
        n_labels=this.n_labels,
        n_labels_protocol=total,
        n_labels_saved=total - this.n_labels,
        n_displacements=first.n_displacements,
        criteria=criteria,
        costs=spent,
        manifest=manifest,
    )


def next_places(n_frames: int, asked: Sequence[int], doubts: Mapping[int, float], count: int) -> list[int]:
    """Return which configurations to label next: the most doubtful, else the first in order, none twice.

    >>> next_places(6, [0, 1], {2: 0.1, 3: 0.3, 4: 0.2, 5: 0.0}, 2)
    [3, 4]
    >>> next_places(6, [0, 1], {}, 2)
    [2, 3]
    """
    left = [place for place in range(n_frames) if place not in set(asked)]
    return sorted(left, key=lambda place: (-doubts.get(place, 0.0), place))[:count]


def _doubts(state: AdaptiveState) -> dict[int, float]:
    """Return the committee's force disagreement in the configurations that have not been asked."""
    train = [frame for frame in sampled_frames(state.sample) if frame.split == "train"]
    left = [place for place in range(len(train)) if place not in set(state.asked)]
    if not left:
        return {}
    frames = [train[place].to_atoms() for place in left]
    members = [load(one.model).evaluate(frames, stress=False) for one in state.trainings if one.model is not None]
    forces = [[answer.forces for answer in answers] for answers in members]
    return dict(zip(left, force_disagreement(forces), strict=True))


def _distance(first: HarmonicModel, second: HarmonicModel, mesh: int) -> float | None:
    """Return the phonon MAE between two potentials, THz; None where they relaxed into different structures."""
    from phonosmith.evaluation.phonons.comparison import compare_phonons

    try:
        return compare_phonons(first, second, mesh).mae_thz
    except MismatchError:
        return None


def _round(state: AdaptiveState, n_labels: int, change: float | None, spread: float | None) -> AdaptiveRound:
    labels, training, phonons = state.labels, state.trainings[0], state.phonons[0]
    forces = training.metrics["valid"].after.mae_forces_mev_per_angstrom
    # join_labels has run, and run_training always registers its model
    assert labels is not None
    assert training.model is not None
    return AdaptiveRound(
        number=len(state.rounds) + 1,
        n_labels=n_labels,
        n_train=labels.train.n_frames,
        valid_force_mae=forces,
        improved=training.improved,
        phonon_change_thz=change,
        spread_thz=spread,
        verdict=judge_production(
            Thresholds.of(get_settings()),
            valid_force_mae=forces,
            # a committee that agrees is convergence as well; with neither there is nothing to say about it yet
            phonon_change_thz=change if spread is None else spread,
            improved=training.improved,
            stable=phonons.stability.stable_practical,
        ),
        potential=training.model,
        phonons=PhononSummary.of(phonons),
    )


def _reason(maker: AdaptiveMaker, rounds: list[AdaptiveRound]) -> str | None:
    """Return why it is time to stop, or None."""
    this = rounds[-1]
    if not this.improved:
        # trainings that failed hand back the foundation: its phonons stand still, and prove nothing
        return None
    if maker.committee > 1:
        # members that relaxed into different structures have no spread: they do not agree
        if this.spread_thz is None or this.spread_thz > maker.spread_thz:
            return None
        return f"the committee's phonons differ by {this.spread_thz:.3f} THz (limit {maker.spread_thz:g} THz)"
    if this.phonon_change_thz is None or this.phonon_change_thz > maker.change_thz:
        return None
    good = [all(reason.code in CONVERGENCE for reason in one.verdict.details) for one in rounds[-2:]]
    if good[0] != good[-1]:
        return None
    return (
        f"phonons moved by {this.phonon_change_thz:.3f} THz since the round before (limit {maker.change_thz:g} THz), "
        "verdict unchanged"
    )


def _exhausted(this: AdaptiveRound, state: AdaptiveState) -> str:
    moved = this.phonon_change_thz if this.spread_thz is None else this.spread_thz
    everything = len(state.asked) >= state.sample.n_train
    what = "every sampled configuration is labelled" if everything else "the largest number of rounds is over"
    return what if moved is None else f"{what}; phonons still uncertain by {moved:.3f} THz"


def learning_curves(report: MaterialReport) -> list[LearningCurve]:
    """Sort the potentials of a report into one curve per strategy."""
    curves = []
    for strategy in sorted({entry.strategy for entry in report.strategies}):
        entries = sorted((e for e in report.strategies if e.strategy == strategy), key=lambda e: e.n_train)
        points = [
            CurvePoint(
                n_train=entry.n_train,
                phonon_mae_thz=None if entry.phonons is None else entry.phonons.mae_thz,
                phonon_change_thz=entry.phonon_change_thz,
                train_force_mae=entry.train_force_mae,
                valid_force_mae=entry.valid_force_mae,
                fit=entry.verdict.fit,
            )
            for entry in entries
        ]
        fit = [point.n_train for point in itertools.takewhile(lambda point: point.fit, reversed(points))]
        curves.append(LearningCurve(strategy=strategy, points=points, sufficient=fit[-1] if fit else None))
    return curves


@job(output_schema=LearningCurveReport)
def collect_curve(report: Any) -> LearningCurveReport:
    """Take the learning curves from the report of a material."""
    of = MaterialReport.model_validate(report)
    with recorded({"train": of.labels.train.sha256}, seed=of.seed) as manifest:
        base = of.foundation
        return LearningCurveReport(
            material=of.material,
            mode=of.mode,
            foundation_phonon_mae_thz=None if base.phonons is None else base.phonons.mae_thz,
            foundation_force_mae=base.valid_force_mae,
            curves=learning_curves(of),
            failed=of.failed,
            manifest=manifest,
        )


@dataclass
class LearningCurveMaker(Maker):
    """Train every strategy on nested training sets and report phonon and force errors by size.

    ``sizes`` replace the ``n_train`` of ``maker``; labels and reference results are computed once for all.
    """

    name: str = "learning curve"
    maker: FineTuneMaterialMaker = field(default_factory=FineTuneMaterialMaker)
    sizes: tuple[int, ...] = (2, 4, 8, 12, 16)

    def make(self, structure: Structure, foundation: PotentialRef, material: str = "") -> Flow:
        """Return the flow; its output is a ``LearningCurveReport``."""
        if len(set(self.sizes)) < 2:
            raise ConfigurationError("A learning curve needs two training-set sizes or more.", "Give e.g. (4, 8, 16).")
        settings = material_settings(self.maker.settings, n_train=self.sizes)
        inner = dataclasses.replace(self.maker, settings=settings).make(structure, foundation, material)
        key = inner.name.removeprefix(self.maker.name).strip()
        curve = named(collect_curve(inner.output), "curve", key, material=key)
        return Flow([inner, curve], output=curve.output, name=f"{self.name} {key}")
