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
import matplotlib.pyplot as plt
from shell import new_folder

import phonosmith as ps

work = new_folder()

# %% [markdown]
# Each strategy is a preset over the same axes; `make_spec` shows every setting, and what impossible ones are.

# %%
strategies = ("scratch", "transfer", "freeze1", "delta", "lora")
for strategy in strategies:
    spec = ps.make_spec(strategy, epochs=15)
    differs = {
        name: value for name, value in spec if value != getattr(ps.TrainSpec(), name)
    }
    print(strategy, differs)

# %% [markdown]
# `ps.tune` ([01](01_first_fine_tuning.md)) stands on a Maker, which takes any number of strategies. Sampling (rattled,
# strained cells at five volumes, relaxed with the foundation; snapshots equally spaced in energy), labels and reference
# phonons are made once and shared by all of them. The flow is an ordinary jobflow flow; the local runner keeps its
# workers alive, and the same cell run again continues where it was interrupted.

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
print(
    len(list(flow.iterflow())),
    "jobs:",
    ", ".join(job.name for job, _ in list(flow.iterflow())[:4]),
    "...",
)
store = ps.open_embedded_jobstore(work / "store.sqlite")
store.connect()
summary = ps.LocalRunner(store, work / "run", progress=True).run(flow)
assert summary.ok, summary.failed

# %% [markdown]
# Every result is in the store; `read_results` makes pandas frames of it, one row per potential.

# %%
potentials = ps.read_results(store).potentials
columns = [
    "strategy",
    "valid_force_mae_mev_per_angstrom",
    "phonon_mae_thz",
    "n_changed",
    "training_seconds",
    "fit",
]
print(potentials[columns].round(3).to_string(index=False))
assert len(potentials) == 6

# %% picture="Phonon error of five strategies after the same few epochs" by="ps.read_results"
errors = potentials.set_index("strategy")["phonon_mae_thz"].sort_values()
axes = errors.plot.barh(
    color=["0.6" if name == "foundation" else "C0" for name in errors.index],
    figsize=(6.6, 2.6),
)
axes.axvline(0.1, color="black", linestyle="--", linewidth=0.8)
axes.set(xlabel="phonon MAE (THz); dashed: the verdict's limit", ylabel="")
plt.tight_layout()
plt.show()

# %% [markdown]
# **Why none is fit:** fifteen epochs are enough to see the directions, not to arrive. Four of five halve the foundation's
# error of 0.49 THz and stay above the limit of 0.10 THz; with fifty epochs and sixteen labels `transfer` passes it
# ([01](01_first_fine_tuning.md)). `scratch` starts from random weights, knows nothing but ten cells, and is worse than
# the foundation it throws away: what fine-tuning is for.

# %%
assert (
    errors[["transfer", "freeze1", "delta", "lora"]].max()
    < errors["foundation"]
    < errors["scratch"]
)

# %% [markdown]
# Read the order among the four with care: one crystal, one seed, few epochs, a toy foundation. It is not a result;
# `benchmarks/studies` holds the measured comparisons, with their limits.
#
# **Next:** force constants as training data ([04](04_from_phonon_calculations.md)).
