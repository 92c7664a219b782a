"""What the workers of a cluster see: one small job to each of them."""

from __future__ import annotations

import os
import platform
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobflow import Flow, job

from phonosmith.cli.campaign.submit import submit_flows
from phonosmith.cli.setup.checks import WORKER_CHECKS, Finding, check_potcars, check_vasp_command, run_check
from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.errors import PhonosmithError
from phonosmith.core.identity import fix_identities
from phonosmith.core.progress import progress_bar
from phonosmith.flows.routing import EngineName, Routing, Rule

if TYPE_CHECKING:
    from phonosmith.engines.queues.jobs import Queue


@dataclass(frozen=True)
class Probe:
    """What became of the question to one worker; findings are empty where it did not answer."""

    worker: str
    host: str
    findings: list[Finding]
    problem: str = ""


@job
def look_around(artefact: str, *, dft: bool) -> dict[str, Any]:
    """Say what this worker sees.

    ``artefact``: sha256 of one that the submitting machine has written; ``dft``: the reference program runs here.
    """
    checks = (*WORKER_CHECKS, check_vasp_command, check_potcars) if dft else WORKER_CHECKS
    findings = [finding for check in checks for finding in run_check(check)]
    name = "artefacts of the submission"
    try:
        default_artefacts().get_bytes(artefact)
    except PhonosmithError as error:
        advice = "Give both the same PHONOSMITH_ARTEFACTS, a folder both see (or PHONOSMITH_ARTEFACTS_STORE)."
        findings.append(Finding(name, "error", f"are not seen here: {error.message}", advice, essential=True))
    else:
        findings.append(Finding(name, "ok", "are seen here", essential=True))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    findings.append(Finding("CUDA_VISIBLE_DEVICES", "ok", "not set" if visible is None else visible or "none"))
    return {"host": platform.node(), "findings": [asdict(finding) for finding in findings]}


def probe_workers(
    engine: EngineName, rules: Routing, *, project: str | None, launchpad: Path | None, seconds: float
) -> list[Probe]:
    """Send one small job to every worker and wait until all have answered, failed, or the time is up."""
    mark = default_artefacts().put_bytes(uuid.uuid4().bytes, "probe").sha256
    workers = {target.worker: target for target in rules.targets}
    jobs, to_each = [], []
    for worker, target in workers.items():
        asked = look_around(mark, dft=worker == rules.dft.worker)
        asked.name = f"probe {worker}"
        jobs.append(asked)
        to_each.append(Rule(names=asked.name, **target.model_dump(exclude={"names"})))
    flow = fix_identities(Flow(jobs, name="phonosmith doctor"))
    named = {member.uuid: member.name.removeprefix("probe ") for member, _ in flow.iterflow()}
    probing = rules.model_copy(update={"rules": (*to_each, *rules.rules)})
    submit_flows(flow, engine, probing, project=project, launchpad=launchpad)
    end, answers, lost = time.monotonic() + seconds, dict[str, dict[str, Any]](), set[str]()
    with _queue(engine, project, launchpad) as queue, progress_bar("workers", len(named)) as show:
        while len(answers) + len(lost) < len(named) and time.monotonic() < end:
            time.sleep(1)
            waiting = [uuid for uuid in named if uuid not in answers]
            for found in queue.store.query({"uuid": {"$in": waiting}}, properties=["uuid", "output"], load=True):
                answers[found["uuid"]] = found["output"]
            lost = {job.uuid for job in queue.jobs(waiting) if job.failed and job.uuid not in answers}
            show(len(answers) + len(lost), len(named), ", ".join(named[uuid] for uuid in waiting))
    probes = []
    for uuid_, worker in named.items():
        if uuid_ in answers:
            said = answers[uuid_]
            probes.append(Probe(worker, said["host"], [Finding(**one) for one in said["findings"]]))
        else:
            problem = "the job failed" if uuid_ in lost else f"no answer within {seconds:.0f} s"
            probes.append(Probe(worker, "", [], problem))
    return probes


@contextmanager
def _queue(engine: EngineName, project: str | None, launchpad: Path | None) -> Iterator[Queue]:
    if engine == "jobflow-remote":
        from phonosmith.engines.queues.remote import opened_remote

        with opened_remote(project) as queue:
            yield queue
    else:
        from phonosmith.engines.queues.fireworks import open_fireworks

        yield open_fireworks(launchpad)
