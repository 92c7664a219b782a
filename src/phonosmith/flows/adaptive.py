"""Label a few configurations at a time, where a committee disagrees, until phonons stand still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jobflow import CURRENT_JOB, Flow, Job, JobConfig, Response
from pydantic import Field, ValidationError
from pymatgen.core import Structure

from phonosmith.analysis.documents import AuditedLabels, Cost, PhononSummary
from phonosmith.analysis.learning import AdaptiveReport, AdaptiveRound
from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.changing import HoldingMaker, job
from phonosmith.core.document import Awaited, Document
from phonosmith.core.errors import ConfigurationError, InputError, MismatchError
from phonosmith.core.identity import fix_identities, has_content_identity
from phonosmith.core.manifest import recorded
from phonosmith.core.metadata import PACK, describe, named
from phonosmith.evaluation.phonons.committee import Committee, committee_in_full, error_behind, force_disagreement
from phonosmith.evaluation.phonons.documents import PhononDoc
from phonosmith.evaluation.phonons.fastpath import choose_phonon_supercell
from phonosmith.evaluation.phonons.jobs import FastPhononMaker
from phonosmith.evaluation.verdict import CONVERGENCE, LimitName, Thresholds, judge_production
from phonosmith.flows import costs
from phonosmith.flows.jobs import audited, baseline_for
from phonosmith.flows.settings import MIN_TRAIN, AdaptiveOptions, Pack, explained, require_labels_alone
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
    from jobflow import OutputReference

    from phonosmith.harmonic.model import HarmonicModel


class AdaptiveState(Document):
    """What all rounds share, and what those so far have left; results are references until their jobs have run."""

    material: str = Field(description="name given to the material")
    key: str = Field(description="what job names call it")
    foundation: PotentialRef = Field(description="potential to start from")
    matrix: list[list[int]] = Field(description="supercell of phonons")
    sample: Awaited[SamplingDoc] = Field(description="every configuration there is")
    asked: list[int] = Field(default_factory=list, description="training configurations asked so far, by their place")
    latest: list[int] = Field(default_factory=list, description="those of the last round")
    labels: Awaited[AuditedLabels] | None = Field(None, description="of all rounds")
    trainings: list[Awaited[TrainingDocument]] = Field(default_factory=list, description="of the committee, last round")
    phonons: list[Awaited[PhononDoc]] = Field(default_factory=list, description="of the committee, last round")
    before: PhononDoc | None = Field(None, description="phonons of its first member in the round before")
    rounds: list[AdaptiveRound] = Field(default_factory=list)
    costs: list[Cost] = Field(default_factory=list)


@dataclass
class AdaptiveMaker(HoldingMaker):
    """Label a few configurations at a time until phonons and verdict stop moving.

    Every configuration is sampled at once (that is cheap); each round labels some more, trains, and computes phonons.
    The first are the outermost of every training trajectory; with a committee the next are those where its forces are
    furthest apart, without one the next in order. It ends when its members' phonons agree, which can be after the
    first round; without a committee when phonons moved little since the round before and the verdict did not change.
    No reference phonons are needed.

    Attributes
    ----------
    strategy, training, sampling
        Preset, settings that replace its own, and those that differ from the protocol.
    options
        Fields of ``AdaptiveOptions`` that differ from their defaults, as plain data.
    limits
        Limits of the verdict that differ from those of the settings.
    pack
        Whether each training is a job of its own (none) or one job runs a round's side by side (material).
    min_length, mesh, seed
        See ``FineTuneMaterialMaker``.
    """

    name: str = "adaptive"
    engine: ReferenceEngine | None = None
    strategy: str = "transfer"
    training: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    limits: dict[LimitName, float] = field(default_factory=dict)
    pack: Pack = "none"
    min_length: float = 20.0
    mesh: int = 20
    seed: int = 0

    @property
    def rules(self) -> AdaptiveOptions:
        """The options, checked."""
        try:
            return AdaptiveOptions.model_validate(self.options)
        except ValidationError as error:
            raise ConfigurationError(explained(error, AdaptiveOptions), "Correct the setting.") from error

    @property
    def thresholds(self) -> Thresholds:
        """All limits of the verdict."""
        return Thresholds.of(get_settings(), self.limits)

    def make(self, structure: Structure, foundation: PotentialRef, material: str = "") -> Flow:
        """Return the flow for a relaxed crystal; its output is an ``AdaptiveReport``."""
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
        start = self.start(structure, state)
        return Flow([sample, start], output=start.output, name=f"{self.name} {key}")

    def start(self, structure: Structure | OutputReference, state: AdaptiveState) -> Job:
        """Return the job that starts the first round of a crystal whose sampling is in ``state``."""
        if self.engine is None:
            raise ConfigurationError("AdaptiveMaker has no engine.", "Pass engine=make_engine('vasp').")
        require_labels_alone(self.strategy, make_spec(self.strategy, **self.training))
        assert self.rules  # what is wrong with the options is said now, not in a job
        made: Job = start_round(self, structure, state)
        return named(made, "adaptive", state.key, "start", step="start", strategy=self.strategy)

    def round(self, structure: Structure, state: AdaptiveState) -> Flow | None:
        """Return the flow of the next round, or None when nothing is left to label."""
        number, key, engine, rules = len(state.rounds) + 1, state.key, self.engine, self.rules
        frames = sampled_frames(state.sample)
        train = [frame for frame in frames if frame.split == "train"]
        doubts = state.rounds[-1].force_std if state.rounds else {}
        places = next_places(len(train), state.asked, doubts, rules.first if number == 1 else rules.step)
        if not places or (rules.max_rounds is not None and number > rules.max_rounds):
            return None
        asked = [train[place] for place in places]
        if number == 1:
            asked = [*[frame for frame in frames if frame.split == "valid"][: rules.n_valid], *asked]
        assert engine is not None  # make has checked
        labels = describe(LabelMaker(engine=engine).make(asked, f"{key} r{number}"), stage="label")
        join = join_labels(labels.output, state.labels, state.material, state.foundation)
        named(join, "audit", key, f"r{number}")
        jobs: list[Job | Flow] = [labels, join]
        trainings, phonons = [], []
        makers = [
            FineTuneMaker(strategy=self.strategy, settings=dict(self.training), seed=self.seed + member)
            for member in range(rules.committee)
        ]
        words = [
            (self.strategy, f"r{number}", *([f"s{member}"] if rules.committee > 1 else []))
            for member in range(rules.committee)
        ]
        train_sets = [join.output.train]
        for member in range(1, rules.committee):
            # seeds alone agree on whatever few labels say: members of a committee must have seen different ones
            part = leave_out(join.output.train, member - 1, rules.committee - 1)
            jobs.append(named(part, "subset", key, *words[member]))
            train_sets.append(part.output)
        inputs = [
            TrainingInputs(material=key, foundation=state.foundation, train=train_set, valid=join.output.valid)
            for train_set in train_sets
        ]
        pack = None
        if self.pack == "material" and rules.committee > 1:
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
            "latest": places,
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
    summed = ("label_seconds", "n_failed", "missing", "n_excluded")
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
    rules, limits = maker.rules, maker.thresholds
    criteria = {"change_thz": rules.change_thz}
    if rules.committee > 1:
        criteria = {"spread_thz": largest_spread(limits) if rules.spread_thz is None else rules.spread_thz}
    with recorded({"train": labels.train.sha256, "valid": labels.valid.sha256}, criteria, maker.seed) as manifest:
        models = [harmonic_from_document(one, default_artefacts()) for one in state.phonons]
        change = None
        if state.before is not None:
            change = _distance(harmonic_from_document(state.before, default_artefacts()), models[0], maker.mesh)
        committee = _committee(state, models, maker.mesh)
        n_labels = len(state.asked) + min(rules.n_valid, sample.n_valid)
        doubts = _doubts(state) if rules.committee > 1 else {}
        this = _round(state, n_labels, change, committee, doubts, limits)
    key, atoms = state.key, round(labels.train.n_atoms / labels.train.n_frames)
    earlier = [one for one in state.costs if one.stage != "label"] or [costs.sampling_cost(f"sample {key}", sample)]
    spent = [
        *earlier,
        costs.label_cost(f"label {key}", labels),
        *(costs.training_cost(f"train {key} r{this.number}", one, atoms) for one in state.trainings),
        *(costs.phonon_cost(f"phonon {key} r{this.number}", one) for one in state.phonons),
    ]
    rounds = [*state.rounds, this]
    reason = _reason(criteria, rounds)
    if reason is None:
        flow = maker.round(structure, state.model_copy(update={"rounds": rounds, "costs": spent}))
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
        labels=labels,
        training=state.trainings[0],
        committee=committee,
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


def largest_spread(limits: Thresholds) -> float:
    """Return how far a committee may be apart for the phonon MAE it leaves open to keep the verdict's limit, THz."""
    return limits.phonon_mae_thz / error_behind(1.0).high


