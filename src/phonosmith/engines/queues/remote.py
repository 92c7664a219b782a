"""Submission to jobflow-remote."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from phonosmith.core.errors import ConfigurationError, InputError
from phonosmith.core.failures import REFUSALS, refusal_of
from phonosmith.core.reading import load_yaml, read_bounded
from phonosmith.engines.queues.jobs import UNSUCCESSFUL, QueuedJob, QueueState
from phonosmith.engines.queues.retrying import Retried, plan_retry, remove_results, with_losses, with_references
from phonosmith.engines.queues.submission import (
    Submission,
    artefact_warnings,
    check_job_store,
    check_workers,
    require_package,
    submit_flows,
    unreachable,
)
from phonosmith.engines.queues.watching import asked, last_line
from phonosmith.flows.routing import EngineName, Routing, jobs_of, route

if TYPE_CHECKING:
    from jobflow import Flow, JobStore
    from pymongo.database import Database

_STATES: dict[str, QueueState] = {
    "WAITING": "waiting", "READY": "ready",
    "CHECKED_OUT": "pending", "UPLOADED": "pending", "SUBMITTED": "pending", "BATCH_SUBMITTED": "pending",
    "RUNNING": "running", "BATCH_RUNNING": "running", "RUN_FINISHED": "running", "DOWNLOADED": "running",
    "COMPLETED": "done", "FAILED": "failed", "REMOTE_ERROR": "failed",
    # what somebody paused or stopped is not started behind their back
    "USER_STOPPED": "stopped", "STOPPED": "stopped", "PAUSED": "stopped",
}  # fmt: skip
WAIT_SECONDS = 60
"""How long a runner at work may hold a job that has to be reset, s."""


def open_project(name: str | None) -> Any:
    """Return a project of jobflow-remote, or say which file is missing or wrong."""
    require_package("jobflow_remote", "remote")
    from jobflow_remote import SETTINGS
    from jobflow_remote.config.base import ConfigError
    from jobflow_remote.config.manager import ConfigManager

    folder = SETTINGS.projects_folder
    try:
        return ConfigManager(warn=False).get_project(name)
    except ConfigError as error:
        raise ConfigurationError(
            f"jobflow-remote's project {name or '(default)'} cannot be used: {_broken_file(folder, name) or error}.",
            f"Put it into {folder} (or set JFREMOTE_PROJECTS_FOLDER), name it with --project; 'phonosmith "
            "init-cluster' writes one.",
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


@dataclass
class RemoteQueue:
    """A project of jobflow-remote."""

    project: Any
    controller: Any
    store: JobStore
    engine: EngineName = "jobflow-remote"

    @property
    def target(self) -> str:
        """The project's name."""
        return str(self.project.name)

    @property
    def database(self) -> Database[Any]:
        """The queue's own database."""
        return cast("Database[Any]", self.controller.db)

    @cached_property
    def refused(self) -> dict[str, str]:
        """Jobs that completed with a refusal, and its reasons: whatever raises leaves no result behind here."""
        found = self.store.query(REFUSALS, properties=["uuid", "output.reasons"])
        return {str(one["uuid"]): refusal_of(one) for one in found}

    def all_jobs(self) -> list[QueuedJob]:
        """Return every job with the jobs it needs."""
        return self._jobs({})

    def jobs(self, uuids: Sequence[str]) -> list[QueuedJob]:
        """Return the jobs of some uuids."""
        return self._jobs({"uuid": {"$in": list(uuids)}})

    def unsuccessful(self) -> list[QueuedJob]:
        """Return every job that failed or was stopped."""
        states = [name for name, state in _STATES.items() if state in UNSUCCESSFUL]
        return self._jobs({"$or": [{"state": {"$in": states}}, {"uuid": {"$in": sorted(self.refused)}}]})

    def _jobs(self, criteria: dict[str, Any]) -> list[QueuedJob]:
        wanted = (
            *("db_id", "uuid", "index", "state", "parents", "worker", "remote.process_id"),
            *("job.name", "job.metadata", "job.hosts"),
        )
        found = list(self.controller.get_jobs(criteria, projection=list(wanted)))
        numbers = defaultdict(list)
        for one in found:
            numbers[one["uuid"]].append(str(one["db_id"]))
        return [
            QueuedJob(
                id=str(one["db_id"]),
                uuid=one["uuid"],
                index=one["index"],
                name=one["job"]["name"],
                state="failed"
                if one["state"] == "COMPLETED" and one["uuid"] in self.refused
                else _STATES.get(one["state"], "stopped"),
                parents=tuple(number for parent in one["parents"] or () for number in numbers[parent]),
                metadata=one["job"].get("metadata") or {},
                hosts=tuple(one["job"].get("hosts") or ()),
                worker=str(one.get("worker") or ""),
                process=str((one.get("remote") or {}).get("process_id") or ""),
            )
            for one in found
        ]

    def check(self, flow: Flow, rules: Routing) -> None:
        """Refuse workers, configurations of them and stores that the project does not have."""
        from jobflow_remote.remote.data import check_additional_stores

        source = f"jobflow-remote's project {self.target!r}"
        check_workers(flow, rules, self.project.workers, source)
        for target in rules.targets:
            if isinstance(target.exec_config, str) and target.exec_config not in self.project.exec_config:
                known = ", ".join(self.project.exec_config) or "none"
                raise ConfigurationError(f"{source} has no exec_config {target.exec_config!r}.", f"There is: {known}.")
        for member in jobs_of(flow):
            if missing := check_additional_stores(member, self.store):
                raise ConfigurationError(
                    f"{source}: the job store lacks {', '.join(missing)}, which {member.name!r} asks for.",
                    "Add it to jobstore.additional_stores, as 'phonosmith init-cluster' does.",
                )

    def add(self, flow: Flow, rules: Routing) -> list[str]:
        """Route a flow, put it into the queue and return the numbers of its jobs."""
        explicit = rules.with_resources({name: worker.resources for name, worker in self.project.workers.items()})
        routed = route(flow, explicit, "jobflow-remote")
        added = self.controller.add_flow(flow=routed, worker=rules.inference.worker, allow_external_references=True)
        return [str(number) for number in added]

    def errors(self, jobs: Sequence[QueuedJob]) -> dict[str, str]:
        """Return why jobs failed, by their numbers; of a refusal the store knows the reasons."""
        wanted = {"db_id": {"$in": [job.id for job in jobs]}}
        found = self.controller.get_jobs(wanted, projection=["db_id", "uuid", "error", "remote.error"])
        return {
            str(one["db_id"]): self.refused.get(one["uuid"])
            or last_line(one.get("error") or (one.get("remote") or {}).get("error") or "")
            for one in found
        }

    def schedulers(self, jobs: Sequence[QueuedJob]) -> tuple[dict[str, str], list[str]]:
        """Return what schedulers say about the processes of jobs, by these, and where none could be asked."""
        said: dict[str, str] = {}
        notes: list[str] = []
        for name in sorted({job.worker for job in jobs if job.process}):
            worker = self.project.workers.get(name)
            if getattr(worker, "scheduler_type", None) != "slurm":
                continue
            host = worker.get_host()
            try:
                host.connect()
                answer, problems = asked(host.execute, f"worker {name}")
            except Exception as problem:  # noqa: BLE001 ssh, keys, names: each fails in its own way
                answer, problems = {}, [f"Worker {name} cannot be reached: {problem}."]
            finally:
                host.close()
            said |= answer
            notes += problems
        return said, notes

    def idle(self) -> str:
        """Return the command that starts the runner where none is known to run."""
        running = self.controller.get_running_runner()
        return "" if isinstance(running, dict) else f"jf -p {self.target} runner start"

    def mend(self, uuids: Sequence[str]) -> None:
        """Take out what is there of a flow of such jobs if it is not complete; what has begun stays."""
        flows, jobs = self.controller.flows, self.controller.jobs
        for flow in list(flows.find({"jobs": {"$in": list(uuids)}})):
            numbers = [number for number, *_ in flow["ids"]]
            if jobs.count_documents({"db_id": {"$in": numbers}}) == len(numbers):
                continue
            jobs.delete_many({"db_id": {"$in": numbers}, "state": {"$in": ["WAITING", "READY"]}, "lock_id": None})
            begun = {one["db_id"]: one["uuid"] for one in jobs.find({"db_id": {"$in": numbers}}, ["db_id", "uuid"])}
            if not begun:
                flows.delete_one({"uuid": flow["uuid"]})
                continue
            left = {
                "ids": [one for one in flow["ids"] if one[0] in begun],
                "jobs": [uuid for uuid in flow["jobs"] if uuid in begun.values()],
                "parents": {uuid: known for uuid, known in flow["parents"].items() if uuid in begun.values()},
            }
            flows.update_one({"uuid": flow["uuid"]}, {"$set": left})


