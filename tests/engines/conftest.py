"""A database, and the files that init-cluster writes for it."""

import dataclasses
import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

_MONGO = os.environ.get("PHONOSMITH_TEST_MONGO_URI", "")

JOBS = """
import os
from jobflow import Flow, JobConfig, OnMissing, Response, job

@job
def where(fail=False):
    if fail:
        raise ValueError("not this one")
    return os.environ.get("PS_WORKER", "")

@job(config=JobConfig(on_missing_references=OnMissing.NONE))
def collect(values):
    return values

def named(member, name):
    member.name = name
    return member

@job
def fan_out(material):
    labels = [named(where(fail=index == 1), f"label {material} 0{index}") for index in range(2)]
    inner = named(hand_on(material), f"audit {material}")
    last = named(collect([label.output for label in labels] + [inner.output]), f"label {material} collect")
    return Response(replace=Flow([*labels, inner, last], output=last.output))

@job
def hand_on(material):
    return Response(replace=named(where(), f"train {material} delta"))
"""


@pytest.fixture(scope="session")
def mongo():
    """Address of a MongoDB: the real one a workflow provides, else the wire-protocol test server."""
    if _MONGO:
        yield _MONGO
        return
    from helpers.mongo_server import running_server

    with running_server() as address:
        yield address


@dataclass
class Cluster:
    """The files of init-cluster, changed where a test needs it, and the environment that names them."""

    folder: Path
    address: str
    database: str
    environment: dict = field(default_factory=dict)

    @property
    def place(self):
        host, _, port = self.address.removeprefix("mongodb://").rstrip("/").partition(":")
        return {"host": host, "port": int(port or 27017)}

    def delivered(self, engine, folder, **answers):
        """Return what init-cluster writes into a folder."""
        from phonosmith.engines.queues.configuration import Cluster as Answers
        from phonosmith.engines.queues.configuration import cluster_files

        place = "{host}:{port}".format(**self.place)
        common = {"engine": engine, "name": "phonosmith", "mongo": place, "scratch": str(self.folder / "work")}
        files = cluster_files(Answers(**common, **answers), folder)
        return {name: yaml.safe_load(text) if name.endswith(".yaml") else text for name, text in files.items()}

    def write(self, name, content):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
        return path

    def stores(self, section, database=None):
        """Point the stores of a job store section at the database."""
        for kept in [section["docs_store"], *section["additional_stores"].values()]:
            kept["database"] = database or self.database
        return section

    def jobflow_yaml(self, change=lambda _: None):
        content = self.delivered("fireworks", self.folder)["jobflow.yaml"]
        self.stores(content["JOB_STORE"])
        change(content)
        path = self.write("jobflow.yaml", content)
        self.environment["JOBFLOW_CONFIG_FILE"] = str(path)
        return path

    def job_store(self):
        from jobflow import JobStore

        store = JobStore.from_dict_spec(yaml.safe_load((self.folder / "jobflow.yaml").read_text())["JOB_STORE"])
        store.connect()
        return store

    def fireworks(self, scheduler=None):
        """Write launchpad, workers and queue adapters; return the launchpad file."""
        files = self.delivered("fireworks", self.folder / "fireworks")
        pad = files["my_launchpad.yaml"] | {"name": f"{self.database}_fw"}
        path = self.write("fireworks/my_launchpad.yaml", pad)
        for kind in ("dft", "gpu", "inference"):
            worker = self.write(f"fireworks/fworker_{kind}.yaml", files[f"fworker_{kind}.yaml"])
            adapter = files[f"qadapter_{kind}.yaml"]
            assert adapter["pre_rocket"].count("export") >= 3
            adapter["rocket_launch"] = f"{self.program('rlaunch')} -l {path} -w {worker} singleshot"
            exports = self.environment | {"PS_WORKER": kind}
            adapter["pre_rocket"] = "\n".join(f'export {key}="{value}"' for key, value in exports.items())
            self.write(f"fireworks/qadapter_{kind}.yaml", adapter | (scheduler or {}))
        return path

    def project(self, scheduler="shell", resources=None, change=lambda _: None):
        """Write jobflow-remote's project; return its name."""
        content = self.delivered("jobflow-remote", self.folder)["projects/phonosmith.yaml"]
        delays = ("checkout", "check_run_status", "advance_status", "update_batch")
        content["runner"] |= {f"delay_{what}": 1 for what in delays}
        content["runner"] |= {"delay_refresh_limited": 5, "max_step_attempts": 1}
        for kind, worker in content["workers"].items():
            worker["scheduler_type"] = scheduler
            worker["resources"] = dict((resources or {}).get(kind, {}))
            worker["max_jobs"] = 2
            exports = self.environment | {"PS_WORKER": kind}
            worker["pre_run"] = "\n".join(f'export {key}="{value}"' for key, value in exports.items())
            worker["execution_cmd"] = f"{self.program('jf')} -fe execution run {{}}"
        content["exec_config"] = {name: {"export": {"PS_EXEC": "set"}} for name in ("vasp", "torch")}
        content["queue"]["store"]["database"] = f"{self.database}_jf"
        self.stores(content["jobstore"])
        change(content)
        self.write("jfremote/phonosmith.yaml", content)
        self.environment["JFREMOTE_PROJECTS_FOLDER"] = str(self.folder / "jfremote")
        return "phonosmith"

    def program(self, name):
        return str(Path(sys.executable).parent / name)

    def routing(self):
        from phonosmith.flows.routing import read_routing

        names = {"dft": ("dft", "vasp"), "training": ("gpu", "torch"), "inference": ("inference", "torch")}
        return read_routing(
            {kind: {"worker": worker, "exec_config": program} for kind, (worker, program) in names.items()}
        )


