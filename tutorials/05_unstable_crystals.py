# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # 05 · Unstable crystals and their phases
#
# **What you will have at the end:** the imaginary modes of an unstable crystal, the energy along them, the phases they
# lead to - and a score that says whether a potential finds the phases the reference finds.
#
# Simple-cubic germanium with an empirical potential is our unstable crystal: 2 atoms suffice for its modes. For a real
# one put a CIF and `MACE-MP-0b3` (or `make_engine("vasp")` in a `TransitionMaker`).

# %%
import os
import tempfile
from pathlib import Path

work = Path(tempfile.mkdtemp(prefix="phonosmith-"))
os.environ.setdefault("PHONOSMITH_HOME", str(work / "home"))

import torch

torch.set_num_threads(1)

from pymatgen.core import Lattice, Structure

from phonosmith.evaluation.phonons.fastpath import evaluate_phonons
from phonosmith.potentials.registry import load

crystal = Structure(Lattice.cubic(2.8), ["Ge"], [[0, 0, 0]])
reference = load("embedded-reference")
SUPERCELL = [[4, 0, 0], [0, 4, 0], [0, 0, 4]]
phonons = evaluate_phonons(crystal, reference, supercell_matrix=SUPERCELL, mesh=8)
print(
    f"{phonons.document.space_group}: lowest frequency {phonons.document.omega_min_thz:.2f} THz (negative: imaginary)"
)

# %% [markdown]
# Which modes are imaginary, where, and how many belong together by symmetry? Each gets its smallest commensurate
# supercell.

# %%
from phonosmith.evaluation.modes.follow import FollowOptions, follow_with_potential, plan_modes

options = FollowOptions(max_atoms=8)
for mode, _ in plan_modes(phonons.model, options):
    where = mode.label or mode.q
    print(
        f"{where}: {mode.frequency_thz:.2f} THz, {mode.multiplicity} modes, {mode.n_atoms} atoms, {mode.skipped or ''}"
    )

# %% [markdown]
# Following them: energies on a grid of amplitudes (equal points by symmetry are calculated once), minima, relaxation
# from each, and the names of the phases.

# %%
found = follow_with_potential(phonons.model, reference, method="reference", options=options)
print(f"Phases of lower energy than {found.initial.space_group} ({found.n_energies} energies, {found.seconds:.0f} s):")
for phase in found.phases:
    print(
        f"  {phase.space_group}, {phase.n_atoms_primitive} atoms: {1000 * phase.energy_difference_ev_per_atom:+.0f} meV/atom"
    )
assert found.phases
assert min(phase.energy_difference_ev_per_atom for phase in found.phases) < 0

# %% [markdown]
# Does the foundation know these phases? The same function, the other potential, and precision, recall, F1 of the sets of
# (space group, atoms in the primitive cell):

# %%
foundation = load("embedded", dtype="float64")
own = evaluate_phonons(crystal, foundation, supercell_matrix=SUPERCELL, mesh=8)
candidate = follow_with_potential(own.model, foundation, method="foundation", options=options)
print("foundation finds:", [(phase.space_group, phase.n_atoms_primitive) for phase in candidate.phases] or "nothing")

# %%
from phonosmith.evaluation.modes.scores import write_phase_file

write_phase_file(work / "reference.yaml", {"Ge": found})
write_phase_file(work / "foundation.yaml", {"Ge": candidate})

import subprocess
import sys

subprocess.run(
    [
        sys.executable,
        "-m",
        "phonosmith.cli.main",
        "score-phases",
        str(work / "reference.yaml"),
        str(work / "foundation.yaml"),
    ],
    check=True,
)

# %% [markdown]
# On the command line: `phonosmith follow Ge.cif --potential MACE-MP-0b3 --out modes` writes energies, figures and the
# phases as CIF files.
#
# **Next:** the same for many crystals on a cluster ([06](06_to_the_cluster.md)).
