# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] needs="gpaw"
# # 08 · Real DFT without a licence: GPAW
#
# **What you will have at the end:** silicon labelled with PBE in GPAW, the foundation fine-tuned on it, and its phonons
# against PBE's. Needs GPAW (`bash tools/install_gpaw.sh`); several minutes on two cores. Coarse settings: this shows the
# way, the numbers are not converged.

# %%
from pymatgen.core import Lattice, Structure
from shell import new_folder

import phonosmith as ps

work = new_folder()
silicon = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.47), ["Si"], [[0, 0, 0]])
structure = silicon.get_primitive_structure()
engine = ps.make_engine("gpaw", {"encut": 250, "kspacing": 0.5})
maker = ps.FineTuneMaterialMaker(
    engine=engine,
    strategies=("transfer",),
    sampling={"supercell_matrix": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "max_steps": 50},
    training={"epochs": 40},
    n_train=(8,),
    min_length=5.0,
    mesh=8,
)
flow = maker.make(structure, ps.resolve("embedded"))

# %%
store = ps.open_embedded_jobstore(work / "store.sqlite")
store.connect()
summary = ps.LocalRunner(store, work / "run", progress=True).run(flow)
print(
    f"{summary.done} jobs in {summary.seconds:.0f} s; failed: {[(row.name, row.error) for row in summary.failed]}"
)
assert summary.ok

# %%
for row in ps.read_results(store).potentials.itertuples():
    print(
        f"{row.strategy:12s} phonon MAE {row.phonon_mae_thz:.3f} THz against {row.reference}"
    )

# %% [markdown]
# The foundation embedded here has never seen PBE, and cells of two atoms with phonons in supercells of 5 Å settle
# nothing. With a published foundation and cells of 16 atoms the same way ends well: `phonosmith demo --real` takes
# SevenNet-0 on silicon from a phonon MAE of 1.98 to 0.037 THz with six labels, on AlAs from 0.85 to 0.026 THz; both
# potentials are fit.
#
# **Next:** converge cutoff and k-points, take a larger sampling cell, and compare with VASP
# ([02](02_your_structure_with_vasp.md)).
