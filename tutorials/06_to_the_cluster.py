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
# run on which worker, and the commands that submit it to FireWorks or jobflow-remote.

# %%
import os
import subprocess
import sys
import tempfile
from pathlib import Path

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
# DFT jobs, trainings and everything else are three kinds of worker; jobs that are created while the flow runs follow the
# same rules. `--dry-run` of `submit` says which job goes where, and what is missing before anything can be submitted.
#
# `phonosmith init-cluster` writes what jobflow-remote or FireWorks need, from a few answers about your cluster:
#
# ```
# phonosmith init-cluster --engine jobflow-remote
# source cluster/activate.sh
# phonosmith doctor --cluster jobflow-remote
# phonosmith submit campaign.yaml --engine jobflow-remote --dry-run
# phonosmith submit campaign.yaml --engine jobflow-remote
# phonosmith submit campaign.yaml --engine fireworks
# phonosmith status --jobflow
# ```
#
# **Next:** look at results while they arrive ([07](07_query_and_report.md)).
