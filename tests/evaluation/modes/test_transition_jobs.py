"""Mode following as jobs: a potential in one, an engine in rounds, the same phases from both."""

from functools import partial

import pytest
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore

from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.errors import ConfigurationError
from phonosmith.core.manifest import recorded
from phonosmith.evaluation.modes.documents import TransitionDoc
from phonosmith.evaluation.modes.follow import FollowOptions
from phonosmith.evaluation.modes.grid import GridOptions
from phonosmith.evaluation.modes.jobs import ModeFollowingMaker, TransitionMaker
from phonosmith.evaluation.phonons.summary import summarise_phonons
from phonosmith.potentials.registry import resolve
from phonosmith.reference.engines import make_engine

from .mode_cases import germanium, orthorhombic, stiff_springs


def stored(model):
    with recorded() as manifest:
        return summarise_phonons(model, manifest, mesh=4, temperatures=[300.0], artefacts=default_artefacts())


def finished(job, folder):
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    responses = run_locally(job, store=store, ensure_success=True, create_folders=True, root_dir=folder, log=False)
    # jobflow adds a job "store_inputs" wherever one job was replaced by several
    names = [document["name"] for document in store.query({"name": {"$ne": "store_inputs"}}, ["name"], load=False)]
    output = store.get_output(job.output.uuid, load=True)
    assert responses
    return TransitionDoc.model_validate(output), names


def bcc_options():
    # body-centred germanium: one mode at N, a double well
    return FollowOptions(threshold_thz=1.0, grid=GridOptions(points=(7, 7, 5, 5), coarse=True))


@pytest.mark.slow
def test_potential_and_engine_find_the_same(tmp_path):
    document = stored(germanium("bcc", 3.2)[0])
    ref = resolve("embedded-reference")
    straight, names = finished(
        ModeFollowingMaker(name="follow ge embedded", options=bcc_options()).make(document, ref), tmp_path
    )
    assert names == ["follow ge embedded"]
    assert straight.potential.sha256 == ref.sha256
    assert [(phase.space_group, phase.n_atoms_primitive) for phase in straight.phases] == [("Cmcm", 2)]

    engine = make_engine("forcefield", potential="embedded-reference")
    rounds, names = finished(TransitionMaker(engine=engine, options=bcc_options()).make(document, "Ge"), tmp_path)
    assert len(set(names)) == len(names)
    assert all(name == name.lower() for name in names)
    points = [name for name in names if name.startswith("mode point ge forcefield m01 r")]
    assert len(points) == rounds.n_energies == straight.n_energies
    assert {"follow ge forcefield start", "follow ge forcefield collect", "mode relax ge forcefield m01 00"} <= {*names}
    one, other = straight.modes[0], rounds.modes[0]
    assert other.energies == pytest.approx(one.energies, abs=1e-9, nan_ok=True)
    assert other.minima[0].amplitudes == pytest.approx(one.minima[0].amplitudes, rel=1e-6)
    (left,), (right,) = straight.phases, rounds.phases
    assert (left.space_group, left.n_atoms_primitive) == (right.space_group, right.n_atoms_primitive)
    # two optimisers, 5 and 0.5 meV/Å
    assert left.energy_difference_ev_per_atom == pytest.approx(right.energy_difference_ev_per_atom, abs=2e-4)
    assert rounds.potential is None
    assert rounds.method == "embedded-reference"


@pytest.mark.slow
def test_rehearsal_plays_the_whole_flow(tmp_path):
    engine = make_engine("vasp", potential="embedded-reference", rehearsal=True)
    options = FollowOptions(threshold_thz=1.0, grid=GridOptions(points=(5, 5, 5, 5), coarse=True))
    document = stored(germanium("bcc", 3.2)[0])
    found, names = finished(TransitionMaker(engine=engine, options=options, relax=False).make(document, "Ge"), tmp_path)
    (mode,) = found.modes
    assert mode.skipped is None
    assert mode.n_energies == sum(name.startswith("mode point ge vasp m01") for name in names)
    assert mode.minima[0].energy_ev_per_atom < -0.05


def test_stable_crystal_ends_at_once(tmp_path):
    document = stored(orthorhombic(stiff_springs(), supercell=(2, 2, 2))[0])
    engine = make_engine("forcefield", potential="embedded-reference")
    found, names = finished(TransitionMaker(engine=engine).make(document, "Si"), tmp_path)
    assert names == ["follow si forcefield start"]
    assert found.modes == []
    assert found.phases == []


def test_failed_points_are_walls_and_the_rest_goes_on(tmp_path, monkeypatch):
    from phonosmith.reference.documents import Reason
    from phonosmith.reference.engines import ReferenceEngine

    compute = ReferenceEngine.compute

    def sometimes(self, frame, calculation="static", name="static", *rest, **options):
        record = compute(self, frame, calculation, name, *rest, **options)
        if name.endswith("r1 002"):
            record.reasons = [Reason(code="scf", message="not converged")]
        return record

    monkeypatch.setattr(ReferenceEngine, "compute", sometimes)
    document = stored(germanium("bcc", 3.2)[0])
    engine = make_engine("forcefield", potential="embedded-reference")
    start = TransitionMaker(engine=engine, options=bcc_options(), relax=False).make(document, "Ge")
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    run_locally(start, store=store, create_folders=True, root_dir=tmp_path, log=False)
    found = TransitionDoc.model_validate(store.get_output(start.output.uuid, load=True))
    (mode,) = found.modes
    assert mode.minima
    assert mode.skipped is None
    assert [(one.what, one.reason) for one in found.missing] == [
        ("mode point ge forcefield m01 r1 002", "scf: not converged")
    ]


def test_maker_without_engine_is_refused():
    with pytest.raises(ConfigurationError, match="no engine"):
        TransitionMaker().make(None, "si")


def test_makers_survive_json():
    import json

    from monty.json import MontyDecoder, MontyEncoder

    maker = TransitionMaker(engine=make_engine("forcefield", potential="embedded-reference"))
    again = json.loads(json.dumps(maker, cls=MontyEncoder), cls=MontyDecoder)
    job = again.make({"formula": "Si"}, "Si")
    assert job.name == "follow si forcefield start"
    assert partial(ModeFollowingMaker, name="x")().make(None, None).name == "x"
