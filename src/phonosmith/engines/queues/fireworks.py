"""Submission to FireWorks."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from phonosmith.core.errors import ConfigurationError
from phonosmith.core.reading import load_yaml, read_bounded
from phonosmith.engines.queues.jobs import UNSUCCESSFUL, QueuedJob, QueueState
from phonosmith.engines.queues.retrying import Retried, plan_retry, remove_results, with_losses, with_references
from phonosmith.engines.queues.submission import (
    PATIENCE_MS,
    Submission,
    artefact_warnings,
    check_job_store,
    check_workers,
    require_package,
    submit_flows,
)
from phonosmith.engines.queues.watching import asked, last_line
from phonosmith.flows.routing import EngineName, Routing, route

if TYPE_CHECKING:
    from jobflow import Flow, JobStore
    from pymongo.database import Database

_STATES: dict[str, QueueState] = {
    "WAITING": "waiting", "READY": "ready", "RESERVED": "pending", "RUNNING": "running", "COMPLETED": "done",
    "FIZZLED": "failed", "DEFUSED": "stopped", "PAUSED": "stopped",
}  # fmt: skip
_UUID = "spec._tasks.job.uuid"


def launchpad_file(given: Path | None) -> Path:
    """Return the launchpad file: the one named, else the one FireWorks would take."""
    require_package("fireworks", "fireworks")
    if given is None:
        from fireworks.fw_config import LAUNCHPAD_LOC

        given = Path(LAUNCHPAD_LOC) if LAUNCHPAD_LOC else Path("my_launchpad.yaml")
    if not given.is_file():
        raise ConfigurationError(
            f"There is no launchpad file {given}.", "Name it with --launchpad; 'phonosmith init-cluster' writes one."
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
            f"{path} is not a launchpad file: {error}.", "'phonosmith init-cluster --engine fireworks' writes one."
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


@dataclass
class FireWorksQueue:
    """A launchpad; results go to ``store``, and with ``own_store`` to that of each worker's own ``jobflow.yaml``."""

    launchpad: Any
    target: str
    store: JobStore
    own_store: bool = True
    engine: EngineName = "fireworks"

    @property
    def database(self) -> Database[Any]:
        """The launchpad's own database."""
        return cast("Database[Any]", self.launchpad.db)

    def all_jobs(self) -> list[QueuedJob]:
        """Return every job with the jobs it needs."""
        parents = defaultdict(list)
        for workflow in self.launchpad.workflows.find({}, {"links": 1}):
            for parent, children in workflow["links"].items():
                for child in children:
                    parents[int(child)].append(str(parent))
        processes = {launch["fw_id"]: process for launch, process in self._reserved()}
        return [
            dataclasses.replace(job, parents=tuple(parents[int(job.id)]), process=processes.get(int(job.id), ""))
            for job in self._jobs({})
        ]

    def _reserved(self) -> Iterator[tuple[dict[str, Any], str]]:
        """Yield the launches that wait in a scheduler's queue, with its numbers of them."""
        wanted = ("fw_id", "launch_id", "host", "launch_dir", "state_history.reservation_id")
        for launch in self.launchpad.launches.find({"state": "RESERVED"}, dict.fromkeys(wanted, 1)):
            for entry in launch["state_history"]:
                if "reservation_id" in entry:
                    yield launch, str(entry["reservation_id"])

    @cached_property
    def lost(self) -> dict[int, str]:
        """Jobs whose worker is gone without a word, by number, and how that is known.

        FireWorks notices by itself neither a worker that was killed nor a batch script that never started.
        """
        return self._silent() | self._never_started()

    def _silent(self) -> dict[int, str]:
        """Return running jobs without a sign of life for as long as FireWorks' own configuration allows.

        (`LaunchPad.detect_lostruns` takes a job that runs again after a failure for one that ended.)
        """
        from fireworks.fw_config import RUN_EXPIRATION_SECS

        running = {
            number: one["fw_id"]
            for one in self.launchpad.fireworks.find({"state": "RUNNING"}, {"fw_id": 1, "launches": 1})
            for number in one["launches"]
        }
        wanted = {"launch_id": {"$in": sorted(running)}}
        launches = list(self.launchpad.launches.find(wanted, {"launch_id": 1, "state": 1, "state_history": 1}))
        alive, ended = set[int](), set[int]()
        earliest = (datetime.now(UTC) - timedelta(seconds=RUN_EXPIRATION_SECS)).isoformat()
        for launch in launches:
            signs = [entry.get("updated_on") or entry["created_on"] for entry in launch["state_history"]]
            # FireWorks keeps times as text
            if max(map(str, signs), default="") > earliest:
                alive.add(running[launch["launch_id"]])
            if launch["state"] in ("FIZZLED", "COMPLETED"):
                ended.add(running[launch["launch_id"]])
        silent = {running[launch["launch_id"]] for launch in launches} - alive
        words = f"lost: its worker has given no sign of life for {RUN_EXPIRATION_SECS / 60:g} minutes"
        killed = "lost: its worker was killed while it wrote down how the job ended"
        return {number: killed if number in ended else words for number in silent}

    def _never_started(self) -> dict[int, str]:
        """Return reserved jobs that SLURM does not know: reserved from this machine, by this user."""
        own = {launch["fw_id"]: process for launch, process in self._reserved() if _is_own(launch)}
        said, problems = self._squeue if own else ({}, [])
        missing = {number: process for number, process in own.items() if process not in said and not problems}
        # one that has started meanwhile is reserved no more
        still = {launch["fw_id"] for launch, _ in self._reserved()} if missing else set()
        return {
            number: f"lost: SLURM's job {process} is gone and never started it"
            for number, process in missing.items()
            if number in still
        }

    def jobs(self, uuids: Sequence[str]) -> list[QueuedJob]:
        """Return the jobs of some uuids."""
        return self._jobs({_UUID: {"$in": list(uuids)}})

    def unsuccessful(self) -> list[QueuedJob]:
        """Return every job that failed or was stopped."""
        states = [name for name, state in _STATES.items() if state in UNSUCCESSFUL]
        return self._jobs({"$or": [{"state": {"$in": states}}, {"fw_id": {"$in": sorted(self.lost)}}]})

    def _jobs(self, criteria: dict[str, Any]) -> list[QueuedJob]:
        wanted = (
            *("fw_id", "name", "state", "spec._category"),
            *(f"spec._tasks.job.{key}" for key in ("uuid", "index", "metadata", "hosts")),
        )
        jobs, lost = [], self.lost
        for found in self.launchpad.fireworks.find(
            {"state": {"$ne": "ARCHIVED"}, **criteria}, dict.fromkeys(wanted, 1)
        ):
            for task in found["spec"]["_tasks"]:
                if "job" in task:
                    known = task["job"]
                    jobs.append(
                        QueuedJob(
                            id=str(found["fw_id"]),
                            uuid=known["uuid"],
                            index=known.get("index") or 1,
                            name=found["name"],
                            state="failed" if found["fw_id"] in lost else _STATES.get(found["state"], "stopped"),
                            metadata=known.get("metadata") or {},
                            hosts=tuple(known.get("hosts") or ()),
                            worker=str(found["spec"].get("_category") or ""),
                        )
                    )
        return jobs

    def check(self, flow: Flow, rules: Routing) -> None:
        """Refuse categories that no worker file beside the launchpad's takes."""
        folder = Path(self.target).parent
        categories = known_categories(folder)
        if categories is not None:
            check_workers(flow, rules, sorted(categories), f"{folder} (fworker files)", field="category")

    def add(self, flow: Flow, rules: Routing) -> list[str]:
        """Route a flow, put it into the queue and return the numbers of its jobs."""
        from jobflow.managers.fireworks import flow_to_workflow

        # FireWorks itself never looks for a job by its uuid
        self.launchpad.fireworks.create_index(_UUID)
        routed, store = route(flow, rules, "fireworks"), None if self.own_store else self.store
        workflow = flow_to_workflow(routed, store=store, allow_external_references=True)
        return [str(number) for number in sorted(self.launchpad.add_wf(workflow).values())]

    def errors(self, jobs: Sequence[QueuedJob]) -> dict[str, str]:
        """Return why jobs failed, by their numbers."""
        numbers = {"fw_id": {"$in": [int(job.id) for job in jobs]}}
        stack = "action.stored_data._exception._stacktrace"
        found = self.launchpad.launches.find(numbers, {"fw_id": 1, "launch_id": 1, stack: 1}).sort("launch_id", 1)
        said = {str(launch["fw_id"]): last_line(_at(launch, stack.split("."))) for launch in found}
        return said | {job.id: self.lost[int(job.id)] for job in jobs if int(job.id) in self.lost}

    def schedulers(self, jobs: Sequence[QueuedJob]) -> tuple[dict[str, str], list[str]]:
        """Return what SLURM on this machine says about the processes of jobs; qlaunch runs where it is."""
        return self._squeue if any(job.process for job in jobs) else ({}, [])

    @cached_property
    def _squeue(self) -> tuple[dict[str, str], list[str]]:
        def run(command: str) -> tuple[str, str, int]:
            done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
            return done.stdout, done.stderr, done.returncode

        return asked(run, "this machine")

    def idle(self) -> str:
        """Return '': FireWorks keeps no list of its workers."""
        return ""

    def mend(self, uuids: Sequence[str]) -> None:
        """Take jobs out that no workflow knows: FireWorks writes those first."""
        numbers = [int(job.id) for job in self.jobs(uuids)]
        known = self.launchpad.workflows.find({"nodes": {"$in": numbers}}, {"nodes": 1})
        lost = set(numbers).difference(*(workflow["nodes"] for workflow in known))
        self.launchpad.fireworks.delete_many({"fw_id": {"$in": sorted(lost)}})


