# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # 03 · Strategies compared
#
# **What you will have at the end:** one labelled data set, five ways to fine-tune on it, and a table that says what each
# did to forces, phonons and weights.

# %%
import os
import tempfile
from pathlib import Path

work = Path(tempfile.mkdtemp(prefix="phonosmith-"))
os.environ.setdefault("PHONOSMITH_HOME", str(work / "home"))

import torch

torch.set_num_threads(1)

from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.potentials.embedded import demo_structure
from phonosmith.potentials.registry import load
from phonosmith.sampling.documents import SamplingSettings
from phonosmith.sampling.protocol import sample_configurations
from phonosmith.structures.labels import label_frame

structure = AseAtomsAdaptor.get_structure(demo_structure("Si"))
foundation, reference = load("embedded", dtype="float64"), load("embedded-reference")

# %% [markdown]
# Sampling: rattled, strained cells at five volumes, relaxed with the foundation; snapshots equally spaced in energy.

# %%
sampled = sample_configurations(structure, foundation, SamplingSettings(cell="small", max_steps=100), 0)


def labelled(frames):
    """Label configurations with the reference potential."""
    return [
        label_frame(atoms, energy=found.energy, forces=found.forces, stress=found.stress)
        for atoms, found in zip(frames, reference.evaluate(frames), strict=True)
    ]


train, valid = labelled(sampled.train), labelled(sampled.valid)
print(len(train), "training and", len(valid), "validation cells of", len(train[0]), "atoms")

# %% [markdown]
# Each strategy is a preset over the same axes; `make_spec` shows every setting.

# %%
from phonosmith.evaluation.phonons.comparison import compare_phonons
from phonosmith.evaluation.phonons.fastpath import evaluate_phonons
from phonosmith.potentials.mace.potential import MacePotential
from phonosmith.training.finetune import fine_tune
from phonosmith.training.spec import make_spec

SUPERCELL = [[2, 0, 0], [0, 2, 0], [0, 0, 2]]
conventional = structure.to_conventional()
truth = evaluate_phonons(conventional, reference, supercell_matrix=SUPERCELL, mesh=6).model


def phonon_mae(potential):
    """Return the phonon MAE against the reference, each in its own relaxed cell, THz."""
    own = evaluate_phonons(conventional, potential, supercell_matrix=SUPERCELL, mesh=6).model
    return compare_phonons(truth, own, 8).mae_thz


rows = {"foundation": (None, phonon_mae(foundation), 0)}
for strategy in ("scratch", "transfer", "freeze1", "delta", "lora"):
    result = fine_tune(foundation, train, valid, make_spec(strategy, epochs=15), seed=0)
    document = result.document
    forces = document.metrics["valid"].after.mae_forces_mev_per_angstrom
    rows[strategy] = (forces, phonon_mae(MacePotential(result.model)), document.n_changed)

print(f"{'strategy':12s} {'forces meV/Å':>13s} {'phonons THz':>12s} {'changed':>8s}")
for name, (forces, phonons, changed) in rows.items():
    print(f"{name:12s} {'-' if forces is None else f'{forces:.1f}':>13s} {phonons:12.3f} {changed:8d}")

# %% [markdown]
# Read it with care: one crystal, one seed, few epochs, a toy foundation. The order of the strategies in this table is
# not a result; `benchmarks/studies` holds the measured comparisons, with their limits.
#
# **Next:** force constants as training data ([04](04_from_phonon_calculations.md)).
