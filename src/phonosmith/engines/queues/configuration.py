"""The files that jobflow-remote or FireWorks need to run campaigns on a cluster, from a handful of answers.

Three workers: ``dft`` (the reference program), ``gpu`` (trainings), ``inference`` (everything else).
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from phonosmith.flows.routing import EngineName

WORKERS = ("dft", "gpu", "inference")
_EDIT = "__EDIT__"
"""Follows a value that nobody has given, until it becomes a comment at the end of its line."""


def _no_quotes(text: str) -> str:
    if any(character in text for character in '"`\\\n\r'):
        raise ValueError("no quotation marks, backquotes, backslashes or ends of lines, please")
    return text


def _absolute(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("has to begin with / (jobs run in other folders)")
    return _no_quotes(text)


Text = Annotated[str, AfterValidator(_no_quotes)]
Folder = Annotated[str, AfterValidator(_absolute)]


class Cluster(BaseModel):
    """What has to be known about a cluster; the description of a field is the question asked for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: EngineName = Field("jobflow-remote", description="engine: jobflow-remote or fireworks")
    name: str = Field(
        "phonosmith", pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", description="name of the project and of its databases"
    )
    mongo: str = Field("localhost:27017", pattern=r"^[^\s:/]+(:\d+)?$", description="MongoDB, as host or host:port")
    mongo_user: Text = Field("", description="user of that MongoDB, if it asks for one")
    login: str = Field(
        "",
        pattern=r"^([^\s@]+@)?[^\s@]*$",
        description="login node, as user@host, if jobs are submitted over ssh (jobflow-remote); empty: this machine",
    )
    environment: Folder = Field(sys.prefix, description="Python environment with phonosmith on the cluster")
    scratch: Folder = Field("/scratch/me/phonosmith", description="folder in which jobs run")
    artefacts: Folder = Field(
        "/shared/phonosmith/artefacts", description="folder of models and labels that every worker sees"
    )
    scheduler: Literal["slurm", "shell"] = Field("slurm", description="scheduler: slurm, or shell for none")
    account: Text = Field("", description="account that is charged, if the scheduler asks for one")
    cpu_partition: Text = Field("cpu", description="partition of the CPU nodes")
    gpu_partition: Text = Field("gpu", description="partition of the GPU nodes")
    dft_nodes: int = Field(1, ge=1, description="nodes of one DFT calculation")
    dft_tasks: int = Field(48, ge=1, description="MPI ranks of one DFT calculation, all nodes together")
    dft_bundle: int = Field(1, ge=1, description="DFT calculations one after the other in one allocation (1: one each)")
    gpus: int = Field(1, ge=1, description="GPUs of one training job; with 'pack: material' all of them are used")
    gpu_cores: int = Field(8, ge=1, description="cores beside each GPU of a training")
    hours: int = Field(12, ge=1, description="walltime of DFT calculations and trainings, h")
    vasp: Text = Field("srun vasp_std", description="command that runs VASP")
    vasp_gamma: Text = Field("srun vasp_gam", description="command that runs VASP's Γ-only build")
    modules: Text = Field("", description="modules to load for VASP, separated by blanks")
    potcars: Folder = Field("/home/me/potcars", description="folder of the POTCAR files (PMG_VASP_PSP_DIR)")


OPTIONAL = frozenset({"mongo_user", "login", "account", "modules", "name", "engine", "scheduler", "dft_bundle", "gpus"})
"""Fields whose default is as good as an answer."""
_SLURM_ONLY = frozenset(
    {
        *("cpu_partition", "gpu_partition", "account", "dft_nodes", "dft_tasks", "dft_bundle"),
        *("gpus", "gpu_cores", "hours"),
    }
)


def questions(cluster: Cluster) -> list[str]:
    """Return the fields that matter for this engine and scheduler, in the order in which they are asked."""
    aside = set() if cluster.scheduler == "slurm" else set(_SLURM_ONLY)
    if cluster.engine == "fireworks":
        aside.add("login")
    return [name for name in Cluster.model_fields if name not in aside]


