"""``phonosmith init-cluster``: the files with which an engine runs campaigns on a cluster."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phonosmith.cli.common import CAMPAIGNS, JSON, answer, command
from phonosmith.core.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from phonosmith.engines.queues.configuration import Cluster

PASSWORD_VARIABLE = "PHONOSMITH_MONGO_PASSWORD"  # noqa: S105 the name of a variable


@command("init-cluster", CAMPAIGNS)
def init_cluster(
    out: Annotated[Path, typer.Option(help="Folder for the files; nothing in it is overwritten.")] = Path("cluster"),
    engine: str | None = typer.Option(None, help="Engine: jobflow-remote or fireworks."),
    name: str | None = typer.Option(None, help="Name of the project and of its databases."),
    mongo: str | None = typer.Option(None, help="MongoDB, as host or host:port."),
    mongo_user: str | None = typer.Option(None, help="User of that MongoDB, if it asks for one."),
    login: str | None = typer.Option(
        None, help="Login node, as user@host, if jobs are submitted over ssh (jobflow-remote); empty: this machine."
    ),
    environment: str | None = typer.Option(None, help="Python environment with phonosmith on the cluster."),
    scratch: str | None = typer.Option(None, help="Folder in which jobs run."),
    artefacts: str | None = typer.Option(None, help="Folder of models and labels that every worker sees."),
    scheduler: str | None = typer.Option(None, help="Scheduler: slurm, or shell for none."),
    account: str | None = typer.Option(None, help="Account that is charged, if the scheduler asks for one."),
    cpu_partition: str | None = typer.Option(None, help="Partition of the CPU nodes."),
    gpu_partition: str | None = typer.Option(None, help="Partition of the GPU nodes."),
    dft_nodes: int | None = typer.Option(None, help="Nodes of one DFT calculation."),
    dft_tasks: int | None = typer.Option(None, help="MPI ranks of one DFT calculation, all nodes together."),
    dft_bundle: int | None = typer.Option(
        None, help="DFT calculations one after the other in one allocation (1: one each)."
    ),
    gpus: int | None = typer.Option(None, help="GPUs of one training job; with 'pack: material' all of them are used."),
    gpu_cores: int | None = typer.Option(None, help="Cores beside each GPU of a training."),
    hours: int | None = typer.Option(None, help="Walltime of DFT calculations and trainings, h."),
    vasp: str | None = typer.Option(None, help="Command that runs VASP."),
    vasp_gamma: str | None = typer.Option(None, help="Command that runs VASP's Γ-only build."),
    modules: str | None = typer.Option(None, help="Modules to load for VASP, separated by blanks."),
    potcars: str | None = typer.Option(None, help="Folder of the POTCAR files (PMG_VASP_PSP_DIR)."),
    yes: bool = typer.Option(False, "--yes", "-y", help="Ask nothing: what is not given is guessed and marked EDIT."),
    json_output: bool = JSON,
) -> None:
    """Write the files with which jobflow-remote or FireWorks runs campaigns on your cluster.

    Asks for what no option gives: hosts, partitions, VASP, folders. What was guessed ends with '# EDIT' in the files.
    The password of a MongoDB comes from PHONOSMITH_MONGO_PASSWORD or is asked for, and only you can read the files.

    Example: phonosmith init-cluster --engine fireworks --mongo db.lab:27017 --gpu-partition a100 --yes
    """
    from phonosmith.engines.queues.configuration import Cluster, cluster_files, questions, values_to_edit

    given = {key: value for key, value in locals().items() if key in Cluster.model_fields and value is not None}
    asking = not yes and not json_output and people_answer()
    folder = out.expanduser().absolute()
    cluster = _asked(given) if asking else _checked(given)
    password = os.environ.get(PASSWORD_VARIABLE, "")
    if cluster.mongo_user and not password:
        if not asking:
            advice = f"Export {PASSWORD_VARIABLE}, or leave --mongo-user out."
            raise ConfigurationError(f"There is no password for {cluster.mongo_user} at {cluster.mongo}.", advice)
        password = typer.prompt(f"password of {cluster.mongo_user}", hide_input=True)
    guessed = frozenset() if asking else frozenset(questions(cluster)) - given.keys()
    files = cluster_files(cluster, folder, guessed=guessed, password=password)
    _write(folder, files)
    left = values_to_edit(files)
    then = _next_steps(cluster, folder)
    payload = {"folder": str(folder), "files": sorted(files), "to_edit": left, "next": then}
    answer(payload, lambda: _show(folder, files, left, then), json_output=json_output)


def people_answer() -> bool:
    """Tell whether somebody sits at a terminal."""
    return sys.stdin.isatty()


def _checked(given: dict[str, Any]) -> Cluster:
    from pydantic import ValidationError

    from phonosmith.engines.queues.configuration import Cluster

    try:
        return Cluster.model_validate(given)
    except ValidationError as error:
        wrong = [f"--{str(item['loc'][0]).replace('_', '-')}: {item['msg']}" for item in error.errors()]
        raise InputError(f"{'; '.join(wrong)}.", "See 'phonosmith init-cluster --help'.") from error


def _asked(given: dict[str, Any]) -> Cluster:
    """Ask for everything that matters and was not given, each until the answer is sound."""
    from phonosmith.engines.queues.configuration import Cluster, questions

    answers = dict(given)
    cluster = _checked(answers)
    seen: set[str] = set()
    # which questions matter depends on the first answers
    while waiting := [name for name in questions(cluster) if name not in answers and name not in seen]:
        name = waiting[0]
        field = Cluster.model_fields[name]
        said = typer.prompt(str(field.description), default=field.default, type=type(field.default))
        try:
            cluster = _checked(answers | {name: said})
        except InputError as error:
            typer.secho(error.message, fg="red", err=True)
            continue
        answers[name] = said
        seen.add(name)
    return cluster


def _write(folder: Path, files: dict[str, str]) -> None:
    """Write all files, readable by their owner alone, or none where one is there already."""
    from phonosmith.core.artefacts import write_atomic

    if there := [name for name in sorted(files) if (folder / name).exists()]:
        raise InputError(f"{folder} holds {', '.join(there)} already.", "Move them away, or name another --out.")
    before = os.umask(0o077)
    try:
        for name, text in files.items():
            write_atomic(folder / name, text.encode())
            if name == "launch.sh":
                (folder / name).chmod(0o700)
    finally:
        os.umask(before)


def _next_steps(cluster: Cluster, folder: Path) -> list[str]:
    from phonosmith.engines.queues.configuration import WORKERS

    start = [f"source {folder}/activate.sh"]
    if cluster.engine == "jobflow-remote":
        start += ["jf project check --errors", "jf admin reset   # once; it empties the queue's database"]
        workers = ["jf runner start"]
    else:
        start.append(f"lpad -l {folder}/my_launchpad.yaml reset   # once; it empties that database")
        launch = f"rlaunch -l {folder}/my_launchpad.yaml -w {folder}/fworker_"
        by_hand = [f"{launch}{worker}.yaml rapidfire --nlaunches infinite" for worker in WORKERS]
        workers = [f"{folder}/launch.sh"] if cluster.scheduler == "slurm" else by_hand
    look = f"phonosmith doctor --cluster {cluster.engine}"
    return [*start, *workers, look, f"phonosmith submit campaign.yaml --engine {cluster.engine}"]


def _show(folder: Path, files: dict[str, str], left: list[str], then: list[str]) -> None:
    typer.echo(f"{folder}: {', '.join(sorted(files))}")
    if left:
        typer.secho(f"{len(left)} values were guessed; look at each line that ends with '# EDIT':", fg="yellow")
        for line in left:
            typer.echo(f"  {line}")
    typer.echo("Then:")
    for line in then:
        typer.echo(f"  {line}")
