# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 04 · Fine-tune from phonon calculations you already have
#
# **What you will have at the end:** a potential fine-tuned on a `phonopy.yaml` - displaced-cell forces and force
# constants - without a single new DFT calculation.
#
# Set `PHONOSMITH_PHONONS=/path/to/phonopy.yaml`, `PHONOSMITH_CRYSTAL=/path/to/its.cif`, `PHONOSMITH_SUPERCELL="4 4 4"`
# and `PHONOSMITH_FOUNDATION=...` to use your own; otherwise a calculation with the embedded reference plays the part
# of DFT.

# %%
import os

from shell import new_folder, phonosmith, picture

import phonosmith as ps

work = new_folder()
foundation = os.environ.get("PHONOSMITH_FOUNDATION", "embedded")
phonons = os.environ.get("PHONOSMITH_PHONONS")
crystal = os.environ.get("PHONOSMITH_CRYSTAL", work / "Si.cif")
supercell = os.environ.get("PHONOSMITH_SUPERCELL", "2 2 2")
if phonons is None:
    ps.read_crystal("embedded:Si").to_conventional().to(filename=str(crystal))
    phonosmith(
        f"phonons {crystal} --potential embedded-reference --supercell '{supercell}' --out {work}/dft"
    )
    phonons = work / "dft" / "phonopy.yaml"

# %% [markdown]
# `phonosmith tune phonopy.yaml --foundation NAME --out D` does all of what follows in one call. Step by step: the force
# constants answer for every small displacement: E = ½ u Φ u. A few random displacement patterns in a smaller supercell
# become labelled cells; the force constants of that supercell supervise curvature.

# %%
phonosmith(
    f"from-phonons {phonons} --min-length 7 --train 6 --valid 2 --out {work}/data"
)

# %%
data = work / "data"
phonosmith(f"""
    train --foundation {foundation} --train {data}/train.xyz --valid {data}/valid.xyz
    --curvature {data}/phonopy.yaml --strategy delta+pft --set epochs=25 --set batch_size=2
    --out {work}/model
""")

# %% [markdown]
# (The energies before differ by where two methods put their zero; a shift of the atomic energies takes that away.)

# %% [markdown]
# Phonons of both potentials, each in its own relaxed cell, against the calculation's:

# %%
found = {}
for name, potential in (
    ("before", foundation),
    ("after", work / "model" / "model.model"),
):
    mine = work / name
    phonosmith(
        f"phonons {crystal} --potential {potential} --supercell '{supercell}' --out {mine}"
    )
    compare = f"compare {phonons} {mine}/phonopy.yaml --mesh 10 --figure {mine}.png"
    found[name] = phonosmith(compare, answer=True)

for quantity in ("mae_thz", "omega_max_error_percent"):
    print(
        f"{quantity}: {found['before'][quantity]:+.3f} -> {found['after'][quantity]:+.3f}"
    )
assert found["after"]["mae_thz"] < found["before"]["mae_thz"] / 3

# %% picture="The foundation before: bands, parity and thermal functions against the reference" by="phonosmith compare"
picture(work / "before.png")

# %% picture="After training on its force constants: the same four comparisons" by="phonosmith compare"
picture(work / "after.png")

# %% [markdown]
# Harmonic labels say nothing about thermal expansion or large displacements: for those, sample and label
# ([01](01_first_fine_tuning.md)). **Next:** unstable crystals ([05](05_unstable_crystals.md)).
