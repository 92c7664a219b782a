# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # 01 · A first fine-tuning
#
# **What you will have at the end:** a foundation potential fine-tuned for silicon, its phonons beside those of the
# reference, and a verdict - in about two minutes on a laptop, with nothing but this package. A small embedded MACE model
# is the foundation; another published potential plays DFT.

# %%
import os
import tempfile
from pathlib import Path

work = Path(tempfile.mkdtemp(prefix="phonosmith-"))
os.environ.setdefault("PHONOSMITH_HOME", str(work / "home"))

from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.potentials.embedded import demo_structure
from phonosmith.potentials.registry import resolve

structure = AseAtomsAdaptor.get_structure(demo_structure("Si"))
foundation = resolve("embedded")
print(structure.composition.reduced_formula, "-", foundation.name, "knows", ", ".join(foundation.elements))

# %% [markdown]
# One Maker builds the whole flow: sampling with the foundation, labels, audit, one training per strategy, phonons of the
# reference and of every potential, verdicts. The settings below are small so that it is quick; the defaults are the
# published protocol.

# %%
from phonosmith.flows.material import FineTuneMaterialMaker
from phonosmith.reference.engines import make_engine

maker = FineTuneMaterialMaker(
    engine=make_engine("forcefield", potential="embedded-reference"),
    strategies=("transfer", "delta"),
    sampling={"cell": "primitive"},
    training={"epochs": 30},
    min_length=8.0,
    mesh=10,
)
flow = maker.make(structure, foundation)
print(len(list(flow.iterflow())), "jobs:", ", ".join(job.name for job, _ in list(flow.iterflow())[:4]), "...")

# %% [markdown]
# The local runner keeps its workers alive and can be interrupted: run the same cell again and it continues.

# %%
from phonosmith.engines.local.runner import LocalRunner
from phonosmith.engines.store.sqlite import open_embedded_jobstore

store = open_embedded_jobstore(work / "store.sqlite")
store.connect()
summary = LocalRunner(store, work / "run", progress=True).run(flow)
print(f"{summary.done} jobs done in {summary.seconds:.0f} s; failed: {[row.name for row in summary.failed]}")

# %% [markdown]
# The report is one document in the store, here turned into a typed object.

# %%
from phonosmith.analysis.documents import MaterialReport
from phonosmith.flows.jobs import read_document

report = read_document(MaterialReport, store.get_output(flow.output.uuid, load=True))
for entry in [report.foundation, *report.strategies]:
    verdict = "fit" if entry.verdict.fit else "not fit: " + "; ".join(entry.verdict.reasons)
    print(f"{entry.strategy:12s} phonon MAE {entry.phonons.mae_thz:.3f} THz  {verdict}")
assert report.strategies[0].phonons.mae_thz < report.foundation.phonons.mae_thz

# %% [markdown]
# Bands of the reference and of the best potential:

# %%
from phonosmith.core.artefacts import default_artefacts
from phonosmith.evaluation.phonons.comparison import compare_phonons_in_full
from phonosmith.harmonic.model import unpack_force_constants
from phonosmith.report.figures.phonons import bands_figure, save_figure


def model(summary):
    return unpack_force_constants(default_artefacts().get_bytes(summary.force_constants.sha256))


best = report.strategies[0]
found = compare_phonons_in_full(model(report.reference_result.phonons), model(best.summary), 10)
print(save_figure(bands_figure(found, ("reference", best.strategy)), work / "bands.png"))

# %% [markdown]
# The model is a plain MACE file that works without this package:

# %%
from phonosmith.potentials.registry import export_plain

export_plain(best.potential, work / "silicon.model")
print(work / "silicon.model", f"{(work / 'silicon.model').stat().st_size / 1000:.0f} kB")

# %% [markdown]
# **Next:** your own structure with VASP ([02](02_your_structure_with_vasp.md)), more strategies
# ([03](03_strategies_compared.md)), or the command line: `phonosmith demo`.