def _committee(state: AdaptiveState, models: Sequence[HarmonicModel], mesh: int) -> Committee | None:
    """Return what the members of a committee say together; None where they relaxed into different structures."""
    if len(models) < 2:
        return None
    try:
        named_models = {f"{state.key} s{member}": model for member, model in enumerate(models)}
        return committee_in_full(named_models, mesh=mesh).result
    except MismatchError:
        return None


def _round(
    state: AdaptiveState,
    n_labels: int,
    change: float | None,
    committee: Committee | None,
    doubts: dict[int, float],
    limits: Thresholds,
) -> AdaptiveRound:
    labels, training, phonons = state.labels, state.trainings[0], state.phonons[0]
    forces = training.metrics["valid"].after.mae_forces_mev_per_angstrom
    # join_labels has run, and run_training always registers its model
    assert labels is not None
    assert training.model is not None
    return AdaptiveRound(
        number=len(state.rounds) + 1,
        asked=state.latest,
        n_labels=n_labels,
        n_train=labels.train.n_frames,
        valid_force_mae=forces,
        improved=training.improved,
        phonon_change_thz=change,
        spread_thz=None if committee is None else committee.disagreement_thz,
        committee=committee,
        force_std=doubts,
        verdict=judge_production(
            limits,
            valid_force_mae=forces,
            # a committee that agrees is convergence as well; with neither there is nothing to say about it yet
            phonon_change_thz=change if committee is None else committee.disagreement_thz,
            improved=training.improved,
            stable=phonons.stability.stable_practical,
            expected=None if committee is None else committee.mae_thz,
        ),
        potential=training.model,
        phonons=PhononSummary.of(phonons),
    )


