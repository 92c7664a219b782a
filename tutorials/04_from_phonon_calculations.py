# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # 04 · Fine-tune from phonon calculations you already have
#
# **What you will have at the end:** a potential fine-tuned on a `phonopy.yaml` - displaced-cell forces and force
# constants - without a single new DFT calculation.
#
# Set `PHONOSMITH_PHONONS=/path/to/phonopy.yaml` and `PHONOSMITH_FOUNDATION=...` to use your own; otherwise a
# calculation with the embedded reference plays the part of DFT.

# %%
import os
import tempfile
from pathlib import Path

work = Path(tempfile.mkdtemp(prefix="phonosmith-"))
os.environ.setdefault("PHONOSMITH_HOME", str(work / "home"))

import numpy as np
import torch

torch.set_num_threads(1)

from phonosmith.evaluation.phonons.fastpath import evaluate_phonons, harmonic_from_potential
from phonosmith.harmonic.files import load_harmonic
from phonosmith.harmonic.model import to_structure
from phonosmith.potentials.registry import load

path = os.environ.get("PHONOSMITH_PHONONS")
foundation = load(os.environ.get("PHONOSMITH_FOUNDATION", "embedded"), dtype="float64")
if path is None:
    from pymatgen.io.ase import AseAtomsAdaptor

    from phonosmith.potentials.embedded import demo_structure

    cell = AseAtomsAdaptor.get_structure(demo_structure("Si")).to_conventional()
    made = harmonic_from_potential(cell, load("embedded-reference"), np.diag([2, 2, 2]).tolist())
    path = str(work / "phonopy.yaml")
    made.phonon.save(path)
truth = load_harmonic(path)
print(truth.formula, truth.space_group[0], len(truth.phonon.supercell), "atoms in the supercell")

# %% [markdown]
# The force constants answer for every small displacement: E = ½ u Φ u. A few random displacement patterns in a smaller
# supercell become labelled cells; the force constants of that supercell supervise curvature.

# %%
from phonosmith.harmonic.oracle import dataset_from_phonons

data = dataset_from_phonons(truth, min_length=7.0, n_train=6, n_valid=2, seed=0)
print(len(data.train), "training cells of", len(data.train[0]), "atoms")

# %%
from phonosmith.evaluation.phonons.comparison import compare_phonons
from phonosmith.training.finetune import fine_tune
from phonosmith.training.spec import make_spec


def compared(potential):
    """Return phonons of a potential in its own cell against the calculation's."""
    own = evaluate_phonons(
        to_structure(truth.phonon.unitcell),
        potential,
        supercell_matrix=np.array(truth.phonon.supercell_matrix).tolist(),
        mesh=6,
        fmax=1e-4,
    )
    return compare_phonons(truth, own.model, 10)


before = compared(foundation)
result = fine_tune(
    foundation,
    data.train,
    data.valid,
    make_spec("delta+pft", epochs=25, batch_size=2),
    seed=0,
    curvature=data.phonon,
)
after = compared(result.potential)
print(f"phonon MAE {before.mae_thz:.3f} -> {after.mae_thz:.3f} THz")
print(f"highest frequency {before.omega_max_error_percent:+.1f} -> {after.omega_max_error_percent:+.1f} %")
curvature = result.document.curvature
print(
    f"force constants {curvature.mae_before_ev_per_angstrom2:.4f} -> {curvature.mae_after_ev_per_angstrom2:.4f} eV/Å²"
)
assert after.mae_thz < before.mae_thz

# %% [markdown]
# On the command line:
#
# ```
# phonosmith from-phonons phonopy.yaml --out data
# phonosmith train --foundation MACE-MP-0b3 --train data/train.xyz --valid data/valid.xyz \
#     --curvature data/phonopy.yaml --strategy delta+pft --out model
# ```
#
# Harmonic labels say nothing about thermal expansion or large displacements: for those, sample and label
# ([01](01_first_fine_tuning.md)). **Next:** unstable crystals ([05](05_unstable_crystals.md)).
