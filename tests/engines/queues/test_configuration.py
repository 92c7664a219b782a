"""The files of init-cluster are what the engines' own readers take."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from phonosmith.engines.queues.configuration import WORKERS, Cluster, cluster_files, questions, values_to_edit

FOLDER = Path("/home/me/cluster")


def test_jobflow_remote_takes_the_project_and_writes_what_slurm_is_asked():
    from jobflow_remote.config.base import Project
    from qtoolkit.io import SlurmIO

    answers = Cluster(
        mongo="db.lab:27018", mongo_user="me", account="chem", cpu_partition="std", dft_nodes=2, modules="vasp/6.4 mkl"
    )
    files = cluster_files(answers, FOLDER, password="secret")
    project = Project.model_validate(yaml.safe_load(files["projects/phonosmith.yaml"]))
    assert set(project.workers) == set(WORKERS)
    script = SlurmIO().get_submission_script(["run"], options=project.workers["dft"].resources)
    for line in ("--partition=std", "--nodes=2", "--ntasks=48", "--account=chem", "--time=12:00:00"):
        assert f"#SBATCH {line}" in script
    gpu = SlurmIO().get_submission_script(["run"], options=project.workers["gpu"].resources)
    assert "#SBATCH --gres=gpu:1" in gpu
    assert "export PHONOSMITH_DEVICE=cuda\n" in project.workers["gpu"].pre_run
    assert "module load vasp/6.4 mkl\n" in project.workers["dft"].pre_run
    store = project.get_jobstore()
    assert (store.docs_store.host, store.docs_store.port, store.docs_store.password) == ("db.lab", 27018, "secret")
    assert list(store.additional_stores) == ["data"]
    assert project.get_queue_store().collection_name == "jobs"
    over_ssh = Project.model_validate(
        yaml.safe_load(cluster_files(Cluster(login="me@hpc"), FOLDER)["projects/phonosmith.yaml"])
    )
    assert (over_ssh.workers["gpu"].host, over_ssh.workers["gpu"].user) == ("hpc", "me")


def test_fireworks_takes_launchpad_workers_and_adapters():
    from fireworks import FWorker, LaunchPad
    from fireworks.user_objects.queue_adapters.common_adapter import CommonAdapter
    from jobflow import JobStore

    files = cluster_files(Cluster(engine="fireworks", gpu_partition="a100", gpu_cores=16), FOLDER)
    content = {name: yaml.safe_load(text) for name, text in files.items() if name.endswith(".yaml")}
    assert LaunchPad.from_dict(content["my_launchpad.yaml"]).name == "phonosmith_fireworks"
    assert content["FW_config.yaml"]["CONFIG_FILE_DIR"] == str(FOLDER)
    assert JobStore.from_dict_spec(content["jobflow.yaml"]["JOB_STORE"]).additional_stores["data"].collection_name
    for worker in WORKERS:
        assert FWorker.from_dict(content[f"fworker_{worker}.yaml"]).category == worker
        script = CommonAdapter.from_dict(content[f"qadapter_{worker}.yaml"]).get_script_str("/scratch")
        assert f"-w {FOLDER}/fworker_{worker}.yaml singleshot" in script
        assert f'export JOBFLOW_CONFIG_FILE={FOLDER}/jobflow.yaml\nexport PHONOSMITH_ARTEFACTS="/shared' in script
        assert ("#SBATCH --partition=a100" in script) == (worker == "gpu")
        assert ("#SBATCH --gres=gpu:1" in script) == (worker == "gpu")
        assert "None" not in script


def test_a_node_of_four_cards_and_calculations_in_bundles():
    from jobflow_remote.config.base import Project

    answers = {"gpus": 4, "gpu_cores": 12, "dft_bundle": 20, "hours": 10}
    files = cluster_files(Cluster(**answers), FOLDER, guessed=frozenset({"gpu_cores"}))
    assert "      cpus_per_task: 48 # EDIT" in files["projects/phonosmith.yaml"].splitlines()
    project = Project.model_validate(yaml.safe_load(files["projects/phonosmith.yaml"]))
    gpu, dft = project.workers["gpu"], project.workers["dft"]
    assert gpu.resources["gres"] == "gpu:4"
    assert "export OMP_NUM_THREADS=12" in gpu.pre_run
    assert (dft.batch.max_jobs_per_batch, dft.batch.max_time, gpu.batch) == (20, 28800, None)
    # VASP and trainings are stopped before the walltime, and go on in the next job
    assert [name for name in WORKERS if "STOP_IN_TIME=true" in project.workers[name].pre_run] == ["dft", "gpu"]
    files = cluster_files(Cluster(engine="fireworks", **answers), FOLDER)
    adapters = {name: yaml.safe_load(files[f"qadapter_{name}.yaml"]) for name in WORKERS}
    assert adapters["dft"]["rocket_launch"].endswith("rapidfire --nlaunches 20 --timeout 28800")
    assert adapters["gpu"]["rocket_launch"].endswith("singleshot")
    assert adapters["gpu"]["cpus_per_task"] == 48


@pytest.mark.parametrize("engine", ["jobflow-remote", "fireworks"])
def test_what_was_guessed_is_marked_and_nothing_else(engine):
    answers = Cluster(engine=engine)
    everything = frozenset(questions(answers))
    marked = values_to_edit(cluster_files(answers, FOLDER, guessed=everything))
    for word in ("localhost", "partition: gpu" if engine == "jobflow-remote" else "queue: gpu", "srun vasp_std"):
        assert any(word in line for line in marked), word
    assert values_to_edit(cluster_files(answers, FOLDER)) == []
    alone = cluster_files(answers, FOLDER, guessed=frozenset({"potcars"}))
    (line,) = values_to_edit(alone)
    assert 'export PMG_VASP_PSP_DIR="/home/me/potcars" # EDIT' in line
    # marks are comments: what is read is the same
    with_marks, without = (cluster_files(answers, FOLDER, guessed=some) for some in (everything, frozenset()))
    for name in without:
        if name.endswith(".yaml"):
            read, clean = (str(yaml.safe_load(files[name])).replace(" # EDIT", "") for files in (with_marks, without))
            assert read == clean


@pytest.mark.parametrize(
    "wrong",
    [
        {"scratch": "runs"},
        {"potcars": '/home/"; rm -rf /'},
        {"vasp": "srun `id`"},
        {"mongo": "mongodb://db"},
        {"name": "../up"},
        {"dft_tasks": 0},
        {"engine": "slurm"},
        {"partition": "cpu"},
    ],
)
def test_answers_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Cluster.model_validate(wrong)
