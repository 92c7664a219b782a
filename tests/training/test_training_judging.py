"""Everything is computed once: neighbour lists, and what foundation and result say about each set."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from phonosmith.potentials.mace.backend import MaceBackend
from phonosmith.potentials.mace.potential import MacePotential
from phonosmith.structures.labels import label_frame
from phonosmith.training.assemble import Groundwork, assemble
from phonosmith.training.finetune import fine_tune
from phonosmith.training.graphs import in_batches, relative_to
from phonosmith.training.judging import force_parity, predicted
from phonosmith.training.losses import errors
from phonosmith.training.spec import make_spec

BACKEND = MaceBackend()


@pytest.fixture
def counted(monkeypatch):
    """Count searches of neighbours, and predictions outside training steps by model size and set of energies."""
    from phonosmith.potentials import graphs
    from phonosmith.training import assemble as assembling
    from phonosmith.training import finetune as tuning
    from phonosmith.training import judging

    neighbours, predictions = Counter(), Counter()
    search, once, judge = graphs.neighbours, MaceBackend.predict, judging.predicted

    def searched(atoms, cutoff):
        neighbours[atoms.positions.tobytes(), cutoff] += 1
        return search(atoms, cutoff)

    def judged(backend, model, graphs_, head=0):
        weights = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy().tobytes()
        predictions[weights, tuple(one.positions.tobytes() for one in graphs_)] += 1
        return judge(backend, model, graphs_, head)

    precise = []

    def predict(self, model, batch, **how):
        # a training here is in float32: what is judged is the rest
        if batch["positions"].dtype == torch.float64:
            precise.append(len(batch["ptr"]) - 1)
        return once(self, model, batch, **how)

    monkeypatch.setattr(graphs, "neighbours", searched)
    monkeypatch.setattr(MaceBackend, "predict", predict)
    for module in (judging, assembling, tuning):
        monkeypatch.setattr(module, "predicted", judged)
    return neighbours, predictions, precise


def test_each_neighbour_list_and_each_judgement_is_made_once(counted, tiny_model, tiny_frames, copper_phonon):
    """With every part a training can have: pruning, replay labelled by the foundation, force constants."""
    neighbours, predictions, precise = counted
    train, valid, pool = tiny_frames(6), tiny_frames(2, 9), [atoms.copy() for atoms in tiny_frames(3, 3)]
    spec = make_spec("delta+pft", epochs=2, replay="head", replay_size=3)
    fine_tune(MacePotential(tiny_model()), train, valid, spec, replay=pool, curvature=copper_phonon, seed=1)
    assert len(neighbours) == 6 + 2 + 3 + 1
    assert set(neighbours.values()) == {1}
    # pruning is proved on one structure by two models; then foundation and result on each of three sets
    assert sorted(len(graphs) for _, graphs in predictions) == [1, 1, 2, 2, 3, 3, 6, 6]
    assert set(predictions.values()) == {1}
    # as predictions of structures: 1 + 1 for pruning, 11 + 11, and one force graph of each model for the columns
    assert sum(precise) == 2 + 22 + 2


def test_errors_from_kept_predictions_are_those_of_the_loop(tiny_model, tiny_frames):
    """Against evaluation batch by batch as validation does it; sizes and compositions mixed, energies shifted, too."""
    from ase.calculators.emt import EMT

    module = tiny_model()
    large = tiny_frames(1, 5)[0].copy() * (2, 1, 1)
    large.calc = EMT()
    values = large.get_potential_energy(), large.get_forces(), large.get_stress()
    train = [*tiny_frames(3), label_frame(large, energy=values[0], forces=values[1], stress=values[2])]
    train += tiny_frames(4, 1, "CuAl")
    spec = make_spec("transfer", batch_size=2)
    assembly = assemble(Groundwork(MacePotential(module)), train, tiny_frames(2, 9), spec, replay=None, seed=0)
    graphs = assembly.raw["train"]
    found = predicted(BACKEND, assembly.foundation, [one.graph for one in graphs])
    for shift in (np.zeros(2), np.array([0.3, -1.7])):
        shifted = relative_to(graphs, shift)
        batches = in_batches(shifted, 4, torch.float64)
        expected = errors(BACKEND, assembly.foundation, batches, spec).model_dump()
        # batches of other sizes: sums in another order
        assert found.errors(shifted, spec).model_dump() == pytest.approx(expected, rel=1e-12)
    # the shift is the least-squares one: foundation errors with it are what the document says
    assert assembly.foundation_errors("train", shifted=True).mae_energy_mev_per_atom < 0.5 * (
        assembly.foundation_errors("train").mae_energy_mev_per_atom
    )


def test_force_parity_is_labels_beside_what_calculators_say(tiny_model, tiny_frames, monkeypatch):
    """Through ASE, structure by structure; a part of the components is drawn evenly, in the same order of all three."""
    from phonosmith.training import judging

    module, frames = tiny_model(), tiny_frames(3, 9)
    spec = make_spec("transfer")
    assembly = assemble(Groundwork(MacePotential(module)), tiny_frames(2), frames, spec, replay=None, seed=0)
    base = assembly.foundation_predicted("valid")
    found = force_parity(assembly.raw["valid"], base, base)
    labels = np.concatenate([atoms.get_forces().ravel() for atoms in frames])
    ours = np.concatenate([MacePotential(module).evaluate([atoms])[0].forces.ravel() for atoms in frames])
    # written in steps of 0.1 meV/Å
    assert found.label == pytest.approx(1000 * labels, abs=0.051)
    assert found.before == found.after == pytest.approx(1000 * ours, abs=0.051)
    monkeypatch.setattr(judging, "MOST_COMPONENTS", 5)
    few = force_parity(assembly.raw["valid"], base, base)
    assert len(few.label) == 5
    assert few.n_components == len(labels)
    assert (few.label[0], few.before[-1]) == (found.label[0], found.before[-1])


def test_a_set_that_does_not_fit_is_predicted_in_halves(tiny_model, tiny_frames, monkeypatch):
    """Halves are tried when the error is gone, which holds the tensors of what did not fit."""
    from phonosmith.potentials.graphs import make_graph

    module = tiny_model()
    graphs = [make_graph(atoms, BACKEND.atomic_numbers(module), BACKEND.cutoff(module)) for atoms in tiny_frames(5)]
    whole, own = predicted(BACKEND, module, graphs), MaceBackend.predict

    def short(backend, model, batch, **options):
        assert sys.exc_info()[0] is None
        if len(batch["ptr"]) - 1 > 2:
            raise torch.cuda.OutOfMemoryError("full")
        return own(backend, model, batch, **options)

    monkeypatch.setattr(MaceBackend, "predict", short)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    halves = predicted(BACKEND, module, graphs)
    for name in ("energy", "forces", "stress"):
        assert torch.allclose(getattr(halves, name), getattr(whole, name), rtol=0, atol=1e-12), name


def test_a_start_loads_only_what_training_needs():
    """Reading options, data and a model for a training on labels: no crystal, flow or phonon library."""
    code = (
        "import sys, phonosmith.cli.main, phonosmith.training.finetune, phonosmith.structures.extxyz;"
        "import phonosmith.harmonic.curvature, phonosmith.harmonic.files, phonosmith.potentials.registry;"
        "import phonosmith.reference.importers.beside;"
        "heavy = 'phonopy pymatgen jobflow maggma atomate2 symfc hiphive spglib matplotlib pandas'.split();"
        "print([name for name in heavy if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
