"""One import from start to end: read every source, write one dataset, keep it in the artefact store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ase import Atoms

from phonosmith.core.errors import InputError
from phonosmith.core.manifest import recorded
from phonosmith.reference.datasets.dataset import dataset_digest, put_dataset
from phonosmith.reference.datasets.documents import ImportDocument, Refusal, SourceReport
from phonosmith.reference.importers.collect import import_source
from phonosmith.reference.importers.frames import Steps
from phonosmith.reference.importers.identity import read_expectations, reduced_formula
from phonosmith.structures.extxyz import require_writable, write_frames
from phonosmith.structures.labels import FUNCTIONAL, SETTINGS, SOURCE


def import_paths(
    paths: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    steps: Steps = "all",
    functional: str | None = None,
    expect: Sequence[str] = (),
    jobstore: bool = False,
    allow_rehearsal: bool = False,
) -> ImportDocument:
    """Import finished calculations into one dataset.

    Parameters
    ----------
    paths
        Files, folders and archives, see ``import_source``.
    out
        Extended XYZ file to write; None writes none. Nothing is written when no frame was found.
    steps
        "all" converged ionic steps, or the "last".
    functional
        Functional of labels whose files name none.
    expect
        Expected compositions, see ``read_expectations``.
    jobstore
        Take the calculations in jobflow's configured JobStore too.
    allow_rehearsal
        Take labels of the VASP stand-in; they stay marked ``rehearsal``.

    Returns
    -------
    ImportDocument
        One report per source with counts and reasons; the dataset is kept in the artefact store as well.
    """
    if out is not None:
        require_writable(out)
    for path in paths:
        if not Path(path).exists():
            raise InputError(f"{path} does not exist.", "Check the path.")
    expected = read_expectations(expect)
    settings = {"steps": steps, "functional": functional, "expect": expected}
    with recorded(settings=settings) as manifest:
        frames: list[Atoms] = []
        reports: list[SourceReport] = []
        for path in paths:
            found, report = import_source(
                path, steps=steps, functional=functional, expect=expected, allow_rehearsal=allow_rehearsal
            )
            frames += found
            reports.append(report)
        if jobstore:
            found, report = _from_jobstore(steps, allow_rehearsal)
            frames += found
            reports.append(report)
        dataset = None
        if frames:
            if out is not None:
                write_frames(out, frames)
            dataset = put_dataset(frames, name=Path(out).name if out is not None else "import")
            manifest.inputs["dataset"] = dataset_digest(frames)
    return ImportDocument(
        n_frames=len(frames),
        n_refused=sum(report.n_refused for report in reports),
        sources=reports,
        dataset=dataset,
        manifest=manifest,
    )


def _from_jobstore(steps: Steps, allow_rehearsal: bool) -> tuple[list[Atoms], SourceReport]:
    from jobflow import SETTINGS as JOBFLOW

    from phonosmith.reference.importers.taskdoc import read_jobstore

    frames, refused = read_jobstore(JOBFLOW.JOB_STORE, steps=steps)
    fake = [frame for frame in frames if frame.info.get("rehearsal")]
    if fake and not allow_rehearsal:
        frames = [frame for frame in frames if not frame.info.get("rehearsal")]
        reason = "a rehearsal with the VASP stand-in: no DFT"
        refused += [Refusal(where=str(frame.info.get(SOURCE, "?")), reason=reason) for frame in fake]
    functionals = Counter(str(frame.info.get(FUNCTIONAL, "unknown")) for frame in frames)
    named = next(iter(functionals)) if len(functionals) == 1 else "mixed"
    return frames, SourceReport(
        path=f"JobStore {JOBFLOW.JOB_STORE.name}",
        kind="taskdoc",
        n_files=len({str(frame.info.get("source")) for frame in frames}) + len(refused),
        n_frames=len(frames),
        n_refused=len(refused),
        refused=refused,
        functional=named if frames and named != "unknown" else None,
        functionals=dict(functionals),
        settings=dict(Counter(str(frame.info.get(SETTINGS, "unknown")) for frame in frames)),
        formulas=dict(Counter(reduced_formula(frame) for frame in frames)),
    )
