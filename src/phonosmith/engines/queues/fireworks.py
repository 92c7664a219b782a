"""Submission to FireWorks."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phonosmith.core.errors import ConfigurationError
from phonosmith.core.reading import load_yaml, read_bounded
from phonosmith.engines.queues.retrying import (
    QueuedJob,
    Retried,
    plan_retry,
    remove_results,
    with_losses,
    with_references,
)
from phonosmith.engines.queues.submission import (
    PATIENCE_MS,
    Known,
    Submission,
    artefact_warnings,
    check_job_store,
    check_workers,
    select,
)
from phonosmith.flows.routing import Routing, route

if TYPE_CHECKING:
    from jobflow import Flow, JobStore

FAILED_STATES = ("FIZZLED", "DEFUSED", "PAUSED")


def launchpad_file(given: Path | None) -> Path:
    """Return the launchpad file: the one named, else the one FireWorks would take."""
    if given is None:
        from fireworks.fw_config import LAUNCHPAD_LOC

        given = Path(LAUNCHPAD_LOC) if LAUNCHPAD_LOC else Path("my_launchpad.yaml")
    if not given.is_file():
        raise ConfigurationError(
            f"There is no launchpad file {given}.", "Name it with --launchpad; a ready one is in workflows/fireworks."
        )
    return given


def open_launchpad(path: Path) -> Any:
    """Return FireWorks' database after checking that it answers and has been set up."""
    import pymongo.errors
    from fireworks import LaunchPad

    try:
        content = load_yaml(read_bounded(path), str(path))
        patience = {"serverSelectionTimeoutMS": PATIENCE_MS}
        content["mongoclient_kwargs"] = patience | (content.get("mongoclient_kwargs") or {})
        launchpad = LaunchPad.from_dict(content)
        number = launchpad.fw_id_assigner.find_one({})
    except pymongo.errors.PyMongoError as error:
        reason = str(error).split(", Timeout")[0]
        raise ConfigurationError(
            f"{path}: MongoDB cannot be reached: {type(error).__name__}: {reason}.",
            "Start the server, or repair host and port there.",
        ) from error
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        raise ConfigurationError(
            f"{path} is not a launchpad file: {error}.", "See workflows/fireworks/my_launchpad.yaml."
        ) from error
    if number is None:
        raise ConfigurationError(
            f"The database of {path} has never been set up.", f"Run: lpad -l {path} reset  (it empties that database)"
        )
    return launchpad


def known_categories(folder: Path) -> set[str] | None:
    """Return the categories of the worker files in a folder, None where there are none to read.

    FireWorks keeps no list of its workers: what can be checked are the files beside the launchpad's.
    """
    categories: set[str] = set()
    files = sorted(folder.glob("*fworker*.yaml"))
    for path in files:
        category = (load_yaml(read_bounded(path), str(path)) or {}).get("category") or []
        categories.update([category] if isinstance(category, str) else category)
    return categories if files else None


def submit_fireworks(
    flow: Flow, rules: Routing, launchpad: Path | None = None, *, store: JobStore | None = None, dry_run: bool = False
) -> Submission:
    """Submit what is new in a flow, not yet routed, to FireWorks.

    Results go to ``store``, where it is None to that of ``jobflow.yaml``, each worker's own. A dry run only checks.
    """
    from jobflow.managers.fireworks import flow_to_workflow

    path = launchpad_file(launchpad)
    opened = open_launchpad(path)
    results, source = configured_store() if store is None else (store, "the job store")
    check_job_store(results, source)
    warnings = artefact_warnings()
    categories = known_categories(path.parent)
    if categories is None:
        asked = ", ".join(sorted({target.category or target.worker for target in rules.targets}))
        warnings.append(
            f"No fworker*.yaml beside {path}: whether a worker takes each category ({asked}) is not checked."
        )
    else:
        check_workers(flow, rules, sorted(categories), f"{path.parent} (fworker files)", field="category")
    results.connect()
    chosen = select(flow, results, lambda uuids: queued_jobs(opened, uuids))
    ids: list[str] = []
    if chosen.new and not dry_run:
        new = route(chosen.flow(flow.name), rules, "fireworks")
        workflow = flow_to_workflow(new, store=store, allow_external_references=True)
        ids = [str(number) for number in sorted(opened.add_wf(workflow).values())]
    return chosen.submission("fireworks", str(path), rules, warnings, ids)


