# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
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
import json

from pymatgen.core import Lattice, Structure
from shell import new_folder, phonosmith, picture

work = new_folder()
simple_cubic = Structure(Lattice.cubic(2.8), ["Ge"], [[0, 0, 0]])
simple_cubic.to(filename=str(work / "Ge.cif"))
print(simple_cubic)

# %% [markdown]
# One command finds the imaginary modes, where they are and how many belong together by symmetry. Each gets its smallest
# commensurate supercell and energies on a grid of amplitudes (equal points by symmetry are calculated once); from every
# minimum the crystal relaxes, and the phases it ends in are named.

# %%
follow = f"follow {work}/Ge.cif --supercell '4 4 4' --max-atoms 8"
phonosmith(f"{follow} --potential embedded-reference --out {work}/reference")

# %%
found = json.loads((work / "reference" / "transitions.json").read_text())
for mode in found["modes"]:
    where = mode["label"] or mode["q"]
    print(
        f"{where}: {mode['frequency_thz']:.2f} THz, {mode['multiplicity']} modes, {mode['skipped'] or 'followed'}"
    )
print(
    f"Phases of lower energy than {found['initial']['space_group']} ({found['n_energies']} energies):"
)
for phase in found["phases"]:
    energy = 1000 * phase["energy_difference_ev_per_atom"]
    print(
        f"  {phase['space_group']}, {phase['n_atoms_primitive']} atoms: {energy:+.0f} meV/atom"
    )
assert min(phase["energy_difference_ev_per_atom"] for phase in found["phases"]) < 0

# %% picture="Energy along the imaginary modes, with the minima the crystal relaxes from" by="phonosmith follow"
picture(work / "reference" / "modes.png")

# %% picture="Pathways from the unstable crystal to the phases it relaxes to" by="phonosmith follow"
picture(work / "reference" / "pathways.png")

# %% [markdown]
# Does the foundation know these phases? The same command, the other potential, and precision, recall, F1 of the sets of
# (space group, atoms in the primitive cell):

# %%
phonosmith(f"{follow} --potential embedded --out {work}/foundation")
documents = f"{work}/reference/transitions.json {work}/foundation/transitions.json"
phonosmith(f"score-phases {documents}")

# %% [markdown]
# It does not. In this foundation the crystal is stable: there is no imaginary mode to follow, so both phases are missed
# (recall 0, and a precision of nothing found). It learned another published potential from a few cells of this structure.
# The score is a finding, and the reason to fine-tune on labels around the unstable crystal, not around its phases.
#
# In the folders lie these figures, as SVG too, and the phases as CIF files. With a reference engine the same runs as
# jobs, one per point of a grid:
#
# ```python
# maker = ps.TransitionMaker(engine=ps.make_engine("vasp"))
# job = maker.make(phonons, "ge")  # the output of a ps.PhononFlowMaker
# ```
#
# **Next:** the same for many crystals on a cluster ([06](06_to_the_cluster.md)).
