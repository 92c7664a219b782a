"""Label a few configurations, train, look at the phonons - and stop when they no longer move."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jobflow import CURRENT_JOB, Flow, Job, JobConfig, Maker, Response, job

from phonosmith.analysis.documents import AuditedLabels, PhononSummary
from phonosmith.analysis.learning_documents import AdaptiveReport, AdaptiveRound
from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.errors import ConfigurationError, InputError, MismatchError
from phonosmith.core.identity import fix_identities, has_content_identity
from phonosmith.core.manifest import recorded
from phonosmith.evaluation.phonons.documents import PhononDoc
from phonosmith.evaluation.phonons.fastpath import choose_phonon_supercell
from phonosmith.evaluation.phonons.jobs import FastPhononMaker
from phonosmith.evaluation.verdict import Verdict, judge_production
from phonosmith.flows import costs
from phonosmith.flows.jobs import audited, read_document
from phonosmith.reference.documents import LabelReport
from phonosmith.reference.engines import ReferenceEngine
from phonosmith.reference.jobs import LabelMaker
from phonosmith.reference.labels import sampled_frames
from phonosmith.sampling.documents import SamplingDoc
from phonosmith.sampling.jobs import SamplingMaker
from phonosmith.settings import get_settings
from phonosmith.training.documents import TrainingDocument
from phonosmith.training.jobs import FineTuneMaker
from phonosmith.training.spec import make_spec

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from phonosmith.harmonic.model import HarmonicModel
    from phonosmith.potentials.documents import PotentialRef


@dataclass
class AdaptiveMaker(Maker):
    """Label layer by layer, outermost first, until phonons and verdict stop moving.

    Every configuration is sampled at once (that is cheap); each round labels one more layer - the next configuration of
    every training trajectory - trains, and computes phonons. It ends when the phonons moved less than ``change_thz``
    since the round before and the verdict did not change; with a committee, when its members' phonons differ by less
    than ``spread_thz``, which can be after the first round. No reference phonons are needed.

    Attributes
    ----------
    name
        Flow name.
    engine
        Who labels.
    strategy, training
        Preset, and settings that replace its own.
    sampling
        Settings of ``SamplingSettings`` that differ from the protocol.
    layer_size
        Training configurations labelled per round; one of every trajectory when None.
    n_valid
        Validation configurations, labelled in the first round.
    change_thz
        Largest change of the phonons between rounds, THz.
    committee
        Trainings per round, with different seeds.
    spread_thz
        Largest mean phonon MAE between pairs of the committee, THz.
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
    spread_thz: float = 0.05
    max_rounds: int | None = None
    min_length: float = 20.0
    mesh: int = 20
    seed: int = 0

    def make(self, structure: Structure, foundation: PotentialRef, material: str = "") -> Flow:
        """Return the flow; its output is an ``AdaptiveReport``.

        Parameters
        ----------
        structure
            Relaxed crystal.
        foundation
            Potential to start from.
        material
            Short name used in job names; the formula by default.
        """
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
        label = material or structure.composition.reduced_formula
        key = "-".join(label.lower().split())
        sample = SamplingMaker(settings=dict(self.sampling), seed=self.seed).make(structure, foundation)
        sample.name = f"sample {key} {self.sampling.get('cell', 'large')}"
        matrix = choose_phonon_supercell(structure, self.min_length)
        state = {"material": label, "key": key, "structure": structure, "foundation": foundation, "matrix": matrix}
        start = start_round(self, state, sample.output)
        start.name = f"adaptive {key} start"
        start.config = JobConfig(pass_manager_config=False)
        return Flow([sample, start], output=start.output, name=f"{self.name} {key}")

    def round(self, state: dict[str, Any], sample: SamplingDoc, previous: dict[str, Any] | None) -> Flow | None:
        """Return the flow of the next round, or None when nothing is left to label.

        Parameters
        ----------
        state
            What all rounds share.
        sample
            Every configuration.
        previous
            Audited labels, phonons, rounds and costs so far; None in the first round.
        """
        done = previous["n_frames"] if previous else 0
        number = len(previous["rounds"]) + 1 if previous else 1
        frames = sampled_frames(sample)
        train = [frame for frame in frames if frame.split == "train"]
        layer = self.layer_size or sum(abs(one.volume_factor - 1.0) > 1e-9 for one in sample.configurations)
        chosen = train[done : done + layer]
        if not chosen or (self.max_rounds is not None and number > self.max_rounds):
            return None
        if previous is None:
            chosen = [*[frame for frame in frames if frame.split == "valid"][: self.n_valid], *chosen]
        key, engine = state["key"], self.engine
        assert engine is not None  # make has checked
        labels = LabelMaker(engine=engine).make(chosen, f"{key} r{number}")
        join = join_labels(labels.output, None if previous is None else previous["labels"], state["material"])
        join.name = f"audit {key} r{number}"
        jobs: list[Job | Flow] = [labels, join]
        trainings, phonons = [], []
        for member in range(self.committee):
            suffix = f"r{number}" if self.committee == 1 else f"r{number} s{member}"
            train_job = FineTuneMaker(
                strategy=self.strategy, settings=dict(self.training), seed=self.seed + member
            ).make(state["foundation"], join.output.train, join.output.valid, material=key)
            train_job.name = f"train {key} {self.strategy} {suffix}"
            phonon = FastPhononMaker(name=f"phonon {key} {self.strategy} {suffix}", mesh=self.mesh).make(
                state["structure"], train_job.output.model, state["matrix"]
            )
            trainings.append(train_job.output)
            phonons.append(phonon.output)
            jobs += [train_job, phonon]
        decide = judge_round(
            self, state, sample, previous, join.output, trainings, phonons, min(done + layer, len(train))
        )
        decide.name = f"adaptive {key} r{number}"
        decide.config = JobConfig(pass_manager_config=False)
        flow = Flow([*jobs, decide], output=decide.output, name=f"{self.name} {key} r{number}")
        current = CURRENT_JOB.job
        return fix_identities(flow) if current is not None and has_content_identity(current.uuid) else flow


