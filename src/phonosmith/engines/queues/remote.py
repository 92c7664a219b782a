"""Submission to jobflow-remote."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phonosmith.core.errors import ConfigurationError, InputError
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
    Known,
    Submission,
    artefact_warnings,
    check_job_store,
    check_workers,
    select,
    unreachable,
)
from phonosmith.flows.routing import Routing, route

if TYPE_CHECKING:
    from jobflow import Flow

FAILED_STATES = ("FAILED", "REMOTE_ERROR", "USER_STOPPED", "STOPPED", "PAUSED")
RETRIED_STATES = ("FAILED", "REMOTE_ERROR")
"""What somebody paused or stopped is not started behind their back."""
WAIT_SECONDS = 60
"""How long a runner at work may hold a job that has to be reset, s."""


def open_project(name: str | None) -> Any:
    """Return a project of jobflow-remote, or say which file is missing or wrong."""
    from jobflow_remote import SETTINGS
    from jobflow_remote.config.base import ConfigError
    from jobflow_remote.config.manager import ConfigManager

    folder = SETTINGS.projects_folder
    try:
        return ConfigManager(warn=False).get_project(name)
    except ConfigError as error:
        raise ConfigurationError(
            f"jobflow-remote's project {name or '(default)'} cannot be used: {_broken_file(folder, name) or error}.",
            f"Put it into {folder} (or set JFREMOTE_PROJECTS_FOLDER), name it with --project; a ready one is in "
            "workflows/jobflow-remote.",
        ) from error


def _broken_file(folder: str, name: str | None) -> str:
    """Return what is wrong with a project's file, which jobflow-remote passes over; '' when nothing is."""
    from jobflow_remote.config.base import Project
    from pydantic import ValidationError

    for path in sorted(Path(folder).expanduser().glob(f"{name or '*'}.yaml")):
        try:
            Project.model_validate(load_yaml(read_bounded(path), str(path)))
        except ValidationError as error:
            first = error.errors()[0]
            return f"{path}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        except InputError as error:
            return error.message
    return ""


def check_databases(project: Any) -> None:
    """Refuse a project whose databases do not answer, lack the blob store, or have never been set up."""
    source = f"jobflow-remote's project {project.name!r}"
    if problem := unreachable(project.get_queue_store()):
        raise ConfigurationError(
            f"{source}: the queue's MongoDB cannot be reached: {problem}.", "Start it, or repair queue.store there."
        )
    check_job_store(project.get_jobstore(), source)
    controller = project.get_job_controller()
    try:
        if controller.auxiliary.find_one({"next_id": {"$exists": True}}) is None:
            raise ConfigurationError(
                f"The database of {source} has never been set up.", f"Run: jf -p {project.name} admin reset"
            )
    finally:
        controller.close()


def submit_remote(flow: Flow, rules: Routing, project: str | None = None, *, dry_run: bool = False) -> Submission:
    """Submit what is new in a flow, not yet routed, to a project of jobflow-remote (its default one when None).

    A dry run checks and counts only.
    """
    from jobflow_remote import submit_flow

    opened = open_project(project)
    source = f"jobflow-remote's project {opened.name!r}"
    check_databases(opened)
    check_workers(flow, rules, opened.workers, source)
    for target in rules.targets:
        if isinstance(target.exec_config, str) and target.exec_config not in opened.exec_config:
            known = ", ".join(opened.exec_config) or "none"
            raise ConfigurationError(f"{source} has no exec_config {target.exec_config!r}.", f"There is: {known}.")
    warnings = artefact_warnings()
    store = opened.get_jobstore()
    store.connect()
    chosen = select(flow, store, lambda uuids: queued_jobs(opened, uuids))
    ids: list[str] = []
    if chosen.new and not dry_run:
        explicit = rules.with_resources({name: worker.resources for name, worker in opened.workers.items()})
        new = route(chosen.flow(flow.name), explicit, "jobflow-remote")
        ids = submit_flow(new, worker=rules.inference.worker, project=opened.name, allow_external_references=True)
    return chosen.submission("jobflow-remote", opened.name, rules, warnings, [str(number) for number in ids])


def queued_jobs(project: Any, uuids: list[str]) -> dict[str, Known]:
    """Return what a project knows of jobs."""
    controller = project.get_job_controller()
    try:
        jobs = controller.get_jobs({"uuid": {"$in": uuids}}, projection=["uuid", "index", "state"])
    finally:
        controller.close()
    return Known.of(((job["uuid"], job["index"], job["state"]) for job in jobs), FAILED_STATES)


def retry_remote(names: Sequence[str] = (), materials: Sequence[str] = (), project: str | None = None) -> Retried:
    """Start failed jobs of a project again, and whatever was done or failed without them."""
    opened = open_project(project)
    check_databases(opened)
    store = opened.get_jobstore()
    store.connect()
    controller = opened.get_job_controller()
    try:
        jobs = with_references(with_losses(known_jobs(controller), store), lambda ids: _texts(controller, ids))
        plan = plan_retry(jobs, names, materials)
        # before anything can start: nobody is to find what is not valid any more
        remove_results(store, plan.outdated)
        for job in [*plan.removed, *plan.elsewhere]:
            _delete(controller, job)
        for job in plan.first:
            # forced, because jobs that go on without this one may be done; what they made is gone by now
            controller.rerun_job(db_id=job.id, force=True, wait=WAIT_SECONDS)
    finally:
        controller.close()
    return plan.answer("jobflow-remote", opened.name)


def _delete(controller: Any, job: QueuedJob) -> None:
    """Delete a job; the last one of a flow goes with it."""
    (flow,) = controller.flows.find({"jobs": job.uuid}, {"uuid": 1, "ids": 1})
    if len(flow["ids"]) == 1:
        controller.delete_flow(flow["uuid"])
    else:
        controller.delete_job(db_id=job.id, wait=WAIT_SECONDS)


def _texts(controller: Any, numbers: list[str]) -> dict[str, str]:
    found = controller.get_jobs(
        {"db_id": {"$in": numbers}}, projection=["db_id", "job.function_args", "job.function_kwargs"]
    )
    return {str(one["db_id"]): json.dumps(one["job"], default=str) for one in found}


def known_jobs(controller: Any) -> list[QueuedJob]:
    """Return every job of a project."""
    wanted = ["db_id", "uuid", "index", "state", "parents", "job.name", "job.metadata", "job.hosts"]
    found = list(controller.get_jobs({}, projection=wanted))
    numbers = defaultdict(list)
    for one in found:
        numbers[one["uuid"]].append(str(one["db_id"]))
    return [
        QueuedJob(
            id=str(one["db_id"]),
            uuid=one["uuid"],
            index=one["index"],
            name=one["job"]["name"],
            failed=one["state"] in RETRIED_STATES,
            done=one["state"] == "COMPLETED",
            settled=one["state"] not in ("WAITING", "READY"),
            parents=tuple(number for parent in one["parents"] or () for number in numbers[parent]),
            metadata=one["job"].get("metadata") or {},
            hosts=tuple(one["job"].get("hosts") or ()),
        )
        for one in found
    ]
