# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
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

import phonosmith as ps

# %% [markdown]
# Each strategy is a preset over the same axes; `make_spec` shows every setting, and what impossible ones are.

# %%
strategies = ("scratch", "transfer", "freeze1", "delta", "lora")
for strategy in strategies:
    spec = ps.make_spec(strategy, epochs=15)
    differs = {name: value for name, value in spec if value != getattr(ps.TrainSpec(), name)}
    print(strategy, differs)

# %% [markdown]
# Sampling (rattled, strained cells at five volumes, relaxed with the foundation; snapshots equally spaced in energy),
# labels and reference phonons are made once and shared by all strategies.

# %%
maker = ps.FineTuneMaterialMaker(
    engine=ps.make_engine("forcefield", potential="embedded-reference"),
    strategies=strategies,
    sampling={"cell": "small", "max_steps": 100},
    training={"epochs": 15},
    evaluate=("phonons",),
    min_length=8.0,
    mesh=8,
)
flow = maker.make(ps.read_crystal("embedded:Si"), ps.resolve("embedded"))
store = ps.open_embedded_jobstore(work / "store.sqlite")
store.connect()
summary = ps.LocalRunner(store, work / "run", progress=True).run(flow)
assert summary.ok, summary.failed

# %%
potentials = ps.read_results(store).potentials
columns = ["strategy", "valid_force_mae_mev_per_angstrom", "phonon_mae_thz", "n_changed", "training_seconds"]
print(potentials[columns].round(3).to_string(index=False))
assert len(potentials) == 6

# %% [markdown]
# Read it with care: one crystal, one seed, few epochs, a toy foundation. The order of the strategies in this table is
# not a result; `benchmarks/studies` holds the measured comparisons, with their limits.
#
# **Next:** force constants as training data ([04](04_from_phonon_calculations.md)).
