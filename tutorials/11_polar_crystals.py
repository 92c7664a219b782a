# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 11 · Polar crystals: LO-TO splitting
#
# **What you will have at the end:** phonons with the non-analytic term, from Born charges in a file, on both sides of a
# comparison.
#
# A potential without charges cannot know the electric field that lifts the longitudinal optical modes. What lifts them
# is a property of the electrons: Born charges Z* and the dielectric constant ε, from DFT (in a campaign: `nac: true`).
# Silicon carbide serves here, with Z* = ±2.69 and ε = 6.52 from the literature.

# %%
import numpy as np
import phonopy
from shell import new_folder, phonosmith, picture

import phonosmith as ps

work = new_folder()
crystal, born = work / "SiC.cif", work / "BORN"
ps.read_crystal("embedded:SiC").to(filename=str(crystal))
# phonopy's file: unit, dielectric tensor, then the charge of each atom that symmetry does not relate to another
tensor = "{0} 0 0 0 {0} 0 0 0 {0}".format
first = 2.69 if ps.read_crystal(crystal)[0].specie.symbol == "Si" else -2.69
born.write_text(f"14.399652\n{tensor(6.52)}\n{tensor(first)}\n{tensor(-first)}\n")

# %%
found = {}
for name in ("embedded-reference", "embedded"):
    cells = "--supercell '2 2 2' --mesh 8"
    found[name] = phonosmith(
        f"phonons {crystal} --potential {name} {cells} --born {born} --out {work}/{name}",
        answer=True,
    )
    print(f"{name:20} LO-TO splitting {found[name]['lo_to_splitting_thz']:.2f} THz")

# %% [markdown]
# Whatever the potential, LO² - TO² at Γ is e²Z*²/(ε₀ ε V μ): only charges, volume and reduced mass. That is a check of
# units and conventions that needs no second program. (Experiment: 29.2 and 23.9 THz.)

# %%
volume = found["embedded-reference"]["volume"]
reduced = 28.085 * 12.011 / (28.085 + 12.011)
# 4π × 14.399652 eV Å is e²/ε₀; √(eV/(Å² u)) is 15.633302 THz times 2π
expected = 15.633302**2 * 4 * np.pi * 14.399652 * 2.69**2 / (6.52 * volume * reduced)
phonon = phonopy.load(
    work / "embedded-reference" / "phonopy.yaml", born_filename=None, log_level=0
)
phonon.run_qpoints([[0, 0, 0]], nac_q_direction=[1, 0, 0])
modes = np.sort(phonon.qpoints.frequencies[0])[3:]
splitting = modes[-1] ** 2 - modes[0] ** 2
print(
    f"TO {modes[0]:.2f}, LO {modes[-1]:.2f} THz: LO² - TO² = {splitting:.1f} THz², formula {expected:.1f}"
)
assert abs(splitting - expected) < 0.01 * expected

# %% [markdown]
# `compare --nac` gives the candidate the reference's charges, so that only the potential is judged:

# %%
compare = f"compare {work}/embedded-reference/phonopy.yaml {work}/embedded/phonopy.yaml --mesh 8"
plain = phonosmith(compare, answer=True)
charged = phonosmith(f"{compare} --nac --figure {work}/bands.png", answer=True)
print(
    f"phonon MAE {plain['mae_thz']:.3f} THz without, {charged['mae_thz']:.3f} THz with the non-analytic term"
)

# %% picture="A polar crystal with the non-analytic term on both sides: LO and TO branches part at Γ" by="phonosmith compare"
picture(work / "bands.png")

# %% [markdown]
# **Next:** one model for many materials, and out of phonosmith with it ([12](12_many_materials.md)).
