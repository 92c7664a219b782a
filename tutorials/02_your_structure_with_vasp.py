# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 02 · Your own structure with MACE-MP-0b3 and VASP
#
# **What you will have at the end:** a flow for your crystal that is ready to submit, and the certainty that every VASP
# input of it can be written, run and read - rehearsed here with a stand-in for VASP, without a licence.

# %%
import gzip

from pymatgen.core import Lattice, Structure
from shell import new_folder, phonosmith

import phonosmith as ps

work = new_folder()
Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]]).to(
    filename=str(work / "Si.cif")
)
structure = ps.read_crystal(work / "Si.cif")  # your file goes here

# %% [markdown]
# Before anything is submitted: how many calculations, of how many atoms, at what cost?

# %%
phonosmith(f"plan {work}/Si.cif")

# %% [markdown]
# The estimate says it itself: for harmonic phonons alone, DFT phonons are the cheaper reference, and
# [04](04_from_phonon_calculations.md) fine-tunes from them.
#
# With VASP and the published foundation the flow would be
#
# ```python
# engine = ps.make_engine("vasp")                 # VASP_CMD and POTCARs as atomate2 finds them
# flow = ps.FineTuneMaterialMaker(engine=engine).make(structure, ps.resolve("MACE-MP-0b3"))
# ```
#
# The foundation is downloaded by name where the network allows it, or added with `phonosmith models add FILE`. Here the
# embedded foundation takes its place, and `rehearsal=True` runs the very same jobs with a program that reads the VASP
# inputs and writes VASP outputs. Rehearsed labels are marked and never mix with real ones.

# %%
engine = ps.make_engine("vasp", rehearsal=True, potential="tersoff-si")
maker = ps.FineTuneMaterialMaker(
    engine=engine,
    strategies=("delta",),
    sampling={"cell": "primitive", "max_steps": 30},
    training={"epochs": 3},
    min_length=6.0,
    mesh=6,
)
flow = maker.make(structure, ps.resolve("embedded"))

# %%
store = ps.open_embedded_jobstore(work / "store.sqlite")
store.connect()
summary = ps.LocalRunner(store, work / "run", progress=True).run(flow)
print(
    f"{summary.done} jobs done in {summary.seconds:.0f} s; failed: {[row.name for row in summary.failed]}"
)
assert summary.ok, summary.failed

# %% [markdown]
# Every VASP input that will be used is there to look at:

# %%
incar = next(path for path in sorted((work / "run").rglob("INCAR.gz")))
print(
    "beside it:",
    *sorted(path.name for path in incar.parent.glob("*.gz") if path != incar),
)
print(gzip.decompress(incar.read_bytes()).decode())

# %% [markdown]
# The report of a rehearsal holds a verdict as well. It is none on silicon: three epochs on forces that a stand-in made.
# What counts is that no label was refused.

# %%
report = store.get_output(flow.output.uuid, load=True)  # a MaterialReport
labels = report["labels"]
print(
    "rehearsal:",
    report["rehearsal"],
    "-",
    labels["train"]["n_frames"],
    "labels,",
    labels["n_excluded"],
    "excluded",
)
assert report["rehearsal"]
assert labels["n_excluded"] == 0

# %% [markdown]
# **Next:** submit it for real ([06](06_to_the_cluster.md)); an unstable crystal ([05](05_unstable_crystals.md)).
# `phonosmith doctor` tells whether VASP, POTCARs and stores are found.
