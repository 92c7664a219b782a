# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 10 · Thermal expansion and conductivity
#
# **What you will have at the end:** thermal expansion, bulk modulus, heat capacity and Grüneisen parameter of a crystal
# between two temperatures, its lattice thermal conductivity, and how wrong a potential's conductivity is, mode by mode.
#
# The embedded foundation is judged here, the embedded reference plays DFT. Conductivities need `pip install
# 'phonosmith[kappa]'`. Set `PHONOSMITH_CRYSTAL`, `PHONOSMITH_POTENTIAL` and `PHONOSMITH_REFERENCE` for your own.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
from shell import new_folder, phonosmith

import phonosmith as ps

work = new_folder()
potential = os.environ.get("PHONOSMITH_POTENTIAL", "embedded")
reference = os.environ.get("PHONOSMITH_REFERENCE", "embedded-reference")
crystal = os.environ.get("PHONOSMITH_CRYSTAL")
if crystal is None:
    crystal = work / "Si.cif"
    ps.read_crystal("embedded:Si").to(filename=str(crystal))

# %% [markdown]
# A crystal first comes to rest in the potential that will be asked: `relax` refuses a result that did not.

# %%
cells = {}
for name in (reference, potential):
    cells[name] = work / f"relaxed-{Path(name).stem}.cif"
    phonosmith(f"relax {crystal} --potential {name} --out {cells[name]}")

# %% [markdown]
# Quasi-harmonic: phonons at six volumes, free energies minimised at each temperature, zero pressure.

# %%
expansion = {}
for name, cell in cells.items():
    found = phonosmith(
        f"qha {cell} --potential {name} --supercell '2 2 2' --mesh 8 --temperatures 50,100,150,200,250,300,400,500",
        answer=True,
    )
    expansion[name] = {
        point["temperature"]: 1e6 * point["thermal_expansion_per_k"]
        for point in found["temperatures"]
    }
    print(
        f"{name:20}",
        *(f"{expansion[name][kelvin]:7.2f}" for kelvin in (100, 300, 500)),
        "10⁻⁶/K at 100, 300, 500 K",
    )
    print(
        f"{'':20} mode Grüneisen parameter {found['mode_gruneisen']['mean']:.2f}, left out: {found['left_out']}"
    )

# expansion follows the heat capacity: it grows with temperature
assert all(values[100] < values[500] for values in expansion.values())

# %% picture="Thermal expansion of silicon by the foundation and by the reference" by="phonosmith qha"
axes = plt.figure(figsize=(6.0, 3.2)).subplots()
for name, values in expansion.items():
    style = (
        {"color": "black"} if name == reference else {"color": "C1", "linestyle": "--"}
    )
    axes.plot(list(values), list(values.values()), label=name, **style)
axes.axhline(0, color="0.7", linewidth=0.6)
axes.set(xlabel="temperature (K)", ylabel="volumetric expansion (10⁻⁶/K)")
axes.legend(frameon=False)
plt.tight_layout()
plt.show()

# %% [markdown]
# Supercell and mesh are small here so that this ends within a minute: converge both for a number to publish.
#
# κ needs third-order forces: 111 displaced cells of silicon. `--against` takes a phono3py file with forces, as VASP
# users have it, and gives SRME: the error summed over modes, 0 to 2. Errors of single modes cancel in κ itself, not there.

# %%
atoms = ps.read_crystal(cells[reference]).to_ase_atoms(msonable=False)
dft = ps.third_order_phonon(
    atoms, ps.load(ps.resolve(reference)), [[2, 0, 0], [0, 2, 0], [0, 0, 2]]
)
dft.save(work / "phono3py_params.yaml", settings={"force_constants": False})

judged = phonosmith(
    f"kappa {cells[potential]} --potential {potential} --against {work}/phono3py_params.yaml --mesh 7",
    answer=True,
)
print(
    f"κ {judged['kappa_w_per_m_k']:.1f} W/(m K), reference {judged['reference_kappa_w_per_m_k']:.1f}"
)
print(f"SRE {judged['sre']:+.3f}, SRME {judged['srme']:.3f}")
assert abs(judged["sre"]) <= judged["srme"] <= 2

# %% [markdown]
# In a campaign `evaluate: [qha, kappa]` computes both for the reference as well - with VASP one job for each displaced
# cell; `phonosmith plan --evaluate qha --evaluate kappa` and `run --dry-run` count them first - and SRME stands in
# tables and report.
#
# Cubic SnTe, GeTe and their like have no quasi-harmonic properties: their phonons are imaginary without thermal motion.
# For them `phonosmith phonons --temperature 300` gives effective ones.
#
# **Next:** polar crystals ([11](11_polar_crystals.md)).
