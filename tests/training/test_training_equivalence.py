"""The same numbers as mace, Equitrain and plain optimizers on the same batch."""

import copy

import numpy as np
import pytest
import torch

from phonosmith.training.graphs import build_graph, collate, labels_of
from phonosmith.training.losses import LossTerms, efs_loss
from phonosmith.training.models import MAIN_HEAD, REPLAY_HEAD, model_e0, model_numbers, prune, rebuild, single_head
from phonosmith.training.trainable import attach_pull


def graphs_of(frames, module, head=0):
    return [
        build_graph(
            atoms,
            labels_of(atoms),
            numbers=model_numbers(module),
            cutoff=float(module.r_max),
            e0=model_e0(module)[head],
            dtype=torch.float64,
            head=head,
        )
        for atoms in frames
    ]


def predictions(module, frames, head=0):
    output = module(collate(graphs_of(frames, module, head)), training=False, compute_stress=True)
    return [output[key].detach() for key in ("energy", "forces", "stress")]


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
    batch = collate(graphs_of(frames, module))
    loss = efs_loss(module(batch, training=True, compute_stress=True), batch, LossTerms())
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
    batch = collate(graphs_of(frames, module))
    output = module(batch, training=False, compute_stress=True)
    off = (output["interaction_energy"] - batch["energy"]).detach().numpy()

    def huber(x):
        return np.where(abs(x) < 0.01, x**2 / 2, 0.01 * (abs(x) - 0.005))

    for convention, expected in (("per_atom", huber(off / 4)), ("per_cell", huber(off) / 4)):
        loss = efs_loss(output, batch, LossTerms(1.0, 0.0, 0.0, convention=convention))
        assert float(loss) == pytest.approx(float(expected.mean()), abs=1e-14)


def test_missing_stress_is_left_out_of_the_mean(tiny_model, tiny_frames):
    module = tiny_model()
    labelled, bare = tiny_frames(2)
    bare.calc.results.pop("stress")
    terms = LossTerms(0.0, 0.0, 1.0)
    losses = []
    for frames in ([labelled], [labelled, bare]):
        batch = collate(graphs_of(frames, module))
        losses.append(float(efs_loss(module(batch, compute_stress=True), batch, terms)))
    assert losses[0] > 0
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)


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
    attach_pull(optimizer, [p.detach().clone() for p in parameters], strength)
    terms = LossTerms()
    batch = collate(graphs_of(frames, ours))
    for step in range(steps):
        rate = 0.01 * (0.5 if step >= 20 else 1.0)
        for one in (optimizer, other):
            one.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        efs_loss(
            ours(dict(batch, positions=batch["positions"].detach().clone()), training=True, compute_stress=True),
            batch,
            terms,
        ).backward(inputs=parameters)
        other.zero_grad()
        wrapped.train()
        output = wrapped(mace_own_batch(frames, theirs))
        efs_loss(output, batch, terms).backward()
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
    pruned = prune(module, [13, 29])
    two = rebuild(pruned, [13, 29], (REPLAY_HEAD, MAIN_HEAD))
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in module.parameters())
    assert [n for n, _ in pruned.named_parameters()] == [n for n, _ in module.named_parameters()]
    candidates = [(pruned, 0), (two, 0), (two, 1), (single_head(two, MAIN_HEAD), 0)]
    for candidate, head in candidates:
        for found, wanted in zip(predictions(candidate, frames, head), expected, strict=True):
            assert torch.allclose(found, wanted, rtol=0, atol=1e-11)
