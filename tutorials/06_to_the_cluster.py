# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 06 · To the cluster
#
# **What you will have at the end:** a campaign file that has been checked completely, the knowledge of which job will
# run on which worker, and, where this machine has a SLURM, that campaign submitted to it and followed to its end.

# %%
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pymongo

work = Path(tempfile.mkdtemp(prefix="phonosmith-"))
os.environ.setdefault("PHONOSMITH_HOME", str(work / "home"))

CAMPAIGN = """\
name: two-crystals
materials:
  - structure: embedded:Si
    name: si
  - structure: embedded:Ge
    name: ge
foundations: [embedded]
strategies: [transfer, delta]
n_train: [8, 16]
cells: [primitive]
engine:
  name: vasp
  rehearsal: true
min_length: 8.0
mesh: 8
"""
(work / "campaign.yaml").write_text(CAMPAIGN)

# %% [markdown]
# `--dry-run` reads the file, resolves every potential, checks every setting and counts the jobs. A mistake is named with
# its line:

# %%


def phonosmith(*arguments):
    """Run the command line of this environment and show what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "phonosmith.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout or done.stderr)
    return done.returncode


assert (
    phonosmith(
        "run", str(work / "campaign.yaml"), "--out", str(work / "run"), "--dry-run"
    )
    == 0
)

(work / "wrong.yaml").write_text(
    CAMPAIGN.replace("[transfer, delta]", "[transfer, detla]")
)
assert phonosmith("run", str(work / "wrong.yaml"), "--dry-run") == 2

# %% [markdown]
# DFT jobs, trainings and everything else are three kinds of worker (`dft`, `gpu`, `inference`); jobs that are created while
# the flow runs follow the same rules. On your cluster:
#
# ```
# phonosmith init-cluster --engine jobflow-remote      # asks for hosts, partitions, folders and VASP's command
# source cluster/activate.sh
# jf admin reset; jf runner start
# phonosmith doctor --cluster jobflow-remote           # a small job to each worker: what does it see?
# phonosmith submit campaign.yaml --engine jobflow-remote
# phonosmith status --engine jobflow-remote --watch
# ```
#
# The same happens below, if this machine has a SLURM and a MongoDB (`MONGO=host:port`; `localhost:27017` where nothing is
# said). Where one is missing, the tutorial says so and ends with what would have been submitted.

# %%
mongo = os.environ.get("MONGO", "localhost:27017")


def partitions():
    """Return the partitions of a SLURM that answers, the default one first."""
    if shutil.which("sinfo") is None:
        return []
    told = subprocess.run(
        ["sinfo", "-h", "-o", "%P"], capture_output=True, text=True, check=False
    ).stdout.split()
    return [
        name.rstrip("*")
        for name in sorted(told, key=lambda name: not name.endswith("*"))
    ]


def mongo_answers():
    """Say whether a MongoDB answers."""
    try:
        pymongo.MongoClient(
            f"mongodb://{mongo}", serverSelectionTimeoutMS=2000
        ).admin.command("ping")
    except pymongo.errors.ConnectionFailure:
        return False
    return True


found = partitions()
missing = [
    *([] if found else ["no SLURM answers"]),
    *([] if mongo_answers() else [f"no MongoDB answers at {mongo}"]),
]
print(
    "Nothing is submitted: " + " and ".join(missing)
    if missing
    else f"SLURM with {', '.join(found)}; MongoDB at {mongo}"
)

# %% [markdown]
# The files. `--yes` asks nothing; what was guessed ends with `# EDIT`. This is no cluster, so each job asks for one core, and
# the trainings go to the `inference` worker, which may compute on a processor. (The `gpu` worker insists on a GPU.)

# %%
(work / "routing.yaml").write_text("routing: {training: inference}\n")
cluster = work / "cluster"
answers = {
    "mongo": mongo,
    "scratch": work / "scratch",
    "artefacts": work / "artefacts",
    "cpu-partition": found[0] if found else "cpu",
    "dft-tasks": 1,
    "dft-bundle": 10,
    "hours": 1,
}
options = [
    text for name, value in answers.items() for text in (f"--{name}", str(value))
]
assert (
    phonosmith(
        "init-cluster",
        "--engine",
        "jobflow-remote",
        "--out",
        str(cluster),
        "--yes",
        *options,
    )
    == 0
)
project = cluster / "projects" / "phonosmith.yaml"
project.write_text(project.read_text().replace("cpus_per_task: 4", "cpus_per_task: 1"))

# %% [markdown]
# From here on everything is submitted: `dft-bundle` lets one allocation do ten calculations, one after the other.

# %%
MINUTES = float(os.environ.get("MINUTES", "20"))


def follow():
    """Ask the workers, submit the campaign and look at it until it is done or the time is up."""
    told = subprocess.run(
        ["bash", "-c", f"source {cluster}/activate.sh; env -0"],
        capture_output=True,
        text=True,
        check=True,
    )
    os.environ.update(
        line.split("=", 1) for line in told.stdout.split("\0") if "=" in line
    )
    jf = str(Path(sys.executable).parent / "jf")
    subprocess.run([jf, "admin", "reset", "-y"], capture_output=True, check=True)
    log = (work / "runner.log").open("w")
    runner = subprocess.Popen([jf, "runner", "run"], stdout=log, stderr=log)
    rules, engine = (
        ["--routing", str(work / "routing.yaml")],
        ["--engine", "jobflow-remote"],
    )
    try:
        assert phonosmith("doctor", "--cluster", "jobflow-remote", *rules) == 0
        assert phonosmith("submit", str(work / "small.yaml"), *engine, *rules) == 0
        print(
            subprocess.run(
                ["squeue"], capture_output=True, text=True, check=True
            ).stdout
        )
        end = time.monotonic() + 60 * MINUTES
        while time.monotonic() < end and not finished():
            time.sleep(5)
        phonosmith("status", *engine)
        print("Done." if finished() else f"Not done after {MINUTES:g} minutes.")
    finally:
        runner.terminate()
        runner.wait()


def finished():
    """Say whether nothing is left to be done."""
    command = [
        sys.executable,
        "-m",
        "phonosmith.cli.main",
        "status",
        "--engine",
        "jobflow-remote",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    counts = json.loads(done.stdout)["queue"]["counts"]
    return not any(
        counts.get(state) for state in ("waiting", "ready", "pending", "running")
    )


SMALL = CAMPAIGN.replace("[8, 16]", "[4]").replace("[transfer, delta]", "[transfer]")
(work / "small.yaml").write_text(
    SMALL.replace("  - structure: embedded:Ge\n    name: ge\n", "")
)
if not missing:
    follow()

# %% [markdown]
# A failed job is started again by `phonosmith retry --engine jobflow-remote`, and what was submitted already is never
# submitted twice. Whole nodes of GPUs, bundles, arrays and walltimes: `workflows/README.md` in the repository.
#
# **Next:** look at results while they arrive ([07](07_query_and_report.md)).