def cluster_files(
    cluster: Cluster, folder: Path, *, guessed: frozenset[str] = frozenset(), password: str = ""
) -> dict[str, str]:
    """Return the configuration files by their names in ``folder``.

    Parameters
    ----------
    cluster
        What is known.
    folder
        Where the files will lie; the files of FireWorks name each other by their paths.
    guessed
        Fields nobody has given: their lines end with ``# EDIT``.
    password
        Of the MongoDB.
    """
    unsure = guessed & set(questions(cluster)) - OPTIONAL
    given = {
        name: f"{value}{_EDIT}" if name in unsure else value for name, value in cluster.model_dump(mode="json").items()
    }
    for_engine = _jobflow_remote if cluster.engine == "jobflow-remote" else _fireworks
    files = {
        "jobflow.yaml": _jobflow(given, password),
        "activate.sh": _activate(cluster, folder, str(given["artefacts"])),
        **for_engine(cluster, given, folder, password),
    }
    return {name: _marked(text) for name, text in files.items()}


def values_to_edit(files: dict[str, str]) -> list[str]:
    """Return the lines marked EDIT, each with file and number."""
    return [
        f"{name}:{number}: {line.strip()}"
        for name, text in files.items()
        for number, line in enumerate(text.splitlines(), 1)
        if line.endswith("# EDIT")
    ]


def _marked(text: str) -> str:
    lines = [f"{line.replace(_EDIT, '')} # EDIT" if _EDIT in line else line for line in text.splitlines()]
    return "\n".join(lines) + "\n"


def _dump(about: str, content: dict[str, Any]) -> str:
    class Plain(yaml.SafeDumper):
        """Lines of shell as a block."""

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Plain.add_representer(str, text)
    head = "".join(f"# {line}\n" for line in about.splitlines())
    return head + yaml.dump(content, Dumper=Plain, sort_keys=False, width=200, allow_unicode=True)


def _place(given: dict[str, Any], password: str, **names: str) -> dict[str, Any]:
    """Return where a database is; what nobody has given stays marked."""
    mark = _EDIT if str(given["mongo"]).endswith(_EDIT) else ""
    host, _, port = str(given["mongo"]).removesuffix(_EDIT).partition(":")
    place: dict[str, Any] = {"host": host + mark, "port": int(port or 27017), **names}
    if given["mongo_user"]:
        place |= {"username": given["mongo_user"], "password": password}
    return place


def _job_store(given: dict[str, Any], password: str) -> dict[str, Any]:
    def place(collection: str) -> dict[str, Any]:
        return _place(given, password, database=str(given["name"]), collection_name=collection)

    return {
        "docs_store": {"type": "MongoStore", **place("outputs")},
        # large outputs; phonosmith's flows need a store of this name
        "additional_stores": {"data": {"type": "GridFSStore", **place("outputs_blobs")}},
    }


def _jobflow(given: dict[str, Any], password: str) -> str:
    about = (
        "Where results live: 'phonosmith status --jobflow' and 'report --jobflow' read it (and FireWorks' workers do)."
    )
    return _dump(about, {"JOB_STORE": _job_store(given, password)})


def _activate(cluster: Cluster, folder: Path, artefacts: str) -> str:
    lines = [
        "# source this file before phonosmith submit, status, report, retry, doctor --cluster",
        f"export JOBFLOW_CONFIG_FILE={shlex.quote(str(folder / 'jobflow.yaml'))}",
        _export("PHONOSMITH_ARTEFACTS", artefacts),
    ]
    if cluster.engine == "jobflow-remote":
        lines += [
            f"export JFREMOTE_PROJECTS_FOLDER={shlex.quote(str(folder / 'projects'))}",
            f"export JFREMOTE_PROJECT={cluster.name}",
        ]
    else:
        lines.append(f"export FW_CONFIG_FILE={shlex.quote(str(folder / 'FW_config.yaml'))}")
    return "\n".join(lines)


def _lines_before(worker: str, cluster: Cluster, given: dict[str, Any], *more: str) -> str:
    """Return the lines of shell in front of every job of a worker."""
    lines = [
        f'source "{given["environment"]}/bin/activate"',
        *more,
        _export("PHONOSMITH_ARTEFACTS", given["artefacts"]),
    ]
    if cluster.scheduler == "slurm" and worker != "inference":
        # before the walltime is over, and on in a job that follows
        lines.append("export PHONOSMITH_STOP_IN_TIME=true")
    if worker == "dft":
        if cluster.modules:
            lines.append(f"module load {cluster.modules}")
        lines += [
            _export("ATOMATE2_VASP_CMD", given["vasp"]),
            _export("ATOMATE2_VASP_GAMMA_CMD", given["vasp_gamma"]),
            _export("PMG_VASP_PSP_DIR", given["potcars"]),
        ]
    else:
        # a training never falls back to a processor without a word
        lines.append(f"export PHONOSMITH_DEVICE={'cuda' if worker == 'gpu' else 'auto'}")
        lines.append(f"export OMP_NUM_THREADS={cluster.gpu_cores if worker == 'gpu' else _INFERENCE_CORES}")
    return "\n".join(lines) + "\n"