@job
def start_round(maker: AdaptiveMaker, state: dict[str, Any], sample: Any) -> Response[Any]:
    """Replace this job by the first round."""
    flow = maker.round(state, read_document(SamplingDoc, sample), None)
    if flow is None:
        raise InputError(f"The sampling of {state['material']} left no training configuration.", "Sample again.")
    return Response(replace=flow)


@job(output_schema=AuditedLabels)
def join_labels(report: Any, previous: Any, material: str) -> AuditedLabels:
    """Audit the labels of this round together with those of the rounds before."""
    from phonosmith.reference.datasets.dataset import get_dataset

    labels = read_document(LabelReport, report).model_copy(update={"material": material})
    splits = {name: get_dataset(ref) for name, ref in labels.datasets.items()}
    before = None if previous is None else read_document(AuditedLabels, previous)
    if before is not None:
        splits = {
            "train": [*get_dataset(before.train), *splits["train"]],
            "valid": get_dataset(before.valid),
        }
    joined = audited(labels, splits)
    if before is None:
        return joined
    return joined.model_copy(
        update={
            "label_seconds": joined.label_seconds + before.label_seconds,
            "n_failed": joined.n_failed + before.n_failed,
            "n_excluded": joined.n_excluded + before.n_excluded,
        }
    )


@job
def judge_round(
    maker: AdaptiveMaker,
    state: dict[str, Any],
    sample: Any,
    previous: dict[str, Any] | None,
    labels: Any,
    trainings: list[Any],
    phonons: list[Any],
    n_frames: int,
) -> AdaptiveReport | Response[Any]:
    """Return the report when phonons have stopped moving or nothing is left, else start the next round.

    Parameters
    ----------
    maker, state, sample, previous
        See ``AdaptiveMaker.round``.
    labels
        All labels so far, audited.
    trainings, phonons
        Of the committee.
    n_frames
        Training configurations asked so far.
    """
    from phonosmith.evaluation.phonons.summary import harmonic_from_document

    sampled, kept = read_document(SamplingDoc, sample), read_document(AuditedLabels, labels)
    made = [read_document(TrainingDocument, one) for one in trainings]
    found = [read_document(PhononDoc, one) for one in phonons]
    criteria = {"change_thz": maker.change_thz} if maker.committee == 1 else {"spread_thz": maker.spread_thz}
    with recorded({"train": kept.train.sha256, "valid": kept.valid.sha256}, criteria, maker.seed) as manifest:
        models = [harmonic_from_document(one, default_artefacts()) for one in found]
        rounds = [] if previous is None else [read_document(AdaptiveRound, one) for one in previous["rounds"]]
        change = spread = None
        if previous is not None:
            before = harmonic_from_document(read_document(PhononDoc, previous["phonons"]), default_artefacts())
            change = _distance(before, models[0], maker.mesh)
        if len(models) > 1:
            apart = [_distance(a, b, maker.mesh) for a, b in itertools.combinations(models, 2)]
            spread = None if None in apart else float(np.mean(np.array(apart, dtype=float)))
        this = _round(rounds, n_frames + min(maker.n_valid, sampled.n_valid), kept, made[0], found[0], change, spread)
    rounds = [*rounds, this]
    spent = _costs(state["key"], previous, sampled, kept, made, found, this.number)
    reason = _reason(maker, rounds)
    if reason is None:
        following = {
            "labels": kept.model_dump(mode="json"),
            "phonons": found[0].model_dump(mode="json"),
            "rounds": [one.model_dump(mode="json") for one in rounds],
            "costs": [one.model_dump(mode="json") for one in spent],
            "n_frames": n_frames,
        }
        flow = maker.round(state, sampled, following)
        if flow is not None:
            return Response(replace=flow)
    total = sampled.n_train + sampled.n_valid
    return AdaptiveReport(
        material=state["material"],
        formula=found[0].formula,
        strategy=maker.strategy,
        rounds=rounds,
        stopped=reason is not None,
        reason=reason or _exhausted(rounds[-1], n_frames, sampled.n_train),
        potential=this.potential,
        verdict=this.verdict,
        n_labels=this.n_labels,
        n_labels_protocol=total,
        n_labels_saved=total - this.n_labels,
        n_displacements=found[0].n_displacements,
        criteria=criteria,
        costs=spent,
        manifest=manifest,
    )


