"""Fine-tuning as jobs: one per material, strategy and training-set size, or several of these in one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from jobflow import CURRENT_JOB, Job, JobConfig, Maker, OnMissing, Response

from phonosmith.core.artefacts import ArtefactRef, default_artefacts, write_atomic
from phonosmith.core.attempts import left_behind, seconds_left
from phonosmith.core.changing import job
from phonosmith.core.errors import ConfigurationError, InputError, TrainingError
from phonosmith.core.hashing import digest_json
from phonosmith.core.manifest import recorded
from phonosmith.core.metadata import STEP, inherit, name_of_part
from phonosmith.core.reuse import made_before, reused
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.datasets.documents import DatasetRef
from phonosmith.training.checkpoint import CHECKPOINT_NAME
from phonosmith.training.documents import PackedTraining, PackReport, TrainingDocument, TrainingInputs
from phonosmith.training.spec import DEFAULT_STRATEGY, TrainSpec, make_spec

if TYPE_CHECKING:
    from ase import Atoms
    from jobflow import OutputReference

    from phonosmith.core.document import Document
    from phonosmith.harmonic.curvature import CurvatureTarget
    from phonosmith.training.assemble import Groundwork
    from phonosmith.training.finetune import Training, TrainingResult


END_SECONDS = 300.0
"""Time kept for the end of a training before that of its SLURM job, s; a tenth of what is left where that is less."""


class Extras(TypedDict, total=False):
    """What a training takes beside its data; see :meth:`FineTuneMaker.make`."""

    material: str
    replay: DatasetRef | None
    force_constants: ArtefactRef | None


@dataclass
class FineTuneMaker(Maker):
    """Fine-tune a foundation on one dataset with one strategy.

    Attributes
    ----------
    name
        Job name; ``make`` completes it to ``train <material> <strategy>``.
    strategy, settings
        Preset (phonosmith, scratch, transfer, f1..f5, freeze1..freeze5, multihead, delta, lora, pft, delta+pft) and
        what to change of it.
    walltime
        Seconds of one job, from its start, after which training stops with a checkpoint; None: no limit but that of
        the SLURM job (PHONOSMITH_STOP_IN_TIME).
    continuations
        How often a training stopped by its walltime goes on in a job that replaces the stopped one (on whatever
        machine: the checkpoint travels through the artefact store). After the last the best model so far is
        returned, marked unfinished.
    refuse
        Fail when the model did not become better, or when what was asked for did not happen.
    """

    name: str = "train"
    strategy: str = DEFAULT_STRATEGY
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    walltime: float | None = None
    continuations: int = 20
    refuse: bool = False

    def spec(self) -> TrainSpec:
        """Return the strategy with its settings; impossible ones are explained."""
        return make_spec(self.strategy, **self.settings)

    def time_limit(self, since: float) -> float | None:
        """Return ``walltime``, or what the SLURM job allows if that is less; s from ``since`` (`perf_counter`)."""
        left = seconds_left()
        # the last epoch, the errors of the model and its way into the artefact store take their time
        ends = None if left is None else time.perf_counter() - since + max(0.9 * left, left - END_SECONDS)
        return min((limit for limit in (self.walltime, ends) if limit is not None), default=None)

    def make(
        self,
        foundation: PotentialRef,
        train: DatasetRef,
        valid: DatasetRef,
        *,
        material: str = "",
        replay: DatasetRef | None = None,
        force_constants: ArtefactRef | None = None,
    ) -> Job:
        """Return the training job; all arguments may be outputs of other jobs.

        Parameters
        ----------
        material
            Short name of the material, for the job's name.
        replay, force_constants
            Replay structures and phonopy file in the artefact store, where the strategy uses them.
        """
        inputs = TrainingInputs(
            material=material,
            foundation=foundation,
            train=train,
            valid=valid,
            replay=replay,
            force_constants=force_constants,
        )
        return self.make_of(inputs)

    def make_of(self, inputs: TrainingInputs, ahead: OutputReference | None = None) -> Job:
        """Return the training job of some inputs; ``ahead``: output of a pack job that this training is in."""
        further = {"ahead": ahead} if ahead is not None else {}
        made = train_model(
            self,
            inputs.foundation,
            inputs.train,
            inputs.valid,
            material=inputs.material,
            replay=inputs.replay,
            force_constants=inputs.force_constants,
            **further,
        )
        made.name = " ".join(part for part in (self.name, inputs.material.lower(), self.strategy) if part)
        return made


def _what_decides(
    maker: FineTuneMaker,
    foundation: PotentialRef,
    train: DatasetRef,
    valid: DatasetRef,
    *,
    part: int = 1,  # noqa: ARG001
    checkpoint: ArtefactRef | None = None,  # noqa: ARG001
    ahead: PackReport | None = None,  # noqa: ARG001
    **extras: Unpack[Extras],
) -> dict[str, Any]:
    """Return what the result of a training follows from; names and limits of time are no part of it."""
    maker = FineTuneMaker(**maker) if isinstance(maker, dict) else maker
    return {
        "spec": maker.spec().model_dump(mode="json"),
        "seed": maker.seed,
        "refuse": maker.refuse,
        "foundation": foundation,
        "train": train,
        "valid": valid,
        "replay": extras.get("replay"),
        "force_constants": extras.get("force_constants"),
    }


@job(output_schema=TrainingDocument, config=JobConfig(expose_store=True))
@reused(using=_what_decides)
def train_model(
    maker: FineTuneMaker,
    foundation: PotentialRef,
    train: DatasetRef,
    valid: DatasetRef,
    *,
    part: int = 1,
    checkpoint: ArtefactRef | None = None,
    ahead: PackReport | None = None,
    **extras: Unpack[Extras],
) -> TrainingDocument | Response[TrainingDocument]:
    """Fine-tune one model; stopped by its walltime, it goes on in a job that replaces this one.

    ``part`` says which job of one training this is, counted from one; ``checkpoint`` where the last one stopped.
    ``ahead``: what a pack did, this training among others. What it has done is not done again; what failed there is
    tried once more alone, by a job that replaces this one.
    """
    if ahead is not None:
        inputs = TrainingInputs(foundation=foundation, train=train, valid=valid, **extras)
        done = PackReport.model_validate(ahead).find(training_key(maker, inputs))
        if done is None or done.document is None:
            checkpoint = done.checkpoint if done is not None else None
            return _alone(train_model(maker, foundation, train, valid, checkpoint=checkpoint, **extras))
        document = done.document
    else:
        document = run_training(maker, foundation, train, valid, checkpoint=checkpoint, **extras)
    if document.finished or part > maker.continuations or ahead is not None:
        if maker.refuse:
            refuse_bad(document)
        return document
    following = train_model(maker, foundation, train, valid, part=part + 1, checkpoint=document.checkpoint, **extras)
    following.name = name_of_part(part + 1, "train")
    return Response(replace=following)


def _alone(following: Job) -> Response[TrainingDocument]:
    """Replace the running job, which was only to collect, by one that trains: named and described like it."""
    current = CURRENT_JOB.job
    if current is not None:
        following.name = current.name
        # jobflow describes what replaces a job as the job itself
        current.metadata.pop(STEP, None)
    return Response(replace=inherit(following))


class Sources:
    """Inputs of trainings by their identities: each foundation and data set is fetched once."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Any] = {}

    def groundwork(self, ref: PotentialRef) -> Groundwork:
        """Return what trainings from one foundation share."""
        from phonosmith.potentials.registry import load
        from phonosmith.training.assemble import Groundwork

        key = ("foundation", ref.sha256)
        if key not in self._found:
            self._found[key] = Groundwork(load(ref, dtype="float64", device="cpu"))
        ground: Groundwork = self._found[key]
        return ground

    def frames(self, ref: DatasetRef) -> list[Atoms]:
        """Return the structures of a data set."""
        from phonosmith.reference.datasets.dataset import get_dataset

        key = ("frames", ref.sha256)
        if key not in self._found:
            self._found[key] = get_dataset(ref)
        frames: list[Atoms] = self._found[key]
        return frames

    def curvature(self, ref: ArtefactRef) -> CurvatureTarget:
        """Return the force constants in a phonopy file."""
        key = ("curvature", ref.sha256)
        if key not in self._found:
            self._found[key] = _curvature(ref)
        target: CurvatureTarget = self._found[key]
        return target