def queued_jobs(launchpad: Any, uuids: list[str]) -> dict[str, Known]:
    """Return what a launchpad knows of jobs."""
    query = {"spec._tasks.job.uuid": {"$in": uuids}, "state": {"$ne": "ARCHIVED"}}
    wanted = {"spec._tasks.job.uuid": 1, "spec._tasks.job.index": 1, "state": 1}
    states = (
        (task["job"]["uuid"], task["job"].get("index") or 1, firework["state"])
        for firework in launchpad.fireworks.find(query, wanted)
        for task in firework["spec"]["_tasks"]
    )
    return Known.of(states, FAILED_STATES)


def configured_store() -> tuple[JobStore, str]:
    """Return the job store of ``jobflow.yaml`` and that file."""
    from jobflow.settings import JobflowSettings

    try:
        settings = JobflowSettings()
    except Exception as error:
        raise ConfigurationError(
            f"jobflow.yaml cannot be used: {error}", "Repair the file JOBFLOW_CONFIG_FILE names (~/.jobflow.yaml)."
        ) from error
    return settings.JOB_STORE, str(settings.CONFIG_FILE)


def retry_fireworks(
    names: Sequence[str] = (),
    materials: Sequence[str] = (),
    launchpad: Path | None = None,
    *,
    store: JobStore | None = None,
) -> Retried:
    """Start failed jobs of a launchpad again, and whatever was done or failed without them."""
    path = launchpad_file(launchpad)
    opened = open_launchpad(path)
    results = configured_store()[0] if store is None else store
    results.connect()
    jobs = with_references(with_losses(known_jobs(opened), results), lambda ids: _texts(opened, ids))
    plan = plan_retry(jobs, names, materials)
    # before anything can start: nobody is to find what is not valid any more
    remove_results(results, plan.outdated)
    _take_out(opened, [int(job.id) for job in [*plan.removed, *plan.elsewhere]])
    for job in plan.first:
        opened.rerun_fw(int(job.id), rerun_duplicates=False)
    return plan.answer("fireworks", str(path))


def known_jobs(launchpad: Any) -> list[QueuedJob]:
    """Return every job of a launchpad."""
    parents = defaultdict(list)
    for workflow in launchpad.workflows.find({}, {"links": 1}):
        for parent, children in workflow["links"].items():
            for child in children:
                parents[int(child)].append(str(parent))
    wanted = ("fw_id", "name", "state", *(f"spec._tasks.job.{key}" for key in ("uuid", "index", "metadata", "hosts")))
    jobs = []
    for found in launchpad.fireworks.find({"state": {"$ne": "ARCHIVED"}}, dict.fromkeys(wanted, 1)):
        for task in found["spec"]["_tasks"]:
            if "job" in task:
                known = task["job"]
                jobs.append(
                    QueuedJob(
                        id=str(found["fw_id"]),
                        uuid=known["uuid"],
                        index=known.get("index") or 1,
                        name=found["name"],
                        failed=found["state"] == "FIZZLED",
                        done=found["state"] == "COMPLETED",
                        settled=found["state"] not in ("WAITING", "READY"),
                        parents=tuple(parents[found["fw_id"]]),
                        metadata=known.get("metadata") or {},
                        hosts=tuple(known.get("hosts") or ()),
                    )
                )
    return jobs


def _texts(launchpad: Any, numbers: list[str]) -> dict[str, str]:
    wanted = {"fw_id": 1, "spec._tasks.job.function_args": 1, "spec._tasks.job.function_kwargs": 1}
    found = launchpad.fireworks.find({"fw_id": {"$in": [int(number) for number in numbers]}}, wanted)
    return {str(one["fw_id"]): json.dumps(one["spec"]["_tasks"], default=str) for one in found}


def _take_out(launchpad: Any, numbers: Sequence[int]) -> None:
    """Delete jobs from their workflows; FireWorks itself can only delete whole workflows."""
    gone = set(numbers)
    for workflow in launchpad.workflows.find({"nodes": {"$in": sorted(gone)}}):
        links = {
            parent: [child for child in children if child not in gone]
            for parent, children in workflow["links"].items()
            if int(parent) not in gone
        }
        above: dict[str, list[int]] = {}
        for parent, children in links.items():
            for child in children:
                above.setdefault(str(child), []).append(int(parent))
        nodes = [node for node in workflow["nodes"] if node not in gone]
        if not nodes:
            launchpad.workflows.delete_one({"_id": workflow["_id"]})
            continue
        states = {key: state for key, state in (workflow.get("fw_states") or {}).items() if int(key) not in gone}
        changed = {"nodes": nodes, "links": links, "parent_links": above, "fw_states": states}
        launchpad.workflows.update_one({"_id": workflow["_id"]}, {"$set": changed})
    launchpad.fireworks.delete_many({"fw_id": {"$in": sorted(gone)}})
