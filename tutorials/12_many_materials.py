# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 12 · One model for many materials, and out with it
#
# **What you will have at the end:** a foundation taught the force constants of a folder of materials (phonon
# fine-tuning), judged by one it has not seen, with a model card, and as a file for LAMMPS.
#
# The folder holds one subfolder or phonopy YAML for each material, as the MDR phonon database gives them.
# Here the embedded reference makes three; set `PHONOSMITH_MATERIALS` and `PHONOSMITH_FOUNDATION` for your own.

# %%
import os

import matplotlib.pyplot as plt
import pandas as pd
from shell import new_folder, phonosmith

import phonosmith as ps

work = new_folder()
foundation = os.environ.get("PHONOSMITH_FOUNDATION", "embedded")
folder = os.environ.get("PHONOSMITH_MATERIALS")
if folder is None:
    folder = work / "materials"
    folder.mkdir()
    for name in ("Si", "Ge", "SiC"):
        ps.read_crystal(f"embedded:{name}").to(filename=str(work / f"{name}.cif"))
        cells = "--supercell '2 2 2' --mesh 4"
        phonosmith(
            f"phonons {work}/{name}.cif --potential embedded-reference {cells} --out {work}/{name}"
        )
        (work / name / "phonopy.yaml").rename(folder / f"{name}.yaml")

# %% [markdown]
# Between two steps on force constants the model sees structures of its own training set, so that it forgets nothing
# (`--replay`). `phonosmith replay fetch mptrj --out mptrj.xyz` downloads such a set where there is a network, `replay
# sample` draws from it. Without a file the foundation labels simple crystals itself, and says so. Here displaced cells
# that the foundation labels stand for the set:

# %%
from ase.build import bulk
from ase.io import write

cells = [
    bulk(*crystal, cubic=True)
    for crystal in (("Si", "diamond", 5.43), ("SiC", "zincblende", 4.36))
    for _ in range(6)
]
for number, cell in enumerate(cells):
    cell.rattle(0.08, seed=number)
write(work / "cells.xyz", cells, format="extxyz")
labelled = work / "labelled.xyz"
phonosmith(
    f"label {work}/cells.xyz --engine forcefield --potential {foundation} --out {labelled}"
)
drawn = phonosmith(
    f"replay sample {labelled} --size 8 --elements Si,C --out {work}/few.xyz",
    answer=True,
)
assert drawn["n_frames"] == 8

# %% [markdown]
# A third of the materials is held out and judges the epochs. A real training takes thousands of steps; this one ends
# within a minute.

# %%
taught = phonosmith(
    f"""
    pft {folder} --foundation {foundation} --replay {work}/few.xyz --holdout 0.34
    --set epochs=12 --set lr=0.002 --out {work}/pft
    """,
    answer=True,
)
before, after = (
    taught["curvature"][f"judged_{when}_ev_per_angstrom2"]
    for when in ("before", "after")
)
print(f"held out: {', '.join(taught['materials']['held_out'])}")
print(f"error of force constants that judged {before:.4f} -> {after:.4f} eV/Å²")
assert after < before

# %% picture="Error of force constants while one model learns those of several materials" by="phonosmith pft"
epochs = pd.read_json(work / "pft" / "metrics.jsonl", lines=True)
axes = plt.figure(figsize=(6.0, 3.0)).subplots()
axes.plot(
    epochs["epoch"],
    epochs["curvature_mae_ev_per_angstrom2"],
    "o-",
    label="columns trained on in the epoch",
)
axes.plot(
    [0, epochs["epoch"].max()],
    [before, after],
    "ks",
    label="held-out materials, before and after",
)
axes.set(xlabel="epoch", ylabel="error of force constants (eV/Å²)", ylim=(0, None))
axes.legend(frameon=False)
plt.tight_layout()
plt.show()

# %% [markdown]
# The model gets a name; its card says in Markdown what it was made of, and what it is good for as far as it is known.

# %%
phonosmith(f"models add {work}/pft/model.model --name taught")
phonosmith(
    f"models card taught --training {work}/pft/training.json --out {work}/card.md"
)
print((work / "card.md").read_text())

# %% [markdown]
# For LAMMPS' `pair_style mace` (`--mliap` for `pair_style mliap unified` on GPUs):

# %%
phonosmith(f"models export taught {work}/taught-lammps.pt --lammps")
print(f"{(work / 'taught-lammps.pt').stat().st_size / 1e6:.1f} MB for LAMMPS")

# %% [markdown]
# **Next:** from one machine to a cluster ([06](06_to_the_cluster.md)).