def open_fireworks(launchpad: Path | None, store: JobStore | None = None) -> FireWorksQueue:
    """Return a launchpad, FireWorks' own default when None, with its job store, checked."""
    path = launchpad_file(launchpad)
    opened = open_launchpad(path)
    results, source = configured_store() if store is None else (store, "the job store")
    check_job_store(results, source)
    results.connect()
    return FireWorksQueue(opened, str(path), results, own_store=store is None)


def _is_own(launch: dict[str, Any]) -> bool:
    """Tell whether a job was reserved on this machine, by this user: only of those SLURM here knows all."""
    from fireworks.utilities.fw_utilities import get_my_host

    folder = Path(str(launch.get("launch_dir") or ""))
    return launch.get("host") == get_my_host() and folder.is_dir() and folder.stat().st_uid == os.getuid()


def _at(document: Any, path: Sequence[str]) -> str:
    for key in path:
        document = document.get(key) if isinstance(document, dict) else None
    return str(document or "")


def refuse_offline(folder: Path, launchpad: Any) -> None:
    """Refuse workers that run offline: FireWorks cannot read back what they did, their results would be lost."""
    files = sorted(folder.glob("*qadapter*.yaml"))
    offline = [path for path in files if re.search(r"\s--offline\b", path.read_text(encoding="utf-8"))]
    if offline:
        raise ConfigurationError(
            f"{offline[0]}: rlaunch --offline cannot be used: FireWorks does not read its results back with the "
            "libraries of today.",
            "Let the compute nodes reach the database, or use jobflow-remote, whose runner carries results.",
        )
    if open_runs := launchpad.offline_runs.count_documents({"completed": False, "deprecated": False}):
        raise ConfigurationError(
            f"{open_runs} jobs of this launchpad were started offline: their results cannot be read back.",
            "Rerun them on workers that reach the database (lpad rerun_fws), then: lpad forget_offline.",
        )