def training_key(maker: FineTuneMaker, inputs: TrainingInputs) -> str:
    """Return the name of the folder of a training: readable, and another one for every other training."""
    spec, seed = maker.spec().model_dump(mode="json"), maker.seed
    refs = [inputs.foundation, inputs.train, inputs.valid, inputs.replay, inputs.force_constants]
    ending = digest_json([spec, *(ref and ref.sha256 for ref in refs)])[:8]
    short = [ref.sha256[:12] if ref is not None else "none" for ref in refs[:2]]
    return "-".join([*_label(maker, inputs), *short, str(seed), ending])


def _label(maker: FineTuneMaker, inputs: TrainingInputs) -> list[str]:
    return [part for part in (inputs.material.lower(), maker.strategy) if part]


def prepare_training(
    maker: FineTuneMaker,
    inputs: TrainingInputs,
    sources: Sources,
    *,
    checkpoint: ArtefactRef | None = None,
    workdir: str = "training",
) -> Training:
    """Fetch the inputs of a training by identity and return it ready to run in its own subfolder of ``workdir``.

    Where it was stopped before it goes on: what an interrupted attempt of this job has left goes before
    ``checkpoint``, which the artefact store has from a training that its walltime stopped, here or elsewhere.
    """
    from phonosmith.training.finetune import prepare

    spec = maker.spec()
    label = "-".join(_label(maker, inputs))
    here = Path(workdir) / training_key(maker, inputs) / CHECKPOINT_NAME
    foundation, train, valid = inputs.foundation, inputs.train, inputs.valid
    needed: dict[str, Document | None] = {"foundation": foundation, "training set": train, "validation set": valid}
    needed |= {"replay structures": inputs.replay} if spec.uses_replay else {}
    needed |= {"force constants": inputs.force_constants} if spec.uses_curvature else {}
    lacking = [what for what, ref in needed.items() if ref is None]
    if lacking or foundation is None or train is None or valid is None:
        raise InputError(
            f"The training {label} lacks its {', '.join(lacking)}.", "Give them; as jobs, look at the one that failed."
        )
    if not here.is_file():
        if (earlier := left_behind(here)) is not None:
            write_atomic(here, earlier.read_bytes())
        elif checkpoint is not None:
            write_atomic(here, default_artefacts().get_bytes(checkpoint))
    return prepare(
        sources.groundwork(foundation),
        sources.frames(train),
        sources.frames(valid),
        spec,
        replay=None if inputs.replay is None else sources.frames(inputs.replay),
        curvature=None if inputs.force_constants is None else sources.curvature(inputs.force_constants),
        seed=maker.seed,
        workdir=here.parent,
        name=label,
    )