@contextmanager
def opened_remote(name: str | None) -> Iterator[RemoteQueue]:
    """Open a project, its default one when None, checked."""
    project = open_project(name)
    check_databases(project)
    store = project.get_jobstore()
    store.connect()
    controller = project.get_job_controller()
    try:
        yield RemoteQueue(project, controller, store)
    finally:
        controller.close()


def submit_remote(
    flows: Flow | Iterable[Flow],
    rules: Routing,
    project: str | None = None,
    *,
    dry_run: bool = False,
    show: Callable[[int, str], None] = lambda *_: None,
) -> Submission:
    """Submit what is new in flows, not yet routed, to a project of jobflow-remote; see `submit_flows`.

    A dry run checks and counts only.
    """
    with opened_remote(project) as queue:
        return submit_flows(flows, queue, rules, artefact_warnings(), dry_run=dry_run, show=show)


def retry_remote(names: Sequence[str] = (), materials: Sequence[str] = (), project: str | None = None) -> Retried:
    """Start failed jobs of a project again, and whatever was done or failed without them."""
    with opened_remote(project) as queue:
        jobs = with_references(with_losses(queue.all_jobs(), queue.store), lambda ids: _texts(queue.controller, ids))
        plan = plan_retry(jobs, names, materials)
        # before anything can start: nobody is to find what is not valid any more
        remove_results(queue.store, plan)
        for job in [*plan.removed, *plan.elsewhere]:
            _delete(queue.controller, job)
        for job in plan.first:
            # forced, because jobs that go on without this one may be done; what they made is gone by now
            queue.controller.rerun_job(db_id=job.id, force=True, wait=WAIT_SECONDS)
        return plan.answer("jobflow-remote", queue.target)


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