def _export(name: str, value: object) -> str:
    return f'export {name}="{value}"'


_INFERENCE_CORES = 4
_INFERENCE_TIME = "02:00:00"
_MOST_JOBS = {"dft": 50, "gpu": 8, "inference": 20}


def _asked(worker: str, cluster: Cluster, given: dict[str, Any], *, time: str, partition: str) -> dict[str, Any]:
    """Return what SLURM is asked for, by the names an engine has for time and partition."""
    if cluster.scheduler != "slurm":
        return {}
    asked: dict[str, Any] = {partition: given["gpu_partition" if worker == "gpu" else "cpu_partition"]}
    if worker == "dft":
        asked |= {"nodes": given["dft_nodes"], "ntasks": given["dft_tasks"], "cpus_per_task": 1}
    else:
        cores = _times(given["gpu_cores"], cluster.gpus) if worker == "gpu" else _INFERENCE_CORES
        asked |= {"nodes": 1, "ntasks": 1, "cpus_per_task": cores}
    if worker == "gpu":
        asked["gres"] = f"gpu:{cluster.gpus}"
    asked[time] = _INFERENCE_TIME if worker == "inference" else f"{cluster.hours}:00:00"
    if cluster.account:
        asked["account"] = cluster.account
    return asked


def _times(value: object, factor: int) -> object:
    """Return a number, which may be marked, times another one."""
    text = str(value)
    mark = _EDIT if text.endswith(_EDIT) else ""
    product = factor * int(text.removesuffix(_EDIT))
    return f"{product}{mark}" if mark else product


_BUNDLE_PART = 0.8
"""Part of an allocation after which it begins no further calculation."""


def _bundled(cluster: Cluster, given: dict[str, Any]) -> dict[str, Any]:
    """Return jobflow-remote's settings of several calculations in one allocation."""
    if cluster.scheduler != "slurm" or cluster.dft_bundle == 1:
        return {}
    batch = {
        "jobs_handle_dir": _inside(given["scratch"], "dft_batch/handle"),
        "work_dir": _inside(given["scratch"], "dft_batch/work"),
        "max_jobs_per_batch": cluster.dft_bundle,
        "max_time": round(_BUNDLE_PART * 3600 * cluster.hours),
    }
    return {"batch": batch}


def _jobflow_remote(cluster: Cluster, given: dict[str, Any], folder: Path, password: str) -> dict[str, str]:
    del folder
    user, _, host = cluster.login.rpartition("@")
    where = {"type": "remote", "host": host, **({"user": user} if user else {})} if cluster.login else {"type": "local"}
    workers = {
        worker: {
            **where,
            "scheduler_type": cluster.scheduler,
            "work_dir": _inside(given["scratch"], worker),
            "max_jobs": _MOST_JOBS[worker],
            "resources": _asked(worker, cluster, given, time="time", partition="partition"),
            "pre_run": _lines_before(worker, cluster, given),
            **(_bundled(cluster, given) if worker == "dft" else {}),
        }
        for worker in WORKERS
    }
    store = _place(given, password, database=cluster.name, collection_name="jobs")
    content = {
        "name": cluster.name,
        "log_level": "info",
        # s: a stage follows another within seconds; many users on one login node may want more
        "runner": {
            "delay_checkout": 5,
            "delay_check_run_status": 10,
            "delay_advance_status": 5,
            "delay_update_batch": 10,
        },
        "workers": workers,
        "queue": {"store": {"type": "MongoStore", **store}},
        "jobstore": _job_store(given, password),
    }
    about = (
        "A jobflow-remote project, for the machine on which 'phonosmith submit' and the runner run.\n"
        "First: jf project check --errors; jf admin reset (empties the queue's database). Then: jf runner start"
    )
    return {f"projects/{cluster.name}.yaml": _dump(about, content)}


