import json

import numpy as np
import pytest

from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.errors import ArtefactError, InputError
from phonosmith.potentials.calculator import PotentialCalculator
from phonosmith.potentials.container import store_model
from phonosmith.potentials.documents import PotentialRef
from phonosmith.potentials.registry import resolve

DOTTED = "phonosmith.potentials.calculator.PotentialCalculator"


@pytest.fixture
def ref(mace_bytes):
    return store_model(mace_bytes, "tiny")


def test_same_numbers_as_the_potential(ref, potential, crystal):
    atoms = crystal(0)
    atoms.calc = PotentialCalculator(ref)
    found = potential.evaluate([atoms])[0]
    assert atoms.get_potential_energy() == found.energy
    assert atoms.get_potential_energy(force_consistent=True) == found.energy
    assert np.array_equal(atoms.get_forces(), found.forces)
    assert np.array_equal(atoms.get_stress(), found.stress)
    atoms.positions[0, 0] += 0.01
    assert atoms.get_potential_energy() != found.energy


def test_molecule_has_no_stress(ref):
    from ase import Atoms
    from ase.calculators.calculator import PropertyNotImplementedError

    dimer = Atoms("Si2", positions=[[0, 0, 0], [0, 0, 2.2]], calculator=PotentialCalculator(ref.model_dump()))
    assert np.isfinite(dimer.get_potential_energy())
    with pytest.raises(PropertyNotImplementedError):
        dimer.get_stress()


def test_reference_as_json_and_precision(ref, crystal):
    calculator = PotentialCalculator(json.loads(ref.model_dump_json()), dtype="float32")
    assert calculator.ref == ref
    assert calculator.potential.dtype == "float32"
    assert calculator.parameters["potential"] == ref.sha256
    with pytest.raises(InputError, match="not a potential reference"):
        PotentialCalculator({"model": "medium"})


def test_missing_or_altered_model_is_refused_not_replaced(ref):
    path = default_artefacts().backend.path(ref.sha256)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ArtefactError, match="was altered"):
        PotentialCalculator(ref)
    path.unlink()
    with pytest.raises(ArtefactError, match="is not in"):
        PotentialCalculator(ref)


@pytest.mark.parametrize("field", ["calculator_meta", "force_field_name"])
def test_atomate2_relaxes_with_it_after_a_json_round_trip(field, tmp_path, monkeypatch):
    """The Maker crosses to a worker as JSON; the document names our calculator and has the potential's energy."""
    from ase.build import bulk
    from atomate2.forcefields.jobs import ForceFieldRelaxMaker
    from jobflow import run_locally
    from monty.json import MontyDecoder, MontyEncoder
    from pymatgen.io.ase import AseAtomsAdaptor

    from phonosmith.potentials.registry import load

    monkeypatch.chdir(tmp_path)
    ref = resolve("embedded-reference")
    meta = {"@module": "phonosmith.potentials.calculator", "@callable": "PotentialCalculator"}
    named = {"calculator_meta": DOTTED} if field == "calculator_meta" else {"force_field_name": meta}
    maker = ForceFieldRelaxMaker(
        **named,
        calculator_kwargs={"potential": ref.model_dump(mode="json")},
        relax_kwargs={"fmax": 1e-4},
        steps=50,
    )
    again = json.loads(json.dumps(maker, cls=MontyEncoder), cls=MontyDecoder)
    silicon = bulk("Si", a=5.5)
    silicon.rattle(0.02, seed=1)
    job = again.make(AseAtomsAdaptor.get_structure(silicon))
    result = run_locally(job, ensure_success=True)[job.uuid][1].output
    relaxed = AseAtomsAdaptor.get_atoms(result.structure)
    expected = load(PotentialRef.model_validate(ref)).evaluate([relaxed])[0].energy
    assert result.output.energy == pytest.approx(expected, abs=1e-8)
    assert "PotentialCalculator" in str(result.forcefield_name)
