# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 07 · Query the store and build a report
#
# **What you will have at the end:** a small campaign run on this machine, its numbers as a pandas frame, its tables
# beside the published ones, and one HTML file to send around.

# %%
import matplotlib.pyplot as plt
from shell import new_folder, phonosmith

work = new_folder()
(work / "campaign.yaml").write_text("""\
name: small
materials:
  - structure: embedded:Si
    name: si
foundations: [embedded]
strategies: [transfer]
n_train: [4, 8, 16]
cells: [small]
engine:
  name: forcefield
  potential: embedded-reference
evaluate: [phonons]
training:
  epochs: 60
min_length: 8.0
mesh: 8
""")
phonosmith(f"run {work}/campaign.yaml --out {work}/small")

# %% [markdown]
# Everything below reads the store alone. It works while a campaign is still running, and with `--jobflow` on the
# MongoDB of a cluster.

# %%
phonosmith(f"status --store {work}/small/store.sqlite")

# %%
import phonosmith as ps

results = ps.read_results(ps.open_embedded_jobstore(work / "small" / "store.sqlite"))
columns = [
    "material",
    "strategy",
    "n_train",
    "valid_force_mae_mev_per_angstrom",
    "phonon_mae_thz",
    "fit",
]
print(
    results.potentials[columns]
    .sort_values("phonon_mae_thz")
    .round(3)
    .to_string(index=False)
)
assert len(results.potentials) == 4

# %% [markdown]
# The frame is ordinary pandas. How many labels are enough?

# %% picture="Learning curve of a campaign: errors of forces and phonons against the number of labels" by="ps.read_results"
tuned = results.potentials.query("strategy == 'transfer'").sort_values("n_train")
foundation = results.potentials.query("strategy == 'foundation'").iloc[0]
left, right = plt.figure(figsize=(7.0, 3.0)).subplots(1, 2)
for axes, column, words in (
    (left, "valid_force_mae_mev_per_angstrom", "force MAE, held-out cells (meV/Å)"),
    (right, "phonon_mae_thz", "phonon MAE (THz)"),
):
    axes.plot(tuned["n_train"], tuned[column], "o-", label="transfer")
    axes.axhline(foundation[column], color="0.5", label="foundation")
    axes.set(xlabel="labels", ylabel=words, xticks=tuned["n_train"], ylim=(0, None))
right.axhline(
    0.1, color="black", linestyle="--", linewidth=0.8, label="limit of the verdict"
)
right.legend(frameon=False)
plt.tight_layout()
plt.show()

# %%
fit = tuned[tuned["fit"]]
print(
    f"fit: {', '.join(f'{row.strategy} with {row.n_train} labels' for row in fit.itertuples()) or 'none'}"
)
assert (
    tuned["phonon_mae_thz"].iloc[-1]
    < tuned["phonon_mae_thz"].iloc[0]
    < foundation["phonon_mae_thz"]
)

# %% [markdown]
# Twice as many labels bring less each time. When this was written, four labels ended at 0.152 THz, eight at 0.101 and
# sixteen at 0.098: fit, by a hair, with one seed, and another processor's last bits may decide otherwise. A verdict so
# close to its limit asks for `seeds: [0, 1, 2]` in the campaign, which show the spread.
#
# Tables with medians over materials (here there is one), beside the published numbers, and the page:

# %%
phonosmith(f"tables --store {work}/small/store.sqlite --out {work}/tables")
print(*sorted(path.name for path in (work / "tables").iterdir()))

# %%
page = work / "report.html"
phonosmith(f"report --store {work}/small/store.sqlite --out {page}")
print(f"{page.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# **Next:** raw MongoDB queries for your own tools are in [queries](../queries.md); a real reference without a licence in
# [08](08_gpaw.md).