def submit_fireworks(
    flows: Flow | Iterable[Flow],
    rules: Routing,
    launchpad: Path | None = None,
    *,
    store: JobStore | None = None,
    dry_run: bool = False,
    show: Callable[[int, str], None] = lambda *_: None,
) -> Submission:
    """Submit what is new in flows, not yet routed, to FireWorks; see `submit_flows`.

    Results go to ``store``, where it is None to that of ``jobflow.yaml``, each worker's own. A dry run only checks.
    """
    queue = open_fireworks(launchpad, store)
    folder = Path(queue.target).parent
    refuse_offline(folder, queue.launchpad)
    warnings = artefact_warnings()
    if known_categories(folder) is None:
        names = ", ".join(sorted({target.category or target.worker for target in rules.targets}))
        warnings.append(
            f"No fworker*.yaml beside {queue.target}: whether a worker takes each category ({names}) is not checked."
        )
    return submit_flows(flows, queue, rules, warnings, dry_run=dry_run, show=show)


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
    """Start failed and lost jobs of a launchpad again, and whatever was done or failed without them."""
    queue = open_fireworks(launchpad, store)
    opened = queue.launchpad
    if queue.lost:
        # of workers that were killed between two writes: what they did write counts
        opened.detect_lostruns(query={"fw_id": {"$in": sorted(queue.lost)}}, refresh=True)
        queue = dataclasses.replace(queue)
    jobs = with_references(with_losses(queue.all_jobs(), queue.store), lambda ids: _texts(opened, ids))
    plan = plan_retry(jobs, names, materials)
    # before anything can start: nobody is to find what is not valid any more
    remove_results(queue.store, plan)
    _take_out(opened, [int(job.id) for job in [*plan.removed, *plan.elsewhere]])
    for job in plan.first:
        opened.rerun_fw(int(job.id), rerun_duplicates=False)
    # launches that nobody will end any more
    left = {"fw_id": {"$in": [int(job.id) for job in plan.first]}, "state": {"$in": ["RUNNING", "RESERVED"]}}
    opened.launches.update_many(left, {"$set": {"state": "FIZZLED"}})
    return plan.answer("fireworks", queue.target)


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
