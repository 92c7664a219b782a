"""What the calculations of a reference program took, from what its task documents recorded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from jobflow import CURRENT_JOB, Job, JobConfig, job

from phonosmith.analysis.documents import Cost

_NUMBER = re.compile(r" \d+/\d+$")


def grouped_costs(stage: str, documents: Iterable[Mapping[str, Any]]) -> list[Cost]:
    """Sum the run statistics of equal calculations (``displace si reference 1/3``, ``2/3``, ...).

    Parameters
    ----------
    stage
        What the calculations were for.
    documents
        Job-store documents; those without run statistics are no calculations of the program.
    """
    found: dict[str, Cost] = {}
    for document in documents:
        output = document.get("output")
        overall = ((output if isinstance(output, Mapping) else {}).get("run_stats") or {}).get("overall")
        if not overall:
            continue
        name = _NUMBER.sub("", document["name"])
        before = found.get(name)
        found[name] = Cost(
            stage=stage,
            name=name,
            wall_seconds=overall["elapsed_time"] + (before.wall_seconds if before else 0.0),
            cores=max(int(overall.get("cores") or 1), before.cores if before else 1),
            n_atoms=output.get("nsites") if output else None,
            n_calculations=1 + (before.n_calculations if before else 0),
        )
    return list(found.values())


@job(config=JobConfig(expose_store=True))
def collect_program_costs(stage: str, uuid: str, result: Any) -> list[Cost]:  # noqa: ARG001
    """Return the costs of all calculations in the flow that a job belongs to.

    Parameters
    ----------
    stage
        What they were for.
    uuid
        Any job of the flow.
    result
        Output of its last job, so that this one runs after it.
    """
    store = CURRENT_JOB.store
    own = None if store is None else store.query_one({"uuid": uuid}, properties=["hosts"])
    if store is None or own is None or not own.get("hosts"):
        return []
    wanted = ["name", "output.run_stats", "output.nsites"]
    return grouped_costs(stage, store.query({"hosts": own["hosts"][0]}, properties=wanted, load=False))


def program_cost_job(stage: str, key: str, flow: Any) -> Job:
    """Return the job that collects what a flow of program calculations took."""
    made = collect_program_costs(stage, flow.output.uuid, flow.output)
    made.name = f"cost {key} {stage} reference"
    return made