@pytest.fixture
def cluster(mongo, tmp_path, monkeypatch):
    """Return a cluster with a database of its own; jobs find the module ``routed_jobs`` and this test's settings."""
    (tmp_path / "routed_jobs.py").write_text(JOBS)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    kept = {name: value for name, value in os.environ.items() if name.startswith("PHONOSMITH_")}
    made = Cluster(tmp_path, mongo, f"ps_{uuid.uuid4().hex[:10]}", {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"})
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("routed_jobs", None)
    yield made
    sys.modules.pop("routed_jobs", None)
    import pymongo

    with pymongo.MongoClient(mongo, serverSelectionTimeoutMS=5000) as client:
        for suffix in ("", "_fw", "_jf"):
            client.drop_database(made.database + suffix)


# ---- one flow, several engines

TRANSIENT = {"manifest", "costs", "training_seconds", "label_seconds", "label_cores", "wall_seconds", "seconds"}
"""Fields of a report that tell how long something took and where."""
SAME = 1e-5
"""Numbers may differ by so much, relative or in their units: what the order of sums in linear algebra does, less than
any number is printed with. Frequencies are square roots, so that acoustic ones at Γ keep half of the digits."""


def rehearsal_flow(**changes):
    """Return a material from crystal to verdicts, every VASP calculation played by the stand-in; small."""
    from pymatgen.io.ase import AseAtomsAdaptor

    from phonosmith.core.identity import fix_identities
    from phonosmith.flows.material import FineTuneMaterialMaker
    from phonosmith.potentials.embedded import demo_structure
    from phonosmith.potentials.registry import resolve
    from phonosmith.reference.engines import make_engine

    maker = FineTuneMaterialMaker(
        engine=make_engine("vasp", rehearsal=True, potential="embedded-reference"),
        strategies=("transfer",),
        sampling={"cell": "primitive", "max_steps": 20, "n_select": 1, "volume_factors": [0.98, 1.0, 1.02]},
        training={"epochs": 6, "batch_size": 1},
        min_length=6.0,
        mesh=6,
        evaluate=("phonons",),
    )
    structure = AseAtomsAdaptor.get_structure(demo_structure("Si"))
    return fix_identities(dataclasses.replace(maker, **changes).make(structure, resolve("embedded")))


def metrics(value):
    """Return a report without what differs from run to run by nature: every number and every digest stays."""
    if isinstance(value, dict):
        return {
            key: metrics(item) for key, item in value.items() if key not in TRANSIENT and not str(key).startswith("@")
        }
    if isinstance(value, list):
        return [metrics(item) for item in value]
    return value


def read_report(store):
    """Return the report in a store, after checking that every stage says what it took."""
    (found,) = store.query({"name": "report si"}, properties=["uuid", "output"], load=True)
    costs = {cost["stage"]: cost for cost in found["output"]["costs"]}
    assert {"sample", "label", "train", "phonon"} <= set(costs)
    for cost in costs.values():
        assert cost["wall_seconds"] > 0
        assert cost["cores"] >= 1
    return found["output"]


@dataclass(frozen=True)
class OneFlow:
    """A flow kept as a file, and the report the local runner makes of it."""

    file: Path
    expected: dict

    def load(self):
        """Return the same flow object again: same jobs, same uuids."""
        from phonosmith.potentials.registry import resolve

        # each engine begins with an artefact store of its own that holds no more than the potentials of the flow
        resolve("embedded")
        resolve("embedded-reference")
        return load_flow(self.file)

    def changed(self, **changes):
        """Return the flow of the same material with other settings."""
        return rehearsal_flow(**changes)

    def differences(self, store):
        """Return where the report in a store differs from the local runner's."""
        found = json.loads(json.dumps(metrics(read_report(store)), default=str))
        return list(differences(self.expected, found))

    def unsealed(self, store):
        """Return the names of documents that have no seal or are not what it says, with the fields."""
        from phonosmith.core.sealing import altered_fields

        found = {one["name"]: altered_fields(one) for one in store.query({"output": {"$ne": None}}, load=True)}
        return {name: fields for name, fields in found.items() if fields != []}


def differences(left, right, place=""):
    """Yield places and values where two reports differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted(left.keys() | right.keys()):
            # the digest of a trained model shows the last bit of every weight
            if not (key == "sha256" and ".strategies" in place):
                yield from differences(left.get(key), right.get(key), f"{place}.{key}")
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for number, (one, other) in enumerate(zip(left, right, strict=True)):
            yield from differences(one, other, f"{place}[{number}]")
    elif isinstance(left, float | int) and isinstance(right, float | int):
        if left != pytest.approx(right, rel=SAME, abs=SAME):
            yield place, left, right
    elif left != right:
        yield place, left, right


@pytest.fixture(scope="session")
def one_flow(tmp_path_factory):
    """Return the flow and what the local runner makes of it; computed once for all test processes."""
    from filelock import FileLock
    from monty.json import MontyEncoder

    from phonosmith.settings import get_settings

    root = tmp_path_factory.getbasetemp()
    root = (root.parent if os.environ.get("PYTEST_XDIST_WORKER") else root) / "one_flow"
    root.mkdir(exist_ok=True)
    flow_file, answer_file = root / "flow.json", root / "answer.json"
    with FileLock(f"{root}.lock"):
        if not answer_file.is_file():
            patch = pytest.MonkeyPatch()
            patch.setenv("PHONOSMITH_HOME", str(root / "home"))
            get_settings.cache_clear()
            try:
                flow_file.write_text(json.dumps(rehearsal_flow(), cls=MontyEncoder))
                answer_file.write_text(json.dumps(_local_answer(flow_file, root), default=str))
            finally:
                patch.undo()
                get_settings.cache_clear()
    return OneFlow(flow_file, json.loads(answer_file.read_text()))


def _local_answer(flow_file, folder):
    from phonosmith.engines.local.runner import LocalRunner, Slot
    from phonosmith.engines.store.sqlite import open_embedded_jobstore

    store = open_embedded_jobstore(folder / "store.sqlite")
    runner = LocalRunner(store, folder / "run", slots=[Slot("cpu"), Slot("cpu")], progress=False)
    summary = runner.run(load_flow(flow_file))
    assert summary.ok, summary
    report = read_report(store)
    # the training has changed the model, otherwise the comparison would say little
    assert report["strategies"][0]["n_changed"] > 0
    return metrics(report)


def load_flow(path):
    """Return the same flow object again: same jobs, same uuids."""
    from monty.json import MontyDecoder

    return MontyDecoder().decode(path.read_text())


# ---- jobflow-remote

_RUN = """
import sys
from jobflow_remote.jobs.runner import Runner
Runner(sys.argv[1]).run_all_jobs(max_seconds=float(sys.argv[2]))
"""


@dataclass
class Remote:
    """jobflow-remote pointed at a cluster's project."""

    cluster: Cluster
    patch: pytest.MonkeyPatch

    def open(self, **options):
        """Write the project, set its database up and return its controller."""
        from jobflow_remote import SETTINGS
        from jobflow_remote.config.manager import ConfigManager

        name = self.cluster.project(**options)
        self.patch.setattr(SETTINGS, "projects_folder", self.cluster.environment["JFREMOTE_PROJECTS_FOLDER"])
        self.patch.setattr(SETTINGS, "project", name)
        controller = ConfigManager().get_project(name).get_job_controller()
        controller.reset(reset_output=False)
        return controller

    def run(self, seconds=1200):
        """Let a runner in a process of its own work until nothing is left to do."""
        command = [sys.executable, "-c", _RUN, "phonosmith", str(seconds)]
        environment = os.environ | self.cluster.environment
        subprocess.run(command, env=environment, check=True, timeout=seconds + 60, capture_output=True)


@pytest.fixture
def remote(cluster, monkeypatch):
    """Return jobflow-remote; call its ``open`` first."""
    return Remote(cluster, monkeypatch)
