"""The reports of a job store as flat rows, and the collection beside it that keeps them.

A report has 80 kB, and getting its numbers out takes 25 ms. The builder keeps one small document for each report; what
is new, altered or judged by other limits since is made again, what is gone is taken out. `read_results` does that when
it is asked; maggma's ``mrun`` does it for a store of many people.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from jobflow import JobStore
from maggma.core import Builder, Store
from maggma.stores import MongoStore

from phonosmith.analysis import columns as c
from phonosmith.analysis.committees import ANY, Expected
from phonosmith.analysis.documents import MATERIAL_SCHEMA
from phonosmith.analysis.judgement import VERDICT_PATHS, fit_by_todays_limits, limits_of
from phonosmith.core.errors import ConfigurationError
from phonosmith.core.hashing import digest_json
from phonosmith.evaluation.phonons.committee import Interval

Row = dict[str, Any]
REPORTS: Row = {
    # a range that an index on names serves: 'report ' up to the next character after the blank
    "name": {"$gte": "report ", "$lt": "report!"},
    "output.@class": "MaterialReport",
}
"""Filter for the reports of materials in a job store."""
COMMITTEES: Row = {
    "name": {"$gte": "committee ", "$lt": "committee!"},
    "output.@class": "CommitteeReport",
}
"""Filter for what is known of committees."""
_COMMITTEE_PATHS = (
    "completed_at", "output.material",
    *(f"output.committees.{path}" for path in ("strategy", "potentials", "committee.mae_thz")),
)  # fmt: skip
OLDEST_SCHEMA = 1
_METRIC_PATHS = dict.fromkeys(path for metric in c.METRICS for path in (metric.path, metric.relative_to) if path)
_POTENTIAL_PATHS = (
    "strategy", "n_train", "potential.name", "potential.sha256",
    *(path for path in dict.fromkeys((*_METRIC_PATHS, *VERDICT_PATHS)) if not path.startswith("report:")),
)  # fmt: skip
_REPORT_PATHS = (
    "schema_version", "material", "formula", "campaign", "mode", "cell", "seed", "reference", "rehearsal",
    "space_group", "space_group_number", "best", "gain", "failed", "costs", "limits",
    "labels.subsets", "labels.n_excluded", "labels.n_failed", "labels.train.n_frames",
    "structure.sites.label",
    "reference_result.phonons.n_displacements", "foundation.summary.n_displacements",
    *(path.removeprefix("report:") for path in _METRIC_PATHS if path.startswith("report:")),
)  # fmt: skip
JOB = ("uuid", "index", "completed_at")
PROJECTION: tuple[str, ...] = (
    *JOB,
    *(f"output.{path}" for path in _REPORT_PATHS),
    *(f"output.{part}.{path}" for part in ("foundation", "strategies") for path in _POTENTIAL_PATHS),
)
"""Fields that are read of each report."""
IDENTITY = ("output.material", "output.foundation.potential.sha256", "output.cell", "output.seed")
FLAT = ("common.material", "foundation_sha256", "common.cell", "common.seed")
"""What tells apart reports: in their own documents, and in the flat ones."""
NAMES = ("potentials", "materials", "costs", "failures")
FRAMES = ((*c.IDENTITY, *c.METRICS), c.MATERIAL, c.COST, c.FAILURE)
"""Frames in their order, and their columns."""
LAYOUT = 1
"""Of the flat documents; a change makes all of them anew."""
_SHARED = (*c.SHARED, "uuid", "completed_at")
_CHUNK = 200


class ResultsBuilder(Builder):  # type: ignore[misc]  # maggma has no type information
    """Keeps a flat document for every report of a job store's documents; in an ``mrun`` file or beside the store.

    Each says what it was made from (``content``: the report's seal, when its job ended, the limits of today) and holds
    the rows of `read_results`: ``common``, ``potentials``, ``materials``, ``costs``, ``failures``. A report that cannot
    be read leaves a ``note``.
    """

    def __init__(self, source: Store, target: Store, chunk_size: int = _CHUNK) -> None:
        self.source, self.target = source, target
        super().__init__(source, target, chunk_size=chunk_size)

    def outdated(self, flat: Iterable[Row] | None = None) -> tuple[list[str], list[str]]:
        """Return the jobs whose flat document is missing or of another content, and those whose report is gone.

        ``flat``: the flat documents, where they have been read already.
        """
        limits, expected = limits_of(None).model_dump(), self._expected()
        found = self.source.query(REPORTS, properties=[*JOB, "output.material", "metadata.seal.sha256"])
        wanted = {_job(one): _content(one, limits, expected) for one in found}
        kept = self.target.query({}, properties=["job", "content"]) if flat is None else flat
        known = {str(one["job"]): one["content"] for one in kept}
        stale = [job for job, content in wanted.items() if known.get(job) != content]
        return stale, sorted(known.keys() - wanted.keys())

    def get_items(self) -> Iterator[Row]:
        """Yield what is read of the reports that need it, after taking out what is gone."""
        self.target.ensure_index("job", unique=True)
        stale, gone = self.outdated()
        self.total = len(stale)
        if gone:
            self.target.remove_docs({"job": {"$in": gone}})
        limits, expected = limits_of(None).model_dump(), self._expected()
        for start in range(0, len(stale), self.chunk_size):
            chunk = stale[start : start + self.chunk_size]
            criteria = {**REPORTS, "uuid": {"$in": [job.partition(" ")[0] for job in chunk]}}
            for document in self.source.query(criteria, properties=[*PROJECTION, "metadata.seal.sha256"]):
                if _job(document) in chunk:
                    content = _content(document, limits, expected)
                    yield document | {"content": content, "expected": _of_material(document, expected)}

    def process_item(self, item: Row) -> Row:
        """Return the flat document of a report."""
        return flat_document(item, item["expected"]) | {"content": item["content"]}

    def _expected(self) -> Expected:
        return _newest_intervals(self.source.query(COMMITTEES, properties=list(_COMMITTEE_PATHS)))

    def update_targets(self, items: list[Row]) -> None:
        """Write flat documents."""
        if items:
            now = datetime.now(UTC).replace(tzinfo=None)
            self.target.update([item | {"last_updated": now} for item in items], key="job")

    def update(self) -> None:
        """Bring the collection up to date, leaving the stores open."""
        chunk: list[Row] = []
        for item in self.get_items():
            chunk.append(self.process_item(item))
            if len(chunk) == self.chunk_size:
                self.update_targets(chunk)
                chunk = []
        self.update_targets(chunk)


def results_collection(store: JobStore) -> Store | None:
    """Return the store of the flat documents, beside the job store's own in its database; None where that cannot be."""
    store.connect()
    documents = store.docs_store
    name = f"{documents.collection_name}.results" if hasattr(documents, "collection_name") else ""
    if isinstance(documents, MongoStore):
        beside = MongoStore.from_collection(documents._collection.database[name])  # noqa: SLF001 maggma's own builders do
        beside.key = "job"
    elif name and hasattr(documents, "path"):
        beside = type(documents)(documents.path, name, key="job")
        beside.connect()
    else:
        return None
    return beside


def current_rows(store: JobStore, campaign: str | None = None) -> tuple[list[Row], list[str]]:
    """Return the flat documents of a job store's reports, or of one campaign, and notes on those that cannot be read.

    They come from the collection, brought up to date; from the reports themselves where nothing can be written there.
    """
    flat: list[Row] = []
    beside = None
    # a store that can only be read, or of a kind without room for a collection
    with contextlib.suppress(Exception):
        beside = results_collection(store)
        if beside is not None:
            builder = ResultsBuilder(store.docs_store, beside)
            flat = [*beside.query({})]
            if any(builder.outdated(flat)):
                builder.update()
                flat = [*beside.query({})]
            if not isinstance(beside, MongoStore):  # those share the connection of the job store
                beside.close()
    if beside is None or not flat:
        expected = read_expected(store)
        flat = [flat_document(one, expected) for one in store_query(store, REPORTS, PROJECTION)]
    if campaign is not None:
        flat = [one for one in flat if one["campaign"] == campaign]
    return [one for one in flat if not one["note"]], [one["note"] for one in flat if one["note"]]


def _job(document: Row) -> str:
    return f"{document.get('uuid')} {document.get('index')}"


def _of_material(document: Row, expected: Expected) -> dict[tuple[str, str], Interval]:
    material = str(c.at(document, "output.material"))
    return {key: interval for key, interval in expected.items() if key[0] == material}


def _content(document: Row, limits: Mapping[str, Any], expected: Expected) -> str:
    seal = c.at(document, "metadata.seal.sha256")
    job = [str(document.get(name)) for name in JOB]
    open_ends = {key[1]: interval.model_dump() for key, interval in _of_material(document, expected).items()}
    known = {"seal": seal, "job": job, "limits": limits, "layout": LAYOUT}
    return digest_json(known | ({"expected": open_ends} if open_ends else {}))


def flat_document(document: Row, expected: Expected) -> Row:
    """Return what is kept of a report, as `PROJECTION` reads it; ``expected``: what committees leave open."""
    report = document["output"]
    kept = {
        "job": _job(document),
        **{name: document.get(name) for name in JOB},
        "campaign": report.get("campaign"),
        "foundation_sha256": c.at(report, "foundation.potential.sha256"),
        "common": {},
        **{name: [] for name in NAMES},
        "note": _unreadable(document),
    }
    if kept["note"]:
        return kept
    try:
        made = [
            [{column.name: c.checked(column, row.get(column.name)) for column in columns} for row in rows]
            for columns, rows in zip(FRAMES, _rows(document, report, expected), strict=True)
        ]
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        return kept | {"note": f"job {document.get('uuid')}: report of {report.get('material')} is damaged: {error}"}
    (material,) = made[NAMES.index("materials")]
    common = {name: material[name] for name in _SHARED}
    short = [
        [{name: value for name, value in row.items() if name not in common and value is not None} for row in rows]
        for rows in made
    ]
    return kept | {"common": common} | dict(zip(NAMES, short, strict=True))


def _unreadable(document: Row) -> str:
    """Return why a report is of no version that can be read, or ''."""
    version = document["output"].get("schema_version")
    if isinstance(version, int) and OLDEST_SCHEMA <= version <= MATERIAL_SCHEMA:
        return ""
    newer = isinstance(version, int) and version > MATERIAL_SCHEMA
    return (
        f"job {document.get('uuid')}: report of {document['output'].get('material')} has layout {version}, "
        f"{OLDEST_SCHEMA} to {MATERIAL_SCHEMA} can be read: "
        + ("install a newer phonosmith to read it" if newer else "run the material again")
    )


def find_reports(store: JobStore, campaign: str | None, properties: tuple[str, ...], notes: list[str]) -> Iterator[Row]:
    """Yield projected documents whose output is a report of a version that can be read; note the others."""
    criteria = REPORTS | ({"output.campaign": campaign} if campaign is not None else {})
    for document in store_query(store, criteria, properties):
        if why := _unreadable(document):
            notes.append(why)
        else:
            yield document


def read_expected(store: JobStore, campaign: str | None = None) -> Expected:
    """Return the phonon MAE that the committees of a job store, or of one campaign, leave open; the newest count."""
    criteria = COMMITTEES | ({"output.campaign": campaign} if campaign is not None else {})
    return _newest_intervals(store_query(store, criteria, _COMMITTEE_PATHS))


def _newest_intervals(documents: Iterable[Row]) -> dict[tuple[str, str], Interval]:
    expected: dict[tuple[str, str], Interval] = {}
    for document in sorted(documents, key=lambda one: str(one.get("completed_at") or "")):
        output = document["output"]
        for one in output.get("committees") or []:
            if one["strategy"] != ANY:
                interval = Interval.model_validate(c.at(one, "committee.mae_thz"))
                expected |= {(output["material"], sha256): interval for sha256 in one["potentials"]}
    return expected


def store_query(store: JobStore, criteria: Row, properties: tuple[str, ...]) -> list[Row]:
    """Return projected documents of a job store, connected where it is not.

    Raises
    ------
    ConfigurationError
        When the store cannot be read.
    """
    try:
        store.connect()
        return list(store.query(criteria, properties=list(properties), load=False))
    except Exception as error:
        raise ConfigurationError(
            f"The job store {store.name} cannot be read: {type(error).__name__}: {error}.",
            "Check that its server runs and that jobflow.yaml or --store names the right one.",
        ) from error


def newest(documents: Iterable[Row], identity: Sequence[str] = IDENTITY) -> list[Row]:
    """Return the newest of the reports with the same material, foundation, cell and seed, found at such paths."""
    best: dict[tuple[str, ...], Row] = {}
    for document in sorted(documents, key=lambda one: (str(one.get("completed_at") or ""), int(one.get("index") or 0))):
        best[tuple(str(c.at(document, path)) for path in identity)] = document
    return [best[key] for key in sorted(best)]


def _rows(document: Row, report: Row, expected: Expected) -> tuple[list[Row], ...]:
    """Return the rows a report gives to each frame."""
    plain = ("material", "formula", "campaign", "cell", "reference", "rehearsal", "space_group", "space_group_number")
    # layout 1 knew neither mode nor seed
    common = {name: report.get(name) for name in (*plain, "best", "gain")} | {
        "mode": report.get("mode") or "comparison",
        "seed": report.get("seed") or 0,
        "foundation": c.at(report, "foundation.potential.name"),
        "uuid": document.get("uuid"),
        "completed_at": str(document.get("completed_at") or ""),
    }
    if not common["material"]:
        raise ValueError("it names no material")
    tuned = report.get("strategies") or []
    for part in tuned:
        of = expected.get((str(common["material"]), str(c.at(part, "potential.sha256"))))
        part["expected_mae_thz"] = None if of is None else of.model_dump()
    potentials = [
        common
        | {name: part[name] for name in ("strategy", "n_train")}
        | {"training_set": training_set(part, report), "potential_sha256": c.at(part, "potential.sha256")}
        | {metric.name: c.checked(metric, metric.value(part, report)) for metric in c.METRICS}
        | {"fit": fit_by_todays_limits(part, report)}
        for part in (report["foundation"], *tuned)
    ]
    failed = report.get("failed") or []
    sites = c.at(report, "structure.sites")
    truth = c.at(report, "reference_result.phonons.n_displacements")
    material = common | {
        "n_atoms": len(sites) if sites else None,
        "n_potentials": len(tuned),
        "n_failed": len(failed),
        "n_labels_excluded": c.at(report, "labels.n_excluded"),
        "n_labels_failed": c.at(report, "labels.n_failed"),
        "n_displaced_cells": c.at(report, "foundation.summary.n_displacements") if truth is None else truth,
    }
    costs = []
    for item in report.get("costs") or []:
        hours = item["wall_seconds"] / 3600
        counted = {"core_hours": hours * (item.get("cores") or 1), "gpu_hours": hours * (item.get("gpus") or 0)}
        costs.append(common | item | counted)
    return potentials, [material], costs, [common | {"what": what} for what in failed]


def training_set(part: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Return the number of structures that was asked for, which the audit may have made smaller."""
    if part["n_train"] == 0:
        return ""
    subsets = c.at(report, "labels.subsets") or {}
    asked = [int(size) for size, ref in subsets.items() if c.at(ref, "n_frames") == part["n_train"]]
    return str(min(asked)) if asked else "all"