def _registered(result: TrainingResult, folder: Path, foundation: PotentialRef | None) -> TrainingDocument:
    """Keep model, log and (of an unfinished training) checkpoint in the artefact store; return the document."""
    if not result.document.finished:
        result.document.checkpoint = _stored_checkpoint(folder)
    return result.register(foundation)


def _stored_checkpoint(folder: Path) -> ArtefactRef | None:
    """Put the checkpoint in a training's folder, if there is one, into the artefact store."""
    here = folder / CHECKPOINT_NAME
    if not here.is_file():
        return None
    return default_artefacts().put_bytes(here.read_bytes(), kind="checkpoint", suffix=".pt")


def run_training(
    maker: FineTuneMaker,
    foundation: PotentialRef,
    train: DatasetRef,
    valid: DatasetRef,
    *,
    checkpoint: ArtefactRef | None = None,
    workdir: str = "training",
    **extras: Unpack[Extras],
) -> TrainingDocument:
    """Fetch the inputs by identity, train, register the model; the work of one job.

    The checkpoint of a training stopped by its walltime goes into the artefact store beside the best model so far, so
    that it can go on in another folder or on another machine.
    """
    begin = time.perf_counter()
    inputs = TrainingInputs(foundation=foundation, train=train, valid=valid, **extras)
    training = prepare_training(maker, inputs, Sources(), checkpoint=checkpoint, workdir=workdir)
    training.fitter.run(walltime=maker.time_limit(begin), since=begin)
    return _registered(training.result(), Path(workdir) / training_key(maker, inputs), inputs.foundation)


