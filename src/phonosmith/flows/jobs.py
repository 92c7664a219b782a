"""Jobs that join stages: needed labels, audit, replay structures, force constants for curvature supervision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobflow import JobConfig, OnMissing, Response

from phonosmith.analysis.committees import CommitteeReport, SeedCommittee, groups_of
from phonosmith.analysis.documents import AuditedLabels, MaterialReport
from phonosmith.analysis.learning import LearningCurveReport, learning_curves
from phonosmith.core.artefacts import ArtefactRef, default_artefacts
from phonosmith.core.changing import job
from phonosmith.core.document import Missing
from phonosmith.core.errors import LabelError, PhonosmithError
from phonosmith.core.identity import identified_like_running
from phonosmith.core.manifest import recorded
from phonosmith.core.metadata import inherit
from phonosmith.evaluation.phonons.committee import committee_in_full, force_disagreement
from phonosmith.evaluation.phonons.documents import PhononDoc
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.datasets.documents import AuditOptions, DatasetRef
from phonosmith.reference.documents import LabelReport, explained
from phonosmith.reference.jobs import LabelMaker
from phonosmith.reference.labels import sampled_frames

if TYPE_CHECKING:
    from ase import Atoms


# the label jobs belong to the worker of the reference program, not to the one that starts them
@job(config=JobConfig(pass_manager_config=False))
def start_needed_labels(sample: Any, maker: LabelMaker, material: str, n_train: int | None = None) -> Response[Any]:
    """Replace this job by one label job for each frame that will be used.

    Where this job has an identity from its content, its label jobs get one too: asking for a larger training set later
    labels only the frames that are new.

    Of the training frames only the first ``n_train`` (outermost first) are labelled, all when None.
    """
    frames = sampled_frames(sample)
    train = [frame for frame in frames if frame.split == "train"]
    others = [frame for frame in frames if frame.split != "train"]
    # validation frames first: their job names do not depend on the number of training frames
    flow = maker.make([*others, *train[:n_train]], material)
    return Response(replace=inherit(identified_like_running(flow)))


@job(config=JobConfig(pass_manager_config=False))
def label_displaced(
    structure: Any, matrix: list[list[int]], n_cells: int, maker: LabelMaker, material: str
) -> Response[Any]:
    """Replace this job by the label jobs of a few displaced cells of a crystal that an earlier job relaxed."""
    from phonosmith.flows.reference import check_cells

    return Response(replace=inherit(maker.make(check_cells(structure, matrix, n_cells, maker.engine.order), material)))


@job(output_schema=AuditedLabels)
def audit_material(report: Any, foundation: Any = None) -> AuditedLabels:
    """Audit the labels of one material (a ``LabelReport``) and keep what may be trained on.

    Labels of DFT are compared with what the ``foundation`` (a ``PotentialRef``) says about the same frames, too. A set
    that the audit refuses, or that it leaves without labels in a split, is a `LabelError`.
    """
    from phonosmith.reference.datasets.dataset import get_dataset

    labels = LabelReport.model_validate(report)
    splits = {name: get_dataset(labels.datasets[name]) for name in ("train", "valid")}
    return audited(labels, splits, labels.datasets, baseline_for(labels, foundation))


def baseline_for(labels: LabelReport, foundation: Any) -> Any:
    """Return the foundation that labels are compared with: none for those of a rehearsal or a force field."""
    # they resemble no foundation
    return None if labels.rehearsal or labels.engine not in ("vasp", "gpaw") else foundation


def audited(
    labels: LabelReport,
    splits: dict[str, list[Atoms]],
    stored: Mapping[str, DatasetRef] | None = None,
    foundation: Any = None,
) -> AuditedLabels:
    """Audit training and validation labels together; see ``audit_material``.

    ``stored`` names the splits that lie in the store already: where the audit leaves one whole it is not written again.
    """
    from phonosmith.potentials.registry import load
    from phonosmith.reference.audit.audit import audit, predictions
    from phonosmith.reference.datasets.dataset import put_dataset

    frames = [*splits["train"], *splits["valid"]]
    baseline = None if foundation is None else predictions(load(PotentialRef.model_validate(foundation)), frames)
    document = audit(frames, AuditOptions(allow_rehearsal=labels.rehearsal), baseline)
    words = [str(finding.message) for finding in document.findings]
    if document.verdict == "refuse":
        raise LabelError(f"The labels of {labels.material} are refused: {'; '.join(words)}.", "Repair them and rerun.")
    dropped = {id(frames[index]) for index in document.excluded}
    kept = {name: [atoms for atoms in splits[name] if id(atoms) not in dropped] for name in ("train", "valid")}
    if not all(kept.values()):
        raise LabelError(f"The audit of {labels.material} leaves no labels to train or validate on.", "; ".join(words))
    refs = {
        name: stored[name]
        if stored and len(whole) == len(splits[name])
        else put_dataset(whole, name=f"{labels.material} {name}")
        for name, whole in kept.items()
    }
    return AuditedLabels(
        material=labels.material,
        **refs,
        verdict=document.verdict,
        n_excluded=len(dropped),
        n_failed=len(labels.failures),
        missing=[Missing(what=one.job, reason=explained(one.reasons)) for one in labels.failures],
        findings=words,
        label_seconds=labels.wall_seconds,
        label_cores=labels.cores,
    )


@job(output_schema=DatasetRef)
def training_subset(train: Any, size: int) -> DatasetRef:
    """Keep the first ``size`` training labels (all where there are not more) as a dataset of their own."""
    from phonosmith.reference.datasets.dataset import subset

    ref = DatasetRef.model_validate(train)
    return ref if size >= ref.n_frames else subset(ref, size)


@job(output_schema=DatasetRef)
def replay_material(foundation: Any, elements: list[str], size: int = 100, seed: int = 0) -> DatasetRef:
    """Make replay structures of what the foundation knows, ``elements`` first, and label them with itself."""
    from phonosmith.flows.replay import elemental_pool, label_pool
    from phonosmith.potentials.registry import load
    from phonosmith.reference.datasets.dataset import put_dataset

    ref = PotentialRef.model_validate(foundation)
    pool = elemental_pool(ref.elements, elements, size, seed)
    frames = label_pool(load(ref), pool, ref.name)
    return put_dataset(frames, name=f"replay of {ref.name}", parents=[ref.sha256])


@job(output_schema=ArtefactRef)
def force_constants_file(phonons: Any) -> ArtefactRef:
    """Write the force constants of a phonon document as a phonopy file into the artefact store."""
    from phonosmith.evaluation.phonons.summary import harmonic_from_document
    from phonosmith.harmonic.files import phonopy_yaml

    model = harmonic_from_document(PhononDoc.model_validate(phonons), default_artefacts())
    return default_artefacts().put_bytes(phonopy_yaml(model.phonon).encode(), kind="force_constants", suffix=".yaml")


@job(output_schema=CommitteeReport, config=JobConfig(on_missing_references=OnMissing.NONE))
def collect_committees(reports: list[Any], mesh: int) -> CommitteeReport:
    """Say how sure the potentials in reports (``MaterialReport``) that differ in their seed make one another.

    A seed without a report is no member; without two reports there is no committee, a `LabelError`.
    """
    from phonosmith.harmonic.model import unpack_force_constants
    from phonosmith.potentials.registry import load
    from phonosmith.reference.datasets.dataset import get_dataset

    known = [MaterialReport.model_validate(one) for one in reports if one is not None]
    if len(known) < 2:
        raise LabelError(f"{len(known)} of {len(reports)} seeds have a report.", "Look at the failed jobs, run again.")
    first, artefacts = known[0], default_artefacts()
    truth = first.reference_result.phonons
    reference = None if truth is None else unpack_force_constants(artefacts.get_bytes(truth.force_constants), nac=True)
    frames = [*get_dataset(first.labels.train), *get_dataset(first.labels.valid)]
    committees, notes = [], []
    digests = {"train": first.labels.train.sha256, "valid": first.labels.valid.sha256}
    with recorded(digests, {"mesh": mesh, "seeds": [one.seed for one in known]}) as manifest:
        for (strategy, n_train), members in groups_of(known).items():
            models = {
                f"{entry.strategy} s{seed}": unpack_force_constants(
                    artefacts.get_bytes(entry.summary.force_constants), nac=True
                )
                for seed, entry in members
                if entry.summary is not None
            }
            try:
                committee = committee_in_full(models, reference, mesh).result
            except PhonosmithError as error:
                size = "" if n_train is None else f" {n_train}"
                notes.append(f"{strategy}{size}: {error.message}")
                continue
            answers = [load(entry.potential).evaluate(frames, stress=False) for _, entry in members]
            committees.append(
                SeedCommittee(
                    strategy=strategy,
                    n_train=n_train,
                    seeds=[seed for seed, _ in members],
                    potentials=[entry.potential.sha256 for _, entry in members],
                    committee=committee,
                    force_std=force_disagreement([[one.forces for one in of_one] for of_one in answers]),
                )
            )
    return CommitteeReport(
        material=first.material,
        formula=first.formula,
        campaign=first.campaign,
        cell=first.cell,
        foundation=first.foundation.potential.name,
        committees=committees,
        notes=notes,
        manifest=manifest,
    )


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


@job(output_schema=PotentialRef)
def resolve_potential(name: str) -> PotentialRef:
    """Return the identity of a potential that a user named, on the worker that will use it."""
    from phonosmith.potentials.registry import resolve

    return resolve(name)
