# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # 08 · Real DFT without a licence: GPAW
#
# **What you will have at the end:** silicon labelled with PBE in GPAW, the foundation fine-tuned on it, and its phonons
# against PBE's. Needs GPAW (`bash tools/install_gpaw.sh`); several minutes on two cores. Coarse settings: this shows the
# way, the numbers are not converged.

# %%
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

if importlib.util.find_spec("gpaw") is None:
    print("GPAW is not installed: bash tools/install_gpaw.sh")
    sys.exit(0)

work = Path(tempfile.mkdtemp(prefix="phonosmith-"))
os.environ.setdefault("PHONOSMITH_HOME", str(work / "home"))

from ase.build import bulk
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.engines.local.runner import LocalRunner
from phonosmith.engines.store.sqlite import open_embedded_jobstore
from phonosmith.flows.material import FineTuneMaterialMaker
from phonosmith.potentials.registry import resolve
from phonosmith.reference.engines import make_engine
from phonosmith.reference.protocol import ReferenceProtocol

structure = AseAtomsAdaptor.get_structure(bulk("Si", "diamond", a=5.47))
engine = make_engine("gpaw", ReferenceProtocol(encut=250, kspacing=0.5))
maker = FineTuneMaterialMaker(
    engine=engine,
    strategies=("transfer",),
    sampling={"supercell_matrix": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "max_steps": 50},
    training={"epochs": 40},
    n_train=(8,),
    min_length=5.0,
    mesh=8,
)
flow = maker.make(structure, resolve("embedded"))

# %%
store = open_embedded_jobstore(work / "store.sqlite")
store.connect()
summary = LocalRunner(store, work / "run", progress=True).run(flow)
print(f"{summary.done} jobs in {summary.seconds:.0f} s; failed: {[(row.name, row.error) for row in summary.failed]}")
assert summary.ok

# %%
from phonosmith.analysis.documents import MaterialReport
from phonosmith.flows.jobs import read_document

report = read_document(MaterialReport, store.get_output(flow.output.uuid, load=True))
for entry in [report.foundation, *report.strategies]:
    print(f"{entry.strategy:12s} phonon MAE {entry.phonons.mae_thz:.3f} THz against {report.reference}")

# %% [markdown]
# **Next:** converge cutoff and k-points, take a larger sampling cell, and compare with VASP.
