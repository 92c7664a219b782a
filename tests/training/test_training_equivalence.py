"""The same numbers as mace, Equitrain and plain optimizers on the same batch."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from phonosmith.potentials.backend import Predictions
from phonosmith.potentials.mace.backend import MaceBackend
from phonosmith.potentials.mace.potential import MacePotential
from phonosmith.structures.labels import label_frame, labels_of
from phonosmith.training.assemble import HEADS
from phonosmith.training.graphs import labelled_batch, labelled_graphs, relative_to
from phonosmith.training.losses import efs_loss
from phonosmith.training.spec import TrainSpec
from phonosmith.training.trainable import attach_pull

BACKEND = MaceBackend()


def batch_of(frames, module, head=0):
    numbers, energies = BACKEND.atomic_numbers(module), BACKEND.atomic_energies(module)[head]
    graphs = labelled_graphs(frames, [labels_of(a) for a in frames], "train", numbers, BACKEND.cutoff(module), energies)
    return labelled_batch(relative_to(graphs, np.zeros(len(numbers)), head), torch.float64)


def predict(module, batch, *, create_graph=True):
    return BACKEND.predict(module, batch.inputs, stress=True, create_graph=create_graph)


def predictions(module, frames, head=0):
    output = predict(module, batch_of(frames, module, head), create_graph=False)
    return [value.detach() for value in (output.energy, output.forces, output.stress)]


def test_loss_and_gradient_equal_mace(tiny_model, tiny_frames, mace_own_batch):
    from mace.modules.loss import WeightedHuberEnergyForcesStressLoss

    module = tiny_model()
    frames = tiny_frames(3) + tiny_frames(2, 1, "CuAl")
    reference = copy.deepcopy(module)
    theirs = mace_own_batch(frames, module)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    criterion = WeightedHuberEnergyForcesStressLoss(10.0, 100.0, 1000.0, huber_delta=0.01)
    torch.set_default_dtype(before)
    expected = criterion(ref=theirs, pred=reference(theirs.to_dict(), training=True, compute_stress=True))
    expected.backward()
    batch = batch_of(frames, module)
    loss = efs_loss(predict(module, batch), batch, TrainSpec())
    parameters = list(module.parameters())
    loss.backward(inputs=parameters)
    # same operations in another order of concatenation: rounding only
    assert abs(float(loss - expected)) < 1e-12
    for ours, other in zip(parameters, reference.parameters(), strict=True):
        gradient = torch.zeros_like(ours) if ours.grad is None else ours.grad
        wanted = torch.zeros_like(ours) if other.grad is None else other.grad
        assert torch.allclose(gradient, wanted, rtol=0, atol=1e-10)
    assert max(float(p.grad.abs().max()) for p in parameters if p.grad is not None) > 1e-3


def test_energy_conventions(tiny_model, tiny_frames):
    module = tiny_model()
    frames = tiny_frames(2)
    batch = batch_of(frames, module)
    output = predict(module, batch, create_graph=False)
    off = (output.interaction - batch.energy).detach().numpy()

    def huber(x):
        return np.where(abs(x) < 0.01, x**2 / 2, 0.01 * (abs(x) - 0.005))

    weights = {"energy_weight": 1.0, "forces_weight": 0.0, "stress_weight": 0.0}
    for convention, expected in (("per_atom", huber(off / 4)), ("per_cell", huber(off) / 4)):
        loss = efs_loss(output, batch, TrainSpec(**weights, energy_convention=convention))
        assert float(loss) == pytest.approx(float(expected.mean()), abs=1e-14)


def test_missing_stress_is_left_out_of_the_mean(tiny_model, tiny_frames):
    module = tiny_model()
    labelled, bare = tiny_frames(2)
    bare.calc.results.pop("stress")
    spec = TrainSpec(energy_weight=0.0, forces_weight=0.0, stress_weight=1.0)
    losses = []
    for frames in ([labelled], [labelled, bare]):
        batch = batch_of(frames, module)
        losses.append(float(efs_loss(predict(module, batch), batch, spec)))
    assert losses[0] > 0
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)


@pytest.mark.parametrize("convention", ["per_atom", "per_cell"])
def test_loss_equals_its_formula(tiny_model, tiny_frames, convention):
    """The formula once more in plain numpy, over cells of different sizes, one without stress, one of replay."""
    module = tiny_model()
    frames = [tiny_frames(1)[0], emt_double(tiny_frames(2)[1]), *tiny_frames(1, 3, "CuAl")]
    weights = {"energy_weight": 3.0, "forces_weight": 50.0, "stress_weight": 700.0, "replay_weight": 0.25}
    spec = TrainSpec(**weights, huber_delta=0.02, energy_convention=convention)
    batch = batch_of(frames, module)
    batch = replace(batch, replay=torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    loss = float(efs_loss(predict(module, batch), batch, spec))

    def huber(x):
        x = np.abs(x)
        return np.where(x < 0.02, x * x / 2, 0.02 * (x - 0.01))

    energy, forces, stress, components, tensors = 0.0, 0.0, 0.0, 0, 0
    for place, (atoms, mine) in enumerate(zip(frames, MacePotential(module).evaluate(frames), strict=True)):
        labels, n, factor = labels_of(atoms), len(atoms), 0.25 if place == 2 else 1.0
        difference = mine.energy - labels.energy
        energy += factor * float(huber(difference / n) if convention == "per_atom" else huber(difference) / n)
        forces += factor * float(huber(mine.forces - labels.forces).sum())
        components += 3 * n
        if labels.stress is not None:
            error = huber(mine.stress - labels.stress)
            stress += factor * float(error[:3].sum() + 2 * error[3:].sum()) / 9
            tensors += 1
    assert loss == pytest.approx(3.0 * energy / 3 + 50.0 * forces / components + 700.0 * stress / tensors, rel=1e-10)


def emt_double(atoms):
    """Return twice the cell with other labels, without stress."""
    double = atoms * (2, 1, 1)
    return label_frame(
        double, energy=2 * atoms.get_potential_energy() + 0.1, forces=np.tile(atoms.get_forces(), (2, 1))
    )


def test_pull_equals_adamw_on_the_difference():
    """40 steps against AdamW decaying an additive update from zero, resumed midway at a lower rate."""
    torch.manual_seed(1)
    begin = [torch.randn(3, 4, dtype=torch.float64), torch.randn(5, dtype=torch.float64)]
    ours = [torch.nn.Parameter(value.clone()) for value in begin]
    deltas = [torch.nn.Parameter(torch.zeros_like(value)) for value in begin]

    def made():
        # two groups, as where not every parameter decays
        optimizer = torch.optim.AdamW([{"params": [value]} for value in ours], lr=0.01, weight_decay=0.0)
        attach_pull(optimizer, 10.0)
        return optimizer

    optimizer, other = made(), torch.optim.AdamW(deltas, lr=0.01, weight_decay=10.0)
    for step in range(40):
        if step == 20:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            for group in (*optimizer.param_groups, *other.param_groups):
                group["lr"] = 0.003
        for parameter, delta in zip(ours, deltas, strict=True):
            parameter.grad = torch.randn_like(parameter)
            delta.grad = parameter.grad.clone()
        optimizer.step()
        other.step()
    for parameter, start, delta in zip(ours, begin, deltas, strict=True):
        assert torch.allclose(parameter, start + delta, rtol=0, atol=1e-12)
        assert float(delta.detach().abs().max()) > 1e-2


@pytest.mark.parametrize("clip", [pytest.param(None, marks=pytest.mark.slow), 10.0])
def test_delta_equals_equitrain(tiny_model, tiny_frames, mace_own_batch, clip):
    pytest.importorskip("mace")
    finetune = pytest.importorskip("equitrain.finetune")
    from types import SimpleNamespace

    from equitrain.backends.torch_wrappers import MaceWrapper

    strength, steps = 10.0, 40
    ours, theirs = tiny_model(), tiny_model()
    frames = tiny_frames(2)
    arguments = SimpleNamespace(forces_weight=1.0, stress_weight=1.0)
    wrapped = finetune.TorchDeltaFineTuneWrapper(MaceWrapper(arguments, theirs))
    deltas = [p for p in wrapped.parameters() if p.requires_grad]
    other = torch.optim.AdamW(deltas, lr=0.01, weight_decay=strength)
    parameters = list(ours.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0)
    attach_pull(optimizer, strength)
    spec = TrainSpec()
    batch = batch_of(frames, ours)
    for step in range(steps):
        rate = 0.01 * (0.5 if step >= 20 else 1.0)
        for one in (optimizer, other):
            one.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        efs_loss(predict(ours, batch), batch, spec).backward(inputs=parameters)
        other.zero_grad()
        wrapped.train()
        output = wrapped(mace_own_batch(frames, theirs))
        positions = batch.inputs["positions"]
        seen = Predictions(
            positions, output["energy"], output["interaction_energy"], output["forces"], output["stress"]
        )
        efs_loss(seen, batch, spec).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
            torch.nn.utils.clip_grad_norm_(deltas, clip)
        optimizer.step()
        other.step()
    named = dict(wrapped.named_delta_parameters())
    base = dict(wrapped.base_wrapper.named_parameters())
    worst = moved = 0.0
    for name, parameter in ours.named_parameters():
        merged = base[f"model.{name}"] + named[f"model.{name}"]
        worst = max(worst, float((parameter - merged).abs().max()) if parameter.numel() else 0.0)
        moved = max(moved, float(named[f"model.{name}"].abs().max()) if parameter.numel() else 0.0)
    # rounding of 40 Adam steps; applying the pull after the update would give differences of 0.1
    assert worst < 1e-12
    assert moved > 1e-2


@pytest.mark.parametrize(
    ("first", "extra"),
    [
        ("RealAgnosticDensityInteractionBlock", {"pair_repulsion": True, "distance_transform": "Agnesi"}),
        pytest.param("RealAgnosticInteractionBlock", {}, marks=pytest.mark.slow),
    ],
)
def test_pruning_and_heads_keep_predictions(tiny_model, tiny_frames, first, extra):
    module = tiny_model(numbers=(8, 13, 14, 29), first=first, **extra)
    frames = tiny_frames(2) + tiny_frames(1, 3, "CuAl")
    expected = predictions(module, frames)
    pruned = BACKEND.prune(module, [13, 29])
    two = BACKEND.with_heads(pruned, HEADS)
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in module.parameters())
    assert [n for n, _ in pruned.named_parameters()] == [n for n, _ in module.named_parameters()]
    candidates = [(pruned, 0), (two, 0), (two, 1), (BACKEND.single_head(two, HEADS[-1]), 0)]
    for candidate, head in candidates:
        for found, wanted in zip(predictions(candidate, frames, head), expected, strict=True):
            assert torch.allclose(found, wanted, rtol=0, atol=1e-11)