@job(output_schema=PackReport, config=JobConfig(on_missing_references=OnMissing.NONE, expose_store=True))
def train_models(
    makers: Sequence[FineTuneMaker],
    inputs: Sequence[TrainingInputs],
    *,
    at_once: int | None = None,
    part: int = 1,
    earlier: PackReport | None = None,
) -> PackReport | Response[PackReport]:
    """Run trainings side by side in one process (see :mod:`phonosmith.training.packing`).

    Those stopped by their walltime, and those that waited for them, go on in a job that replaces this one; ``part``
    counts these from one, ``earlier`` is what the last one left. What was trained for this store before, in a pack of
    other members or alone, is not trained again.

    Raises
    ------
    TrainingError
        When every one of them failed; one that failed among others is reported with its error.
    """
    since = time.perf_counter()
    given = [TrainingInputs.model_validate(one) for one in inputs]
    trainings = list(zip(makers, given, strict=True))
    if earlier is not None:
        known = PackReport.model_validate(earlier).trainings
    else:
        known = [done for one in trainings if (done := _done_before(*one)) is not None]
    with recorded(settings={"at_once": at_once}) as manifest:
        found = run_pack(trainings, at_once=at_once, since=since, earlier=known)
    report = PackReport(trainings=found, manifest=manifest)
    if found and all(one.error for one in found):
        first = found[0].error
        raise TrainingError(f"All {len(found)} trainings failed, the first one with: {first}", "Correct that error.")
    if all(one.ended for one in found) or part > max(maker.continuations for maker in makers):
        return report
    following = train_models(makers, given, at_once=at_once, part=part + 1, earlier=report)
    following.name = name_of_part(part + 1, "train pack")
    return Response(replace=following)


def _done_before(maker: FineTuneMaker, inputs: TrainingInputs) -> PackedTraining | None:
    """Return the result that a job of the same training has left in the job store."""
    asked = {name: getattr(inputs, name) for name in TrainingInputs.model_fields}
    document = made_before("train_model", _what_decides(maker, **asked))
    if document is None:
        return None
    return PackedTraining(key=training_key(maker, inputs), document=TrainingDocument.model_validate(document))


def run_pack(
    trainings: Sequence[tuple[FineTuneMaker, TrainingInputs]],
    *,
    at_once: int | None = None,
    since: float | None = None,
    earlier: Sequence[PackedTraining] = (),
    workdir: str = "training",
) -> list[PackedTraining]:
    """Run trainings side by side, register their models and return what became of them; the work of one job.

    Of several GPUs that the job may use each gets a part of them, in a process of its own; see `cards`.

    ``since``: ``time.perf_counter()`` from which walltimes count; ``earlier``: what an earlier part has done.
    """
    from phonosmith.potentials.device import visible_cards

    keys = [training_key(*one) for one in trainings]
    if double := next((key for key in keys if keys.count(key) > 1), None):
        raise ConfigurationError(f"The training {double} is asked for twice.", "Ask for each training once.")
    found = {one.key: one for one in earlier}
    left = {key: one for key, one in zip(keys, trainings, strict=True) if key not in found or not found[key].ended}
    cards = visible_cards() if len(left) > 1 else []
    if len(cards) > 1:
        found |= _on_cards(cards, left, found, at_once=at_once, since=since, workdir=workdir)
    else:
        found |= _beside(left, found, at_once=at_once, since=since, workdir=workdir)
    return [found.get(key, PackedTraining(key=key)) for key in keys]


def _on_cards(
    cards: Sequence[str],
    trainings: Mapping[str, tuple[FineTuneMaker, TrainingInputs]],
    earlier: Mapping[str, PackedTraining],
    *,
    at_once: int | None,
    since: float | None,
    workdir: str,
) -> dict[str, PackedTraining]:
    """Run trainings in one process for each card and return what became of those that began."""
    from phonosmith.training.cards import on_each_card, shares

    keys = list(trainings)
    parts = shares([_epoch_frames(*one) for one in trainings.values()], len(cards))
    given = {card: [keys[number] for number in part] for card, part in zip(cards, parts, strict=True) if part}
    # the clock of perf_counter is the machine's: ``since`` means the same to all processes
    common = {"at_once": at_once, "since": since, "workdir": workdir}
    work = {
        card: {
            "trainings": [trainings[key] for key in part],
            "earlier": [earlier[key] for key in part if key in earlier],
            **common,
        }
        for card, part in given.items()
    }
    answers = on_each_card(f"{__name__}:run_pack", work, Path(workdir))
    found = dict[str, PackedTraining]()
    for card, part in given.items():
        answer = answers[card]
        if isinstance(answer, Exception):
            lost = [(key, _stored_checkpoint(Path(workdir) / key)) for key in part]
            answer = [PackedTraining(key=key, error=str(answer), checkpoint=checkpoint) for key, checkpoint in lost]
        found |= {one.key: one.model_copy(update={"card": card}) for one in answer}
    return found


def _epoch_frames(maker: FineTuneMaker, inputs: TrainingInputs) -> float:
    """Return how much work a training is: how often it looks at a structure, at most."""
    return maker.spec().epochs * (inputs.train.n_frames if inputs.train is not None else 1)


