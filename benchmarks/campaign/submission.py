"""Make and submit the published study to a queue that runs nothing, and measure what a job costs on the way.

    python benchmarks/campaign/submission.py [--materials 53] [--queue none|jobflow-remote|fireworks] [--out FILE]

53 materials × 5 strategies × 7 training-set sizes × 3 cells with VASP, every property of the study: 31,747 jobs before
any label. ``none`` constructs and prepares them (identities, what is finished already, routing) without a database;
with an engine they go into its queue on the test server (mongomock behind MongoDB's wire protocol: its own time is not
that of a MongoDB). Times are processor seconds of this process; the server is another process.
Commands sent to it are counted.
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
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[2]
STRATEGIES = ("scratch", "transfer", "freeze1", "delta", "lora")
SIZES = (2, 4, 6, 8, 10, 12, 16)
CELLS = ("primitive", "small", "large")
EVALUATE = ("phonons", "elastic", "eos", "transitions")


def study(n_materials: int) -> Any:
    """Return the flows of the study, one material after the other."""
    from pymatgen.io.ase import AseAtomsAdaptor

    from phonosmith.flows.campaign import CampaignMaker
    from phonosmith.flows.material import FineTuneMaterialMaker
    from phonosmith.potentials.embedded import demo_structure
    from phonosmith.potentials.registry import resolve
    from phonosmith.reference.engines import make_engine

    crystals = {}
    for number in range(n_materials):
        atoms = demo_structure(("Si", "Ge", "C", "SiC")[number % 4])
        atoms.set_cell(atoms.cell.array * (1 + 0.0005 * number), scale_atoms=True)
        crystals[f"m{number}"] = AseAtomsAdaptor.get_structure(atoms)
    maker = FineTuneMaterialMaker(
        engine=make_engine("vasp"), strategies=STRATEGIES, n_train=SIZES, mode="comparison", evaluate=EVALUATE
    )
    return CampaignMaker(name="study", maker=maker, cells=CELLS).flows(crystals, [resolve("embedded")])


class _EmptyStore:
    """A job store without results."""

    def query(self, *_: object, **__: object) -> list[Any]:
        return []


def prepare(n_materials: int) -> dict[str, Any]:
    """Construct and prepare the jobs as a submission does, without a queue."""
    from phonosmith.engines.queues.submission import select
    from phonosmith.flows.routing import Routing, route

    spent: Counter[str] = Counter()
    counted: Counter[str] = Counter()
    n_jobs, start = 0, time.process_time()

    def lap(what: str) -> None:
        nonlocal start
        now = time.process_time()
        spent[what] += now - start
        start = now

    flows = study(n_materials)
    lap("check")
    for flow in flows:
        lap("construct")
        chosen = select(flow, _EmptyStore(), lambda _: [], counted)
        lap("identities and selection")
        n_jobs += len(chosen.new)
        route(chosen.flow(flow.name), Routing(), "jobflow-remote")
        lap("routing")
    return {"jobs": n_jobs, "seconds": dict(spent), "total_seconds": sum(spent.values())}


def submit(n_materials: int, engine: str, folder: Path) -> dict[str, Any]:
    """Put the jobs into a queue; per material: processor seconds and commands to the server."""
    import pymongo.monitoring

    commands: Counter[str] = Counter()
    largest = 0

    class Listener(pymongo.monitoring.CommandListener):
        def started(self, event: Any) -> None:
            nonlocal largest
            commands[event.command_name] += 1
            if event.command_name in ("insert", "update"):
                import bson

                inserted = event.command.get("documents") or []
                largest = max([largest, *(len(bson.encode(document)) for document in inserted)])

        def succeeded(self, _event: Any) -> None: ...

        def failed(self, _event: Any) -> None: ...

    pymongo.monitoring.register(Listener())
    sys.path.insert(0, str(ROOT / "tests"))
    # the server is a process of its own
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
    from helpers.mongo_server import running_server
    from phonosmith.flows.routing import read_routing

    rules = read_routing(None)
    laps: list[dict[str, float]] = []
    with running_server() as address:
        run = _fireworks if engine == "fireworks" else _remote
        before = time.process_time(), time.perf_counter(), sum(commands.values())

        def show(number: int, _words: str) -> None:
            nonlocal before
            if number > len(laps):
                now = time.process_time(), time.perf_counter(), sum(commands.values())
                laps.append({"cpu_s": now[0] - before[0], "wall_s": now[1] - before[1], "commands": now[2] - before[2]})
                before = now

        done = run(address, folder, study(n_materials), rules, show)
        again_start = time.process_time()
        again = run(address, folder, study(min(n_materials, 3)), rules, lambda *_: None)
        again_s = time.process_time() - again_start
    return {
        "jobs": done.n_new,
        "per_material": laps,
        "commands": dict(commands),
        "largest_document_bytes": largest,
        "again": {"materials": min(n_materials, 3), "n_new": again.n_new, "n_queued": again.n_queued, "cpu_s": again_s},
    }


def _place(address: str) -> dict[str, Any]:
    host, _, port = address.removeprefix("mongodb://").rstrip("/").partition(":")
    return {"host": host, "port": int(port)}


def _read(engine: str, folder: Path, name: str) -> Any:
    """Return a file that ``phonosmith init-cluster`` writes."""
    import yaml

    from phonosmith.engines.queues.configuration import Cluster, cluster_files

    return yaml.safe_load(cluster_files(Cluster(engine=engine), folder)[name])


def _remote(address: str, folder: Path, flows: Any, rules: Any, show: Any) -> Any:
    import yaml
    from jobflow_remote import SETTINGS
    from jobflow_remote.config.manager import ConfigManager

    from phonosmith.engines.queues.remote import submit_remote

    project = _read("jobflow-remote", folder, "projects/phonosmith.yaml")
    for store in (
        project["queue"]["store"], project["jobstore"]["docs_store"], *project["jobstore"]["additional_stores"].values()
    ):  # fmt: skip
        store.update(_place(address))
    first = not (folder / "phonosmith.yaml").exists()
    (folder / "phonosmith.yaml").write_text(yaml.safe_dump(project))
    SETTINGS.projects_folder = str(folder)
    if first:
        ConfigManager().get_project("phonosmith").get_job_controller().reset(reset_output=True)
    return submit_remote(flows, rules, "phonosmith", show=show)


def _fireworks(address: str, folder: Path, flows: Any, rules: Any, show: Any) -> Any:
    import yaml
    from fireworks import LaunchPad
    from jobflow import JobStore

    from phonosmith.engines.queues.fireworks import submit_fireworks

    path = folder / "my_launchpad.yaml"
    if not path.exists():
        path.write_text(yaml.safe_dump(_read("fireworks", folder, "my_launchpad.yaml") | _place(address)))
        LaunchPad.from_file(str(path)).reset("", require_password=False)
    section = _read("fireworks", folder, "jobflow.yaml")["JOB_STORE"]
    for store in (section["docs_store"], *section["additional_stores"].values()):
        store.update(_place(address))
    return submit_fireworks(flows, rules, path, store=JobStore.from_dict_spec(section), show=show)


def main() -> None:
    """Run and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--materials", type=int, default=53)
    parser.add_argument("--queue", choices=("none", "jobflow-remote", "fireworks"), default="none")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="submission-"))
    os.environ["PHONOSMITH_HOME"] = str(folder / "home")
    os.environ["PHONOSMITH_ARTEFACTS"] = str(folder / "artefacts")
    load = os.getloadavg()[0]
    next(iter(study(1)))  # imports are not what is measured
    found: dict[str, Any] = {"materials": arguments.materials, "queue": arguments.queue, "load_at_start": load}
    if arguments.queue == "none":
        found |= prepare(arguments.materials)
    else:
        found |= submit(arguments.materials, arguments.queue, folder)
    found["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found["machine"] = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
    text = json.dumps(found, indent=2) + "\n"
    if arguments.out is not None:
        arguments.out.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
