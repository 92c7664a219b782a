"""Labelling as jobflow jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from ase import Atoms
from jobflow import CURRENT_JOB, Flow, Job, JobConfig, OnMissing, Response
from monty.json import jsanitize

from phonosmith.core.changing import HoldingMaker, job
from phonosmith.core.errors import InputError, LabelError, PhonosmithError
from phonosmith.core.metadata import describe
from phonosmith.core.reuse import only_results_travel, reused
from phonosmith.reference.documents import Frame, LabelReport, Reason, ReferenceRecord, Stopped, refused
from phonosmith.reference.engines import ReferenceEngine
from phonosmith.reference.labels import as_frames, collect, job_name, require_minimum, require_spin
from phonosmith.reference.protocol import Calculation, ReferenceProtocol


def _leave_refusal(record: ReferenceRecord) -> None:
    """Put a refused record where the job's output would be, so that the collecting job can say why.

    The job itself fails: it shows up as failed and can be run again alone, which overwrites this document.
    """
    current, store = CURRENT_JOB.job, CURRENT_JOB.store
    if current is None or store is None:
        return
    document = {
        "uuid": current.uuid,
        "index": current.index,
        "output": jsanitize(record, strict=True, enum_values=True, allow_bson=True),
        "completed_at": datetime.now().isoformat(),
        "metadata": current.metadata | {"refused": True},
        "hosts": current.hosts,
        "name": current.name,
    }
    store.update(document, key=["uuid", "index"])


def _is_marked_refused() -> bool:
    """Mark the running job as refused where only the results of jobs that did not raise reach the job store.

    The job then counts as completed there; for everybody else its document is that of any refused job.
    """
    if not only_results_travel() or CURRENT_JOB.job is None:
        return False
    CURRENT_JOB.job.metadata["refused"] = True
    return True


Answer: TypeAlias = ReferenceRecord | Response[ReferenceRecord]
"""A record, or the job that goes on where the running one was stopped for the end of its time."""


@job(output_schema=ReferenceRecord, config=JobConfig(expose_store=True))
@reused("name", "attempts", "stopped")
def label_frame(
    frame: Frame, engine: ReferenceEngine, name: str, attempts: int = 2, stopped: Stopped | None = None
) -> Answer:
    """Compute one frame; when the gate refuses the last attempt the refused record stays in the job store."""
    return computed_frame(frame, engine, "static", name, attempts, stopped, label_frame)


@job(output_schema=ReferenceRecord, config=JobConfig(expose_store=True))
@reused("name", "attempts", "stopped")
def force_frame(
    frame: Frame, engine: ReferenceEngine, name: str, attempts: int = 2, stopped: Stopped | None = None
) -> Answer:
    """Compute one displaced supercell, with the k-points of those; otherwise like `label_frame`."""
    return computed_frame(frame, engine, "displacement", name, attempts, stopped, force_frame)


def computed_frame(
    frame: Frame,
    engine: ReferenceEngine,
    calculation: Calculation,
    name: str,
    attempts: int,
    stopped: Stopped | None,
    again: Callable[..., Job],
) -> Answer:
    """Do the one calculation of the running job, whose store has to be exposed, and return its accepted record.

    A refused record stays in the job store, for whoever goes on without it, and the job fails. What was stopped for
    the end of its time goes on in a job of the same function, which ``again`` makes.
    """
    computing, asked = ReferenceEngine.model_validate(engine), Frame.model_validate(frame)
    try:
        earlier = None if stopped is None else Stopped.model_validate(stopped)
        record = computing.compute(asked, calculation, name, attempts, earlier)
    except PhonosmithError as error:
        reason = Reason(code="configuration", message=str(error))
        _leave_refusal(refused(asked, computing.protocol, calculation, computing.name, reason))
        raise
    if record.stopped is not None:
        from phonosmith.reference.vasp.makers import next_part

        return Response(replace=next_part(again(asked, computing, name, attempts, record.stopped), record.stopped))
    if not record.accepted:
        if _is_marked_refused():
            return record
        _leave_refusal(record)
        raise LabelError(f"{name}: {record.explain()}.", "Repair the cause and run this job again.")
    return record


@job(output_schema=LabelReport)
def collect_labels(
    results: list[Any],
    frames: list[Frame],
    material: str,
    engine: ReferenceEngine,
    minimum: dict[str, int],
    fraction: float,
    indices: list[int] | None = None,
    previous: LabelReport | None = None,
) -> LabelReport:
    """Collect what there is, keep it as datasets, say what failed and why; too few labels of a split raise."""
    asked = [Frame.model_validate(frame) for frame in frames]
    before = None if previous is None else LabelReport.model_validate(previous)
    report = collect(results, asked, material, ReferenceEngine.model_validate(engine), indices=indices, previous=before)
    wanted = Counter(frame.split for frame in asked) + Counter(before.counts if before else {})
    require_minimum(report, minimum, fraction, wanted)
    return report


@dataclass
class LabelMaker(HoldingMaker):
    """Make one job per frame and one that collects them.

    Parameters
    ----------
    name : stage in the names of the jobs: ``label si 07``
    attempts : how often a transient failure is started within its job, the first time included
    minimum : fewest labels by split; a split not named needs ``fraction`` of its frames
    """

    name: str = "label"
    engine: ReferenceEngine = field(default_factory=lambda: ReferenceEngine(name="vasp", protocol=ReferenceProtocol()))
    attempts: int = 2
    minimum: dict[str, int] = field(default_factory=dict)
    fraction: float = 0.8

    def make(self, frames: Sequence[Atoms | Frame], material: str) -> Flow:
        """Return the flow; its output is a ``LabelReport``. ``info["split"]`` of a frame says where it belongs."""
        return self._flow(as_frames(frames), material)

    def retry(self, report: LabelReport) -> Flow:
        """Return the flow that repeats only what failed and joins it with the labels there are."""
        if not report.failures:
            raise InputError(f"Every frame of {report.material} has its label.", "There is nothing to repeat.")
        frames, indices = zip(*((failure.frame, failure.index) for failure in report.failures), strict=True)
        return self._flow(list(frames), report.material, list(indices), report)

    def _flow(
        self, frames: list[Frame], material: str, indices: list[int] | None = None, previous: LabelReport | None = None
    ) -> Flow:
        require_spin(frames, self.engine)
        total = previous.n_frames if previous else len(frames)
        jobs = []
        for index, frame in zip(indices or range(len(frames)), frames, strict=True):
            name = job_name(material, index, total, self.name)
            one = label_frame(frame, self.engine, name, self.attempts)
            one.name = name
            jobs.append(one)
        last = collect_labels(
            [one.output for one in jobs], frames, material, self.engine, self.minimum, self.fraction, indices, previous
        )
        name = f"{self.name} {material.lower()}"
        last.name, last.config = f"{name} collect", JobConfig(on_missing_references=OnMissing.NONE)
        describe(last, step="collect")
        return Flow([*jobs, last], output=last.output, name=name)
