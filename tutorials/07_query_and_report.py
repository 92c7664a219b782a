# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 07 · Query the store and build a report
#
# **What you will have at the end:** a small campaign run on this machine, its numbers as a pandas frame, its tables
# beside the published ones, and one HTML file to send around.

# %%
import os
import subprocess
import sys
import tempfile
from pathlib import Path

work = Path(tempfile.mkdtemp(prefix="phonosmith-"))
os.environ.setdefault("PHONOSMITH_HOME", str(work / "home"))

(work / "campaign.yaml").write_text("""\
name: small
materials:
  - structure: embedded:Si
    name: si
foundations: [embedded]
strategies: [transfer, delta]
n_train: [4, 16]
cells: [primitive]
engine:
  name: forcefield
  potential: embedded-reference
training:
  epochs: 10
min_length: 8.0
mesh: 8
""")


def phonosmith(*arguments):
    """Run the command line of this environment."""
    subprocess.run([sys.executable, "-m", "phonosmith.cli.main", *arguments], check=True)


phonosmith("run", str(work / "campaign.yaml"), "--out", str(work / "small"))

# %% [markdown]
# Everything below reads the store alone. It works while a campaign is still running, and with `--jobflow` on the
# MongoDB of a cluster.

# %%
phonosmith("status", "--store", str(work / "small" / "store.sqlite"))

# %%
import phonosmith as ps

results = ps.read_results(ps.open_embedded_jobstore(work / "small" / "store.sqlite"))
columns = ["material", "strategy", "n_train", "phonon_mae_thz"]
print(results.potentials[columns].sort_values("phonon_mae_thz").to_string(index=False))
assert len(results.potentials) == 5

# %% [markdown]
# The frame is ordinary pandas. Error of forces against error of phonons:

# %%
print(results.potentials.filter(like="mae").corr(numeric_only=True).round(2).to_string())

# %%
phonosmith("tables", "--store", str(work / "small" / "store.sqlite"), "--out", str(work / "tables"))
print(sorted(path.name for path in (work / "tables").iterdir()))

# %%
page = work / "report.html"
artefacts = work / "small" / "artefacts"
where = ("--artefacts", str(artefacts)) if artefacts.is_dir() else ()
phonosmith("report", "--store", str(work / "small" / "store.sqlite"), "--out", str(page), *where)
print(page, f"{page.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# **Next:** raw MongoDB queries for your own tools are in `docs/queries.md`; a real reference without a licence in
# [08](08_gpaw.md).