def _distance(first: HarmonicModel, second: HarmonicModel, mesh: int) -> float | None:
    """Return the phonon MAE between two potentials, THz; None where they relaxed into different structures."""
    from phonosmith.evaluation.phonons.comparison import compare_phonons

    try:
        return compare_phonons(first, second, mesh).mae_thz
    except MismatchError:
        return None


def _round(
    rounds: list[AdaptiveRound],
    n_labels: int,
    labels: AuditedLabels,
    training: TrainingDocument,
    phonons: PhononDoc,
    change: float | None,
    spread: float | None,
) -> AdaptiveRound:
    forces = training.metrics["valid"].after.mae_forces_mev_per_angstrom
    # a committee that agrees is convergence as well; with neither there is nothing to say about it yet
    convergence = change if spread is None else spread
    assert training.model is not None  # run_training always registers its model
    assert forces is not None  # labels have forces
    return AdaptiveRound(
        number=len(rounds) + 1,
        n_labels=n_labels,
        n_train=labels.train.n_frames,
        valid_force_mae=forces,
        improved=training.improved,
        phonon_change_thz=change,
        spread_thz=spread,
        verdict=judge_production(
            get_settings(),
            valid_force_mae=forces,
            phonon_change_thz=convergence,
            improved=training.improved,
            stable=phonons.stability.stable_practical,
        ),
        potential=training.model,
        phonons=PhononSummary.of(phonons),
    )


def _unconverged(verdict: Verdict) -> list[str]:
    """Return the reasons of a verdict besides those about convergence."""
    return [reason for reason in verdict.reasons if "convergence" not in reason and "still move" not in reason]


def _reason(maker: AdaptiveMaker, rounds: list[AdaptiveRound]) -> str | None:
    """Return why it is time to stop, or None."""
    this = rounds[-1]
    if not this.improved:
        # trainings that failed hand back the foundation: its phonons stand still, and prove nothing
        return None
    if this.spread_thz is not None:
        if this.spread_thz > maker.spread_thz:
            return None
        return f"the committee's phonons differ by {this.spread_thz:.3f} THz (limit {maker.spread_thz:g} THz)"
    if maker.committee > 1:
        # members that relaxed into different structures do not agree
        return None
    if this.phonon_change_thz is None or this.phonon_change_thz > maker.change_thz:
        return None
    if bool(_unconverged(this.verdict)) != bool(_unconverged(rounds[-2].verdict)):
        return None
    return (
        f"phonons moved by {this.phonon_change_thz:.3f} THz since the round before (limit {maker.change_thz:g} THz), "
        "verdict unchanged"
    )


def _exhausted(this: AdaptiveRound, n_frames: int, n_train: int) -> str:
    moved = this.phonon_change_thz if this.spread_thz is None else this.spread_thz
    what = "every sampled configuration is labelled" if n_frames >= n_train else "the largest number of rounds is over"
    return what if moved is None else f"{what}; phonons still uncertain by {moved:.3f} THz"


def _costs(
    key: str,
    previous: dict[str, Any] | None,
    sample: SamplingDoc,
    labels: AuditedLabels,
    trainings: list[TrainingDocument],
    phonons: list[PhononDoc],
    number: int,
) -> list[Any]:
    from phonosmith.analysis.documents import Cost

    before = [read_document(Cost, one) for one in previous["costs"]] if previous else []
    earlier = [one for one in before if one.stage != "label"] or [costs.sampling_cost(f"sample {key}", sample)]
    atoms = round(labels.train.n_atoms / labels.train.n_frames)
    return [
        *earlier,
        costs.label_cost(f"label {key}", labels),
        *(costs.training_cost(f"train {key} r{number}", one, atoms) for one in trainings),
        *(costs.phonon_cost(f"phonon {key} r{number}", one) for one in phonons),
    ]
