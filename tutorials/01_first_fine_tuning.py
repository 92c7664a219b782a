# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 01 · A first fine-tuning
#
# **What you will have at the end:** a foundation potential fine-tuned for silicon, its phonons beside those of the
# reference, and a verdict - in about two minutes on a laptop, with nothing but this package. A small embedded MACE model
# is the foundation; another published potential plays DFT.

# %%
import os
import tempfile
from pathlib import Path

work = Path(tempfile.mkdtemp(prefix="phonosmith-"))
os.environ.setdefault("PHONOSMITH_HOME", str(work / "home"))

import phonosmith as ps

structure = ps.read_crystal("embedded:Si")  # or the path of your CIF or POSCAR
foundation = ps.resolve("embedded")
print(structure.composition.reduced_formula, "-", foundation.name, "knows", ", ".join(foundation.elements))

# %% [markdown]
# One Maker builds the whole flow: sampling with the foundation, labels, audit, one training per strategy, phonons of the
# reference and of every potential, verdicts. The settings below are small so that it is quick; the defaults are the
# published protocol.

# %%
maker = ps.FineTuneMaterialMaker(
    engine=ps.make_engine("forcefield", potential="embedded-reference"),
    strategies=("transfer", "delta"),
    sampling={"cell": "primitive"},
    training={"epochs": 30},
    min_length=8.0,
    mesh=10,
)
flow = maker.make(structure, foundation)
print(len(list(flow.iterflow())), "jobs:", ", ".join(job.name for job, _ in list(flow.iterflow())[:4]), "...")

# %% [markdown]
# The local runner keeps its workers alive and can be interrupted: run the same cell again and it continues.

# %%
store = ps.open_embedded_jobstore(work / "store.sqlite")
store.connect()
summary = ps.LocalRunner(store, work / "run", progress=True).run(flow)
print(f"{summary.done} jobs done in {summary.seconds:.0f} s; failed: {[row.name for row in summary.failed]}")

# %% [markdown]
# Every result is in the store; `read_results` makes pandas frames of it, one row per potential.

# %%
potentials = ps.read_results(store).potentials
for row in potentials.itertuples():
    print(f"{row.strategy:12s} phonon MAE {row.phonon_mae_thz:.3f} THz  {'fit' if row.fit else 'not fit'}")
errors = potentials.set_index("strategy")["phonon_mae_thz"]
assert errors["transfer"] < errors["foundation"]

# %% [markdown]
# Bands, densities of states, reasons of the verdicts and everything else are on one page for your browser:

# %%
import subprocess
import sys


def phonosmith(*arguments):
    """Run the command line of this environment."""
    subprocess.run([sys.executable, "-m", "phonosmith.cli.main", *map(str, arguments)], check=True)


phonosmith("report", "--store", work / "store.sqlite", "--out", work / "report.html")

# %% [markdown]
# The model is a plain MACE file that works without this package:

# %%
best = potentials.set_index("strategy").loc["transfer", "potential_sha256"]
phonosmith("models", "export", best[:12], work / "silicon.model")
print(work / "silicon.model", f"{(work / 'silicon.model').stat().st_size / 1000:.0f} kB")

# %% [markdown]
# **Next:** your own structure with VASP ([02](02_your_structure_with_vasp.md)), more strategies
# ([03](03_strategies_compared.md)), or the command line: `phonosmith demo`.