def _inside(folder: object, name: str) -> str:
    text = str(folder)
    mark = _EDIT if text.endswith(_EDIT) else ""
    return f"{text.removesuffix(_EDIT)}/{name}{mark}"


def _fireworks(cluster: Cluster, given: dict[str, Any], folder: Path, password: str) -> dict[str, str]:
    pad = folder / "my_launchpad.yaml"
    blank = {"username": None, "password": None}
    launchpad = (
        blank | _place(given, password, name=f"{cluster.name}_fireworks") | {"logdir": None, "strm_lvl": "WARNING"}
    )
    database = "FireWorks' database. Once: lpad -l my_launchpad.yaml reset (empties it)"
    files = {
        "my_launchpad.yaml": _dump(database, launchpad | {"mongoclient_kwargs": {}}),
        "FW_config.yaml": _dump(
            "Where FireWorks looks for its files; when a running job tells it is alive, and counts as lost, s.",
            {"CONFIG_FILE_DIR": str(folder), "PING_TIME_SECS": 600, "RUN_EXPIRATION_SECS": 3600},
        ),
    }
    if cluster.scheduler == "slurm":
        files["launch.sh"] = _LAUNCH.format(folder=shlex.quote(str(folder)), scratch=given["scratch"])
    for worker in WORKERS:
        taken = folder / f"fworker_{worker}.yaml"
        about = "A worker takes the jobs of its category."
        files[taken.name] = _dump(about, {"name": worker, "category": worker, "query": "{}"})
        launched = "singleshot"
        if worker == "dft" and cluster.dft_bundle > 1:
            seconds = round(_BUNDLE_PART * 3600 * cluster.hours)
            launched = f"rapidfire --nlaunches {cluster.dft_bundle} --timeout {seconds}"
        rocket = f"rlaunch -l {shlex.quote(str(pad))} -w {shlex.quote(str(taken))} {launched}"
        if cluster.scheduler != "slurm":
            continue
        adapter = {
            "_fw_name": "CommonAdapter",
            "_fw_q_type": "SLURM",
            "rocket_launch": rocket,
            "job_name": f"{cluster.name}_{worker}",
            **_asked(worker, cluster, given, time="walltime", partition="queue"),
            "logdir": None,
            "pre_rocket": _lines_before(
                worker, cluster, given, f"export JOBFLOW_CONFIG_FILE={shlex.quote(str(folder / 'jobflow.yaml'))}"
            ),
            "post_rocket": None,
        }
        files[f"qadapter_{worker}.yaml"] = _dump("What 'qlaunch -q' submits to SLURM for each job.", adapter)
    return files


_LAUNCH = """\
#!/usr/bin/env bash
# Keep SLURM supplied with FireWorks' jobs: one qlaunch for each worker, started on the machine that may submit.
#   launch.sh                    all three workers, for good, in the background
#   launch.sh --once [WORKER...] submit what is ready within a minute and return (for cron, or by hand)
# LAUNCH_DIR is where jobs run, QUEUE_LIMIT how many you may have queued, SLEEP the seconds between two looks.
set -euo pipefail

here={folder}
once=false
[ "${{1:-}}" = --once ] && {{ once=true; shift; }}
workers=("$@")
[ ${{#workers[@]}} -gt 0 ] || workers=(dft gpu inference)
runs="${{LAUNCH_DIR:-{scratch}}}"

for worker in "${{workers[@]}}"; do
  mkdir -p "$runs/$worker"
  # -r reserves each job for the batch script it was submitted in, so that its queue settings are its own; a script that
  # runs several takes what is ready when it starts
  reserve=""
  grep -q "singleshot$" "$here/qadapter_$worker.yaml" && reserve=-r
  command=(qlaunch ${{reserve:+-r}} -l "$here/my_launchpad.yaml" -w "$here/fworker_$worker.yaml"
    -q "$here/qadapter_$worker.yaml" --launch_dir "$runs/$worker" rapidfire -m "${{QUEUE_LIMIT:-50}}")
  if $once; then
    # without a timeout qlaunch would wait for every job that may still become ready
    "${{command[@]}}" --nlaunches 0 --sleep 5 --timeout 60
  else
    nohup "${{command[@]}}" --nlaunches infinite --sleep "${{SLEEP:-60}}" >"$runs/qlaunch_$worker.log" 2>&1 &
    echo "qlaunch for $worker: process $!, log $runs/qlaunch_$worker.log"
  fi
done
"""
