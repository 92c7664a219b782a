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
# reference, and a verdict with its reasons - in a minute or two on a laptop, with nothing but this package. A small
# embedded MACE model is the foundation; another published potential plays DFT.

# %%
from shell import new_folder

import phonosmith as ps

work = new_folder()
structure = ps.read_crystal("embedded:Si")  # or the path of your CIF or POSCAR
foundation = ps.resolve("embedded")
print(
    structure.composition.reduced_formula,
    "-",
    foundation.name,
    "knows",
    ", ".join(foundation.elements),
)

# %% [markdown]
# One call plans, says what it costs and does everything: the crystal comes to rest; cells around it are sampled with the
# foundation; the reference labels them; the labels are audited; the foundation is trained on them; phonons of the
# reference, the foundation and the new potential are compared. Interrupted, the same call goes on; called again, it
# costs nothing. What is set here makes it quick (cells of 16 atoms, 50 epochs); `budget="paper"` is the published
# protocol.

# %%
study = ps.tune(
    structure,
    foundation=foundation,
    reference="embedded-reference",
    strategy="transfer",
    n_train=(16,),
    sampling={
        "supercell_matrix": [[2, 0, 0], [0, 2, 0], [0, 0, 2]],
        "volume_of": "supercell",
        "energy_tolerance": 1.0,
    },
    training={"epochs": 50},
    out=work / "silicon",
)

# %% [markdown]
# A study shows itself in a notebook: the verdict, the numbers it rests on beside their limits, and the bands.

# %% picture="Phonon bands before and after fine-tuning, against the reference" by="ps.Study.plot_bands"
study

# %%
print(study.words())
before, after = study.table["phonon_mae_thz"]
print(
    f"phonon MAE {before:.3f} -> {after:.3f} THz with {study.table['n_train'].max()} labels"
)
assert after < before / 3

# %% [markdown]
# *Fit* takes all of it: a phonon MAE below 0.1 THz, highest frequency within 3 %, heat capacity and entropy at 300 K
# within 2 %, the same space group and the same stability as the reference, and an error smaller than the foundation's
# ([definitions](../numbers.md)). One sentence says what each failed condition was: with ten labels, or fifteen epochs
# as in [03](03_strategies_compared.md), the phonon MAE stays between 0.1 and 0.2 THz and the verdict is *not fit*.
# Every frequency of the mesh against the reference's:

# %% picture="Frequencies of the fine-tuned potential against the reference's" by="ps.Study.plot_parity"
study.plot_parity()

# %% [markdown]
# Everything else is on one page for your browser, and the model is a plain MACE file that works without this package.
# It is an ASE calculator, too:

# %%
print(study.report())
print(study.best.save(work / "silicon.model"))
atoms = structure.to_ase_atoms()
atoms.calc = study.best.calculator()
print(f"{atoms.get_potential_energy() / len(atoms):.3f} eV/atom")

# %% [markdown]
# The same from a terminal: `phonosmith tune POSCAR --foundation MACE-MP-0b3 --reference vasp --out D --open`.
#
# **Next:** your own structure with VASP ([02](02_your_structure_with_vasp.md)), more strategies
# ([03](03_strategies_compared.md)), or phonons you already have ([04](04_from_phonon_calculations.md)).