def _reason(criteria: Mapping[str, float], rounds: Sequence[AdaptiveRound]) -> str | None:
    """Return why it is time to stop, or None."""
    this, spread = rounds[-1], criteria.get("spread_thz")
    if not this.improved:
        # trainings that failed hand back the foundation: its phonons stand still, and prove nothing
        return None
    if spread is not None:
        # members that relaxed into different structures have no spread: they do not agree
        if this.spread_thz is None or this.spread_thz > spread:
            return None
        return f"the committee's phonons differ by {this.spread_thz:.3f} THz (limit {spread:.3g} THz)"
    if this.phonon_change_thz is None or this.phonon_change_thz > criteria["change_thz"]:
        return None
    good = [all(reason.code in CONVERGENCE for reason in one.verdict.details) for one in rounds[-2:]]
    if good[0] != good[-1]:
        return None
    return (
        f"phonons moved by {this.phonon_change_thz:.3f} THz since the round before "
        f"(limit {criteria['change_thz']:g} THz), verdict unchanged"
    )


def _exhausted(this: AdaptiveRound, state: AdaptiveState) -> str:
    moved = this.phonon_change_thz if this.spread_thz is None else this.spread_thz
    everything = len(state.asked) >= state.sample.n_train
    what = "every sampled configuration is labelled" if everything else "the largest number of rounds is over"
    return what if moved is None else f"{what}; phonons still uncertain by {moved:.3f} THz"