def _beside(
    trainings: Mapping[str, tuple[FineTuneMaker, TrainingInputs]],
    earlier: Mapping[str, PackedTraining],
    *,
    at_once: int | None,
    since: float | None,
    workdir: str,
) -> dict[str, PackedTraining]:
    """Run trainings in this process and return what became of those that began."""
    from phonosmith.training.packing import Outcome, Planned, SideBySide

    sources, found = Sources(), dict[str, PackedTraining]()
    begin = time.perf_counter() if since is None else since

    def planned(key: str, maker: FineTuneMaker, inputs: TrainingInputs) -> Planned:
        document = earlier[key].document if key in earlier else None
        checkpoint = document.checkpoint if document is not None else None

        def prepared() -> Training:
            return prepare_training(maker, inputs, sources, checkpoint=checkpoint, workdir=workdir)

        return Planned(key, prepared, maker.time_limit(begin))

    def keep(outcome: Outcome) -> None:
        key = outcome.planned.name
        maker, inputs = trainings[key]
        folder = Path(workdir) / key
        if outcome.result is None:
            found[key] = PackedTraining(
                key=key, error=f"{type(outcome.error).__name__}: {outcome.error}", checkpoint=_stored_checkpoint(folder)
            )
            return
        document, error = _registered(outcome.result, folder, inputs.foundation), ""
        if maker.refuse and document.finished:
            try:
                refuse_bad(document)
            except TrainingError as refusal:
                error = refusal.message
        found[key] = PackedTraining(key=key, document=document, error=error)

    SideBySide(at_once, on_end=keep).run([planned(key, *one) for key, one in trainings.items()], since=begin)
    return found


@dataclass
class PackMaker(Maker):
    """Fine-tune with several strategies, settings, seeds, sizes or materials in one job, on every GPU it is given.

    A small model leaves most of a GPU idle: trainings run side by side in one process for each card, as many at a time
    as its memory holds. Each has the model, document, checkpoint and log it would have alone.

    Attributes
    ----------
    name
        Job name; ``make`` completes it to ``train <material> pack``.
    makers
        The trainings. Their walltimes hold from the beginning of the job; what they stop goes on in a job that
        replaces this one.
    at_once
        Most trainings at a time on each card; None: as many as fit.
    """

    name: str = "train"
    makers: list[FineTuneMaker] = field(default_factory=list)
    at_once: int | None = None

    def make(self, foundation: PotentialRef, train: DatasetRef, valid: DatasetRef, **extras: Unpack[Extras]) -> Job:
        """Return the job of trainings with the same data, for :meth:`FineTuneMaker.make`'s arguments.

        Its output is a :class:`PackReport`.
        """

        def inputs(spec: TrainSpec) -> TrainingInputs:
            own = extras.copy()
            if not spec.uses_replay:
                own["replay"] = None
            if not spec.uses_curvature:
                own["force_constants"] = None
            return TrainingInputs(foundation=foundation, train=train, valid=valid, **own)

        return self.make_each([inputs(maker.spec()) for maker in self.makers], extras.get("material", ""))

    def make_each(self, inputs: Sequence[TrainingInputs], material: str = "") -> Job:
        """Return the job of trainings with data of their own each, in the order of the makers."""
        if not self.makers or len(inputs) != len(self.makers):
            raise ConfigurationError(
                f"A pack of {len(self.makers)} trainings has inputs for {len(inputs)}.", "Give inputs for each maker."
            )
        for maker in self.makers:
            maker.spec()  # impossible settings are explained here already
        made = train_models(self.makers, list(inputs), at_once=self.at_once)
        made.name = " ".join(part for part in (self.name, material.lower(), "pack") if part)
        return made


def refuse_bad(document: TrainingDocument) -> None:
    """Raise TrainingError when a model is not better than its foundation or a check failed."""
    if not document.checks.passed:
        raise TrainingError(
            f"The training {document.name} is refused: {' '.join(document.checks.findings)}",
            "Label more structures, try another strategy or learning rate, or allow it with refuse=False.",
        )


def _curvature(ref: ArtefactRef) -> CurvatureTarget:
    from phonosmith.harmonic.curvature import curvature_target
    from phonosmith.harmonic.files import load_harmonic

    with tempfile.TemporaryDirectory() as folder:
        # the name tells the reader the format, an artefact's path has none
        path = Path(folder) / f"phonopy{ref.suffix or '.yaml'}"
        path.write_bytes(default_artefacts().get_bytes(ref))
        return curvature_target(load_harmonic(path).phonon, source=f"force constants {ref.sha256[:12]}")
