"""A displaced cell without forces costs that displacement where the others determine the force constants."""

import os
from functools import cache

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from helpers.fixtures import vasp_standin  # noqa: F401
from phonosmith.core.errors import MismatchError
from phonosmith.evaluation.phonons.comparison import compare_phonons
from phonosmith.evaluation.phonons.fastpath import displaced_cells
from phonosmith.evaluation.phonons.jobs import PhononFlowMaker, collect_model, collect_phonons
from phonosmith.evaluation.relax import relax_atoms
from phonosmith.harmonic.displacements import displacements_and_forces
from phonosmith.harmonic.fit import still_determined
from phonosmith.harmonic.model import full_force_constants, new_phonon, to_phonopy_atoms
from phonosmith.potentials.registry import load

MATRIX = np.diag([2, 2, 1]).tolist()


@cache
def lonsdaleite():
    """Return hexagonal silicon: its sites have no symmetry that turns a displacement round, so cells come in pairs."""
    lattice = Lattice.hexagonal(3.84, 6.27)
    start = Structure.from_spacegroup("P6_3/mmc", lattice, ["Si"], [[1 / 3, 2 / 3, 0.0625]])
    return start.from_ase_atoms(relax_atoms(start.to_ase_atoms(msonable=False), load("embedded-reference")).atoms)


@pytest.fixture(scope="module")
def data():
    phonon = new_phonon(to_phonopy_atoms(lonsdaleite()), MATRIX)
    cells = displaced_cells(phonon)
    forces = [found.forces.tolist() for found in load("embedded-reference").evaluate(cells, stress=False)]
    return {"forces": forces, "displacement_number": list(range(len(forces)))}


def without(data, *lost):
    return data | {"forces": [None if place in lost else block for place, block in enumerate(data["forces"])]}


def test_one_of_a_pair_is_enough_and_said(data):
    whole = collect_model(lonsdaleite(), MATRIX, data)
    assert len(data["forces"]) == 2
    for lost in range(2):
        # the partner cancels the cubic term of the energy, which is left now: 0.030 THz here, of 18.8
        model = collect_model(lonsdaleite(), MATRIX, without(data, lost))
        assert len(model.phonon.dataset["first_atoms"]) == 1
        assert compare_phonons(whole, model, mesh=4).mae_thz < 0.05
    document = collect_phonons.original(lonsdaleite(), MATRIX, without(data, 1), mesh=4, fc_calculator="traditional")
    assert [one.what for one in document.missing] == ["displaced cell 2 of 2"]
    assert (document.n_displacements, document.fc_calculator) == (1, "symfc")
    assert collect_phonons.original(lonsdaleite(), MATRIX, data, mesh=4).missing == []


def test_linear_forces_give_the_same_force_constants_from_what_is_left(data):
    """Forces made from known force constants have no cubic term: to the precision of the fit nothing is lost."""
    whole = collect_model(lonsdaleite(), MATRIX, data)
    phonon = whole.phonon.copy()
    phonon.generate_displacements(distance=0.01)
    moved = displacements_and_forces(phonon.dataset, len(phonon.supercell))[0]
    full = full_force_constants(whole.phonon)
    forces = -np.einsum("iajb,njb->nia", full.transpose(0, 2, 1, 3), moved)
    known = {"forces": forces.tolist(), "displacement_number": [0, 1]}
    left = collect_model(lonsdaleite(), MATRIX, without(known, 0))
    assert compare_phonons(whole, left, mesh=4).mae_thz < 1e-6


def test_what_does_not_determine_them_is_refused_by_name(data):
    with pytest.raises(MismatchError, match=r"displaced cell 1, 2 of 2.* do not determine"):
        collect_model(lonsdaleite(), MATRIX, without(data, 0, 1))
    with pytest.raises(MismatchError, match="no displaced cells"):
        collect_phonons.original(lonsdaleite(), MATRIX, None)
    with pytest.raises(MismatchError, match="no Born charges and no dielectric tensor"):
        collect_phonons.original(lonsdaleite(), MATRIX, data, with_born=True)


def test_determined_is_what_rank_says():
    """The columns that force constants span, counted with numpy for a crystal small enough."""
    rock_salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    phonon = new_phonon(to_phonopy_atoms(rock_salt.get_primitive_structure()), np.diag([2, 2, 2]).tolist())
    phonon.generate_displacements(distance=0.01)
    # two atoms that no symmetry maps on each other, one displacement each: neither can be missed
    assert len(phonon.dataset["first_atoms"]) == 2
    assert [still_determined(phonon, kept) for kept in ([0], [1], [0, 1], [])] == [False, False, True, False]


LOSING = """
import hashlib, os
from pathlib import Path
from phonosmith.potentials.calculator import PotentialCalculator

class Losing(PotentialCalculator):
    '''The reference, which cannot compute the second displaced cell as long as a file says so.'''
    def calculate(self, atoms=None, *args, **kwargs):
        marks = Path(os.environ["FAULT_MARKS"])
        if (marks / "broken").exists() and len(atoms) == 16:
            here = hashlib.sha256(atoms.positions.round(5).tobytes()).hexdigest()
            known = (marks / "seen").read_text().split() if (marks / "seen").exists() else []
            known += [] if here in known else [here]
            (marks / "seen").write_text(" ".join(known))
            with (marks / "starts").open("a") as handle:
                handle.write(f"{known.index(here)} ")
            if known.index(here) == 1:
                raise RuntimeError("the program crashed")
        super().calculate(atoms, *args, **kwargs)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_displacement_lost_in_a_flow_costs_that_one_and_a_retry_brings_it_back(tmp_path, monkeypatch, vasp_standin):  # noqa: F811
    from phonosmith.engines.local.runner import LocalRunner, Slot
    from phonosmith.engines.store.sqlite import open_embedded_jobstore
    from phonosmith.evaluation.phonons.documents import PhononDoc
    from phonosmith.reference.engines import make_engine

    (tmp_path / "losing_program.py").write_text(LOSING)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("FAULT_MARKS", str(tmp_path))
    engine = make_engine("vasp", rehearsal=True, potential="embedded-reference")
    played = engine.rehearsal.model_copy(update={"calculator": "losing_program.Losing"})
    maker = PhononFlowMaker(name="phonon si reference", engine=engine.model_copy(update={"rehearsal": played}), mesh=4)
    flow = maker.make(lonsdaleite(), MATRIX)
    store = open_embedded_jobstore(tmp_path / "store.sqlite")
    store.connect()
    runner = LocalRunner(store, tmp_path / "run", slots=[Slot("cpu"), Slot("cpu")])
    (tmp_path / "broken").touch()
    first = runner.run(flow)
    assert [row.name for row in first.failed] == ["displace si reference 2/2"]
    assert "output_invalid" in first.failed[0].error
    # a second start, as a label has
    assert (tmp_path / "starts").read_text().split().count("1") == 2
    assert {one.job.name for one in first.incomplete} == {"store_inputs", "phonon si reference"}
    document = PhononDoc.model_validate(store.get_output(flow.output.uuid, load=True))
    assert [one.what for one in document.missing] == ["displaced cell 2 of 2"]
    (tmp_path / "broken").unlink()
    runner.retry()
    again = runner.run()
    assert (again.ok, again.executed) == (True, 3)
    whole = PhononDoc.model_validate(store.get_output(flow.output.uuid, load=True))
    assert (whole.missing, whole.n_displacements) == ([], 2)
    assert whole.omega_max_thz == pytest.approx(document.omega_max_thz, abs=0.2)
