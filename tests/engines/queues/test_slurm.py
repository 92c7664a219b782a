"""The same flow through a real SLURM: jobflow-remote, and FireWorks' qlaunch. Skipped where there is no SLURM."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from jobflow import Flow

from phonosmith.engines.queues.fireworks import submit_fireworks
from phonosmith.engines.queues.remote import submit_remote
from phonosmith.training.documents import PackReport
from phonosmith.training.jobs import FineTuneMaker, PackMaker

ROOT = Path(__file__).resolve().parents[3]
NODE = ROOT / "tools" / "slurm_node.sh"
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
ONE_CORE = {"ntasks": 1, "cpus_per_task": 1, "gres": None}


def answering():
    """Say whether the SLURM that is configured has the partitions of the test."""
    if shutil.which("sinfo", path=PATH) is None:
        return False
    found = subprocess.run(["sinfo", "-h", "-o", "%R"], capture_output=True, text=True, timeout=30)
    return found.returncode == 0 and {"cpu", "gpu"} <= set(found.stdout.split())


@pytest.fixture
def slurm(monkeypatch):
    """Use the SLURM there is, or start one on this machine; one test at a time, its ports are fixed."""
    if answering():
        yield
        return
    missing = [name for name in ("slurmctld", "slurmd", "munged") if shutil.which(name, path=PATH) is None]
    if missing:
        pytest.skip(f"no SLURM here ({', '.join(missing)} missing): tools/install_slurm.sh installs it")
    if os.geteuid() != 0:
        pytest.skip("a SLURM of our own can only be started by root")
    from filelock import FileLock

    with FileLock(Path(tempfile.gettempdir()) / "phonosmith-slurm.lock"):
        # slurmd puts sockets there, and a socket's path has at most 107 characters: pytest's own folder may be too deep
        folder = Path(tempfile.mkdtemp(prefix="slurm"))
        started = subprocess.run([str(NODE), "start", str(folder)], capture_output=True, text=True, timeout=120)
        if started.returncode != 0:
            pytest.skip(f"SLURM did not start here: {started.stderr[-500:]}")
        monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        try:
            yield
        finally:
            subprocess.run([str(NODE), "stop", str(folder)], check=False, timeout=60)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a queue's pace, not the test's, when the machine is busy
def test_jobflow_remote_on_slurm_gets_what_the_local_runner_gets(slurm, cluster, remote, one_flow):
    asked = {"ntasks": 1, "time": "00:20:00"}
    partitions = {"dft": "cpu", "gpu": "gpu", "inference": "cpu"}
    controller = remote.open(
        scheduler="slurm", resources={kind: asked | {"partition": name} for kind, name in partitions.items()}
    )
    done = submit_remote(one_flow.load(), cluster.routing(), "phonosmith")
    assert done.submitted
    remote.run()
    states = {item["job"]["name"]: item["state"] for item in controller.get_jobs({})}
    assert set(states.values()) == {"COMPLETED"}, states
    scripts = list((cluster.folder / "work" / "gpu").rglob("submit.sh"))
    assert scripts
    assert all("--partition=gpu" in script.read_text() for script in scripts)
    store = controller.project.get_jobstore()
    store.connect()
    assert one_flow.differences(store) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a queue's pace, not the test's, when the machine is busy
def test_qlaunch_on_slurm_gets_what_the_local_runner_gets(slurm, cluster, one_flow, monkeypatch):
    from fireworks import LaunchPad

    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(cluster.jobflow_yaml()))
    path = cluster.fireworks(ONE_CORE)
    launchpad = LaunchPad.from_file(str(path))
    launchpad.reset("", require_password=False)
    assert submit_fireworks(one_flow.load(), cluster.routing(), path).submitted
    launch = path.parent / "launch.sh"
    launch.write_text(cluster.delivered("fireworks", path.parent)["launch.sh"])
    launch.chmod(0o700)
    folder = cluster.folder / "launch"
    monkeypatch.setenv("LAUNCH_DIR", str(folder))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{PATH}")
    monkeypatch.setenv("SLEEP", "2")
    started = subprocess.run(
        [str(path.parent / "launch.sh")], cwd=cluster.folder, check=True, capture_output=True, text=True, timeout=60
    )
    processes = [int(line.split("process ")[1].split(",")[0]) for line in started.stdout.splitlines()]
    assert len(processes) == 3
    end = time.monotonic() + 1500
    try:
        while set(launchpad.fireworks.distinct("state")) != {"COMPLETED"}:
            assert time.monotonic() < end, launchpad.fireworks.distinct("state")
            assert not launchpad.fireworks.count_documents({"state": "FIZZLED"})
            time.sleep(2)
    finally:
        for process in processes:
            os.kill(process, signal.SIGTERM)
    queues = {script.read_text().split("--partition=")[1].split()[0] for script in folder.rglob("FW_submit.script")}
    assert queues == {"cpu", "gpu"}
    assert one_flow.differences(cluster.job_store()) == []


def four_labels():
    """Return four jobs of the DFT worker that need nothing of each other."""
    import routed_jobs as jobs

    return [jobs.named(jobs.where(), f"label si 0{number}") for number in range(4)]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a queue's pace, not the test's, when the machine is busy
def test_a_batch_of_jobflow_remote_runs_several_calculations_in_an_allocation(slurm, cluster, remote):
    # a batch script finds jf by the environment it activates
    cluster.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{PATH}"
    asked = {"ntasks": 1, "partition": "cpu", "time": "00:05:00"}

    def bundled(content):
        batch = cluster.delivered("jobflow-remote", cluster.folder, dft_bundle=2)
        bundle = batch["projects/phonosmith.yaml"]["workers"]["dft"]["batch"]
        content["workers"]["dft"] |= {"batch": bundle, "max_jobs": 1}

    controller = remote.open(scheduler="slurm", resources={"dft": asked}, change=bundled)
    labels = four_labels()
    submit_remote(Flow(labels, name="labels"), cluster.routing(), "phonosmith")
    remote.run()
    store = controller.project.get_jobstore()
    store.connect()
    answers = [store.get_output(label.uuid) for label in labels]
    assert answers == ["dft"] * 4
    scripts = list((cluster.folder / "work" / "dft_batch" / "work").rglob("submit.sh"))
    assert len(scripts) == 2
    assert all("--partition=cpu" in script.read_text() for script in scripts)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a queue's pace, not the test's, when the machine is busy
def test_an_array_of_fireworks_runs_several_calculations_in_each_element(slurm, cluster, monkeypatch):
    from fireworks import LaunchPad

    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(cluster.jobflow_yaml()))
    path = cluster.fireworks(ONE_CORE)
    launchpad = LaunchPad.from_file(str(path))
    launchpad.reset("", require_password=False)
    adapter = path.parent / "qadapter_dft.yaml"
    content = yaml.safe_load(adapter.read_text())
    bundle = cluster.delivered("fireworks", path.parent, dft_bundle=2)["qadapter_dft.yaml"]["rocket_launch"]
    content["rocket_launch"] = content["rocket_launch"].replace("singleshot", bundle[bundle.index("rapidfire") :])
    content["pre_rocket"] = f"#SBATCH --array=1-2\n{content['pre_rocket']}"
    adapter.write_text(yaml.safe_dump(content))
    submit_fireworks(Flow(four_labels(), name="labels"), cluster.routing(), path)
    command = [
        cluster.program("qlaunch"),
        "-l",
        path,
        "-w",
        path.parent / "fworker_dft.yaml",
        "-q",
        adapter,
        "singleshot",
    ]
    folder = cluster.folder / "launch"
    folder.mkdir()
    # qlaunch reads the jobs it submits for
    environment = os.environ | cluster.environment | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{PATH}"}
    subprocess.run(list(map(str, command)), cwd=folder, env=environment, check=True, timeout=120, capture_output=True)
    end = time.monotonic() + 1200
    while (states := set(launchpad.fireworks.distinct("state"))) != {"COMPLETED"}:
        assert "FIZZLED" not in states
        assert time.monotonic() < end, states
        time.sleep(1)
    # one script, two elements, two calculations in each, each in a folder of its own
    assert len(list(folder.rglob("FW_submit.script"))) == 1
    launches = [launch["launch_dir"] for launch in launchpad.launches.find({}, {"launch_dir": 1})]
    assert len(set(launches)) == 4


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a queue's pace, not the test's, when the machine is busy
def test_sixteen_trainings_fill_the_four_cards_of_a_node(slurm, cluster, remote):
    """One allocation of a whole node: a process for each card, four trainings in each, none on two."""
    if "gpu:4" not in subprocess.run(["sinfo", "-h", "-p", "gpu", "-o", "%G"], capture_output=True, text=True).stdout:
        pytest.skip("the SLURM here has no node of four GPUs")
    rates = [1e-3 * (1 + number) for number in range(16)]
    makers = [FineTuneMaker(strategy="delta", settings={"epochs": 1, "lr": rate}) for rate in rates]
    job = PackMaker(makers=makers).make(*data_of_silicon(), material="si")
    asked = {"ntasks": 1, "cpus_per_task": 1, "partition": "gpu", "time": "00:10:00"}
    controller = remote.open(scheduler="slurm", resources={"gpu": asked | {"gres": "gpu:9"}})
    assert submit_remote(Flow([job], name="one node"), cluster.routing(), "phonosmith").submitted
    # corrected after the submission: what is asked of SLURM is read when the job starts
    cluster.project(scheduler="slurm", resources={"gpu": asked | {"gres": "gpu:4"}})
    remote.run()
    store = controller.project.get_jobstore()
    store.connect()
    report = PackReport.model_validate(store.get_output(job.uuid, load=True))
    assert [one.error for one in report.trainings] == [""] * 16
    assert Counter(one.card for one in report.trainings) == {"0": 4, "1": 4, "2": 4, "3": 4}
    assert len({one.key for one in report.trainings if one.document.epochs_run == 1}) == 16
    (script,) = (cluster.folder / "work" / "gpu").rglob("submit.sh")
    assert "#SBATCH --gres=gpu:4" in script.read_text()
    # each process saw its own card and no other
    assert {path.name for path in script.parent.glob("training/card_*")} == {f"card_{number}" for number in range(4)}


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a queue's pace, not the test's, when the machine is busy
def test_the_tutorial_submits_to_a_slurm_that_is_there(slurm, mongo, tmp_path):
    """Its three workers answer and its campaign is in SLURM's queue; how far that gets is the machine's matter."""
    place = mongo.removeprefix("mongodb://").rstrip("/")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PHONOSMITH_", "JFREMOTE"))}
    environment |= {"MONGO": place, "MINUTES": "0.1", "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    script = ROOT / "tutorials" / "06_to_the_cluster.py"
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=1600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"MongoDB at {place}" in done.stdout
    assert "are seen here" in done.stdout
    assert "sample" in done.stdout


def data_of_silicon():
    """Return a foundation, and training and validation labels of two atoms."""
    from phonosmith.flows.replay import label_pool
    from phonosmith.potentials.embedded import demo_structure
    from phonosmith.potentials.registry import load, resolve
    from phonosmith.reference.datasets.dataset import put_dataset

    frames = [demo_structure("Si") for _ in range(3)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
    labelled = label_pool(load(resolve("embedded-reference")), frames, "it")
    return resolve("embedded"), put_dataset(labelled[:2]), put_dataset(labelled[2:])
