"""Run a whole campaign on tiny settings and measure what the bookkeeping costs.

    python benchmarks/campaign/run.py [--materials 20] [--workers 2] [--folder DIR] [--out results.json]

Materials × 4 strategies × 3 training-set sizes with the embedded foundation and reference: every job is the real one,
only small (primitive cells, one epoch, 4×4×4 meshes). The materials are the four embedded crystals at different volumes
(each is relaxed first, so this is about bookkeeping, not about physics). Afterwards the same campaign is asked for
again, then with a fifth strategy, and the store is queried.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

MATERIALS = ("Si", "Ge", "C", "SiC")
CAMPAIGN = """\
name: benchmark
materials: [{materials}]
foundations: [embedded]
strategies: [{strategies}]
n_train: [4, 8, 16]
cells: [primitive]
engine: {{name: forcefield, potential: embedded-reference}}
sampling: {{max_steps: 30}}
training: {{epochs: 1}}
evaluate: [phonons]
min_length: 6.0
mesh: 4
"""


def write_campaign(folder: Path, n_materials: int, strategies: str) -> Path:
    """Write structure files and the campaign file."""
    from phonosmith.potentials.embedded import demo_structure

    names = []
    for index in range(n_materials):
        symbol = MATERIALS[index % len(MATERIALS)]
        atoms = demo_structure(symbol)
        atoms.set_cell(atoms.cell.array * (1 + 0.004 * (index // len(MATERIALS) - 2)), scale_atoms=True)
        name = f"{symbol}-{index // len(MATERIALS)}"
        atoms.write(folder / f"{name}.vasp", format="vasp", direct=True)
        names.append(f"{name}.vasp")
    path = folder / "campaign.yaml"
    path.write_text(CAMPAIGN.format(materials=", ".join(names), strategies=strategies))
    return path


def run(path: Path, folder: Path, workers: int) -> dict:
    """Run the campaign file and return how it went."""
    from phonosmith.core.identity import fix_identities
    from phonosmith.engines.local.runner import LocalRunner, default_slots
    from phonosmith.engines.store.sqlite import open_embedded_jobstore
    from phonosmith.flows.campaign import read_campaign

    start = time.perf_counter()
    campaign = read_campaign(path)
    checked = time.perf_counter()
    flow = fix_identities(campaign.flow())
    made = time.perf_counter()
    store = open_embedded_jobstore(folder / "store.sqlite")
    store.connect()
    runner = LocalRunner(store, folder / "run", slots=default_slots(workers))
    summary = runner.run(flow)
    rows = runner.state.rows()
    inside = sum(row.seconds or 0.0 for row in rows)
    return {
        "jobs_run": summary.executed,
        "jobs_known": len(rows),
        "failed": [f"{row.name}: {row.error}" for row in summary.failed],
        "check_file_s": checked - start,
        "make_flow_s": made - checked,
        "run_s": summary.seconds,
        "inside_jobs_s": inside,
    }


def no_ops(folder: Path, count: int) -> dict:
    """Time jobs that do next to nothing: what the runner itself costs."""
    from jobflow import Flow

    from phonosmith.engines.local.runner import LocalRunner, default_slots
    from phonosmith.engines.store.sqlite import open_embedded_jobstore
    from phonosmith.flows.jobs import resolve_potential

    store = open_embedded_jobstore(folder / "noop.sqlite")
    store.connect()
    runner = LocalRunner(store, folder / "noop", slots=default_slots(1))
    summary = runner.run(Flow([resolve_potential("embedded") for _ in range(count + 1)]))
    # the first job waits for its worker to import everything
    start_up = max(row.seconds for row in runner.state.rows())
    return {"jobs": count, "seconds_per_job": (summary.seconds - start_up) / count, "worker_start_s": start_up}


def store_facts(folder: Path) -> dict:
    """Count and weigh the documents, and time queries over them."""
    from phonosmith.analysis.queries import read_results
    from phonosmith.engines.store.sqlite import open_embedded_jobstore

    store = open_embedded_jobstore(folder / "store.sqlite")
    store.connect()
    sizes: dict[str, int] = {}
    count = 0
    for document in store.docs_store.query({}):
        count += 1
        stage = document["name"].split()[0]
        sizes[stage] = max(sizes.get(stage, 0), len(json.dumps(document, default=str)))
    read_results(store)  # imports pandas
    start = time.perf_counter()
    results = read_results(store)
    return {
        "documents": count,
        "largest_document_bytes": max(sizes.values()),
        "largest_by_stage_bytes": dict(sorted(sizes.items(), key=lambda item: -item[1])),
        "store_bytes": sum(path.stat().st_size for path in folder.glob("store.sqlite*")),
        "artefacts_bytes": sum(path.stat().st_size for path in (folder / "artefacts").rglob("*") if path.is_file()),
        "job_folders_bytes": sum(path.stat().st_size for path in (folder / "run").rglob("*") if path.is_file()),
        "query_s": time.perf_counter() - start,
        "query_rows": len(results.potentials),
    }


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--materials", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-ops", type=int, default=200)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results.json")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="campaign-"))
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["PHONOSMITH_HOME"] = str(folder)
    four = "scratch, transfer, freeze1, delta"
    path = write_campaign(folder, arguments.materials, four)
    found = {"materials": arguments.materials, "workers": arguments.workers, "load_at_start": os.getloadavg()[0]}
    found["first"] = run(path, folder, arguments.workers)
    found["again"] = run(path, folder, arguments.workers)
    found["store"] = store_facts(folder)
    path = write_campaign(folder, arguments.materials, f"{four}, lora")
    found["fifth_strategy"] = run(path, folder, arguments.workers)
    found["no_ops"] = no_ops(folder, arguments.no_ops)
    found["memory_mb"] = {
        "runner": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "largest_worker": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }
    found["load_at_end"] = os.getloadavg()[0]
    found["machine"] = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
    arguments.out.write_text(json.dumps(found, indent=2) + "\n")
    json.dump(found, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
