"""Padded, recorded steps are the plain steps: every strategy, every architecture; and what happens when one fails.

There is no GPU here. ``fake_capture`` (tests/helpers/recorder.py) repeats a step's operations on the same memory, as a
CUDA graph does, and refuses what would wait for a device; ``uncaptured`` runs the padded steps as they are.
"""

import gc
import math
import weakref
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk

from helpers.recorder import WaitingError, fake_capture, no_reading
from helpers.tiny_potentials import ARCHITECTURES, tiny_reference
from phonosmith.core.errors import TrainingError
from phonosmith.harmonic.curvature import CurvatureTarget
from phonosmith.potentials.graphs import Shape, padded_shape
from phonosmith.potentials.mace.backend import MaceBackend
from phonosmith.potentials.mace.potential import MacePotential
from phonosmith.potentials.registry import load
from phonosmith.structures.labels import label_frame
from phonosmith.training.assemble import assemble
from phonosmith.training.capture import (
    CudaCapture,
    Snapshot,
    StaticBatch,
    capture_for,
    epoch_shapes,
    packed,
    uncaptured,
)
from phonosmith.training.finetune import fine_tune
from phonosmith.training.graphs import labelled_batch
from phonosmith.training.loop import Fitter, epoch_order
from phonosmith.training.replay import label_with
from phonosmith.training.spec import make_spec
from phonosmith.training.trainable import select_trainable

EPOCHS = 7
"""Of three steps each: more than twenty steps."""
CASES = {
    "scratch": ("scratch", {}),
    "transfer": ("transfer", {"ema": 0.9}),
    "no clipping, no stress": ("transfer", {"clip_norm": None, "stress_weight": 0.0}),
    "energies per cell": ("transfer", {"energy_convention": "per_cell", "replay": "cotrain", "replay_weight": 0.3}),
    "freeze1": ("freeze1", {}),
    "multihead": ("multihead", {"replay_size": 3}),
    "delta": ("delta", {}),
    "lora": ("lora", {}),
    "pft": ("pft", {"lr": 0.003, "cotrain_steps": 2, "ema": 0.9, "curvature_batch": 1}),
    "pft with three columns": ("pft", {"lr": 0.003, "curvature_columns": 3, "replay": "none"}),
    "pft alone": ("pft", {"lr": 0.003, "replay": "none", "curvature_mode": "alone", "curvature_energy_weight": 20.0}),
    "pft, columns in turn": ("pft", {"lr": 0.003, "replay": "none", "curvature_sampling": "irreducible"}),
    "optimizer of mace": ("transfer", {"optimizer": "mace", "weight_decay": 0.5}),
    "delta+pft": ("delta+pft", {}),
    "delta+pft with two columns": ("delta+pft", {"curvature_columns": 2, "ema": 0.9}),
    "phonosmith": ("phonosmith", {}),
    "differences": ("delta+pft", {"curvature_method": "fd", "curvature_columns": 2}),
}


def cells(symbol, count, first=0):
    """Return rattled cells of a small and a larger kind, in turn."""
    frames = []
    for seed in range(first, first + count):
        atoms = bulk(symbol, cubic=True) if seed % 2 else bulk(symbol) * (1 if symbol == "Si" else 2, 1, 1)
        atoms.rattle(0.1, seed=seed)
        frames.append(atoms)
    return frames


def targets_of(potential):
    """Return force constants of two cells of different sizes, two and three columns."""
    targets = []
    for atoms, columns in zip(cells(potential.elements[0], 2), ((0, 4), (0, 4, 5)), strict=True):
        hessian = potential.hessian_columns(atoms, range(3 * len(atoms))).T * 1.1
        targets.append(CurvatureTarget(atoms, hessian, columns, (1.0,) * len(columns), "cell"))
    return targets


def parts_of(foundation, spec, *, count=5):
    """Return the assembly of a training on labels that are not the foundation's own; one structure has no stress."""
    symbol = foundation.elements[0]
    train, valid = cells(symbol, count), cells(symbol, 3, 50)
    labelled = label_with(foundation.backend, foundation.model, [*train, *valid])
    rng = np.random.default_rng(0)
    changed = [
        label_frame(
            atoms,
            energy=atoms.get_potential_energy() + 0.1 * rng.normal(),
            forces=atoms.get_forces() + 0.1 * rng.normal(size=(len(atoms), 3)),
            stress=None if index == 1 else atoms.get_stress() + 0.01 * rng.normal(size=6),
        )
        for index, atoms in enumerate(labelled)
    ]
    return assemble(
        foundation,
        changed[:count],
        changed[count:],
        spec,
        replay=cells(symbol, 4, 90) if spec.uses_replay else None,
        curvature=targets_of(foundation) if spec.uses_curvature else None,
        seed=3,
    )


def fitter_of(parts, capture=None, device="cpu", compiler=None, **settings):
    spec = parts.spec
    model = parts.backend.cast(parts.start, spec.dtype, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parameters = select_trainable(parts.backend, model, spec)
    term = parts.taught_term(getattr(torch, spec.dtype), device)
    fitter = Fitter(
        parts.backend,
        model,
        parameters,
        [*parts.train, *parts.replay],
        parts.valid,
        spec,
        curvature=term,
        judged=parts.curvature_term(parts.targets, getattr(torch, spec.dtype), device),
        capture=capture,
        compiler=compiler,
        **{"seed": 5, **settings},
    )
    # no epoch is called better than the one before, so the rate falls: one frozen in a recording would show
    if spec.schedule == "plateau":
        fitter.scheduler.threshold, fitter.scheduler.threshold_mode = 1e9, "abs"
    return fitter


def weights(fitter):
    return torch.cat([parameter.detach().reshape(-1) for parameter in fitter.parameters])


@pytest.fixture(scope="module")
def mace(tiny_model):
    """Return a small MACE model in float64."""
    return MacePotential(tiny_model(numbers=(29,), channels=4, r_max=3.0, max_ell=1, radial_MLP=[8]))


def settings_of(case):
    strategy, settings = CASES[case]
    common = {"epochs": EPOCHS, "batch_size": 2, "dtype": "float64", "scheduler_patience": 1, "device": "cpu"}
    return make_spec(strategy, **common, **settings)


def assert_same_training(plain, other, tolerance=1e-10):
    """Compare weights and every number of the log; sums are taken in another order only."""
    assert plain.state.steps == other.state.steps > 20
    scale = float(weights(plain).abs().max())
    assert float((weights(plain) - weights(other)).abs().max()) < tolerance * scale
    for one, two in zip(plain.state.history, other.state.history, strict=True):
        for name in one.keys() - {"seconds", "curvature_seconds"}:
            expected = one[name] if one[name] is None else pytest.approx(one[name], rel=tolerance, abs=1e-12)
            assert two[name] == expected, (one["epoch"], name)
    assert len({line["lr"] for line in plain.state.history}) > 1
    for one, two in zip(plain.state.best, other.state.best, strict=True):
        assert float((one - two).abs().max()) < tolerance * scale


QUICK = ("transfer", "multihead", "delta+pft")


@pytest.mark.parametrize("case", [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in CASES])
def test_recorded_training_is_the_plain_one(mace, case):
    parts = parts_of(mace, settings_of(case))
    plain, recorded = fitter_of(parts), fitter_of(parts, fake_capture)
    start = weights(plain)
    for fitter in (plain, recorded):
        fitter.run()
    assert float((weights(plain) - start).abs().max()) > 1e-3
    assert_same_training(plain, recorded)
    assert recorded.notes == plain.notes


@pytest.mark.slow
@pytest.mark.parametrize("case", ["transfer", "delta+pft with two columns"])
def test_a_traced_gradient_trains_as_the_plain_one(mace, case):
    """Both derivatives traced into one function, as Inductor gets it; compiling it takes minutes and is left out."""
    traced = []

    def as_it_is(graph):
        traced.append(len(graph.graph.nodes))
        return graph

    spec = settings_of(case)
    plain = fitter_of(parts_of(mace, spec))
    plain.run()
    other = fitter_of(parts_of(mace, spec), capture=fake_capture, compiler=as_it_is)
    other.run()
    assert traced, "nothing was traced"
    assert min(traced) > 500, "the second derivative is in it"
    assert_same_training(plain, other)


@pytest.mark.slow
def test_a_gradient_that_cannot_be_compiled_runs_as_it_is(mace):
    def broken(graph):
        raise RuntimeError("no compiler here")

    spec = settings_of("transfer")
    plain = fitter_of(parts_of(mace, spec))
    plain.run()
    other = fitter_of(parts_of(mace, spec), capture=fake_capture, compiler=broken)
    other.run()
    assert_same_training(plain, other)
    assert any("cannot be compiled: no compiler here" in note for note in other.notes)


@pytest.mark.slow
def test_layers_of_published_foundations_can_be_recorded(tiny_model):
    """Density normalisation, transformed distances and a short-range repulsion, as the published models have."""
    from mace.modules import interaction_classes

    module = tiny_model(
        numbers=(29,),
        channels=4,
        first="RealAgnosticDensityInteractionBlock",
        interaction_cls=interaction_classes["RealAgnosticDensityResidualInteractionBlock"],
        pair_repulsion=True,
        distance_transform="Agnesi",
    )
    parts = parts_of(MacePotential(module), settings_of("delta+pft with two columns"))
    plain, recorded = fitter_of(parts), fitter_of(parts, fake_capture)
    for fitter in (plain, recorded):
        fitter.run()
    assert recorded.notes == []
    assert_same_training(plain, recorded)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [one for one in ARCHITECTURES if one != "mace"])
@pytest.mark.parametrize("case", ["transfer", "delta+pft with two columns"])
def test_every_architecture_can_be_recorded(architecture, case):
    foundation = load(tiny_reference(architecture), dtype="float64", device="cpu").prune(["Si"])
    parts = parts_of(foundation, settings_of(case))
    plain, recorded = fitter_of(parts), fitter_of(parts, fake_capture)
    for fitter in (plain, recorded):
        fitter.run()
    assert recorded.notes == []
    assert_same_training(plain, recorded)


def test_a_step_has_the_plain_gradient_in_every_bucket(mace):
    """The gradient itself, which an optimizer's scaling could hide, of a batch padded to its size and far beyond."""
    parts = parts_of(mace, settings_of("transfer"))
    fitter = fitter_of(parts, uncaptured)
    step, graphs = fitter.step, parts.train[:3]

    def gradient(batch):
        loss, _ = step.gradient(batch, None)
        return float(loss), torch.cat([p.grad.reshape(-1).clone() for p in step.parameters])

    loss, expected = gradient(labelled_batch(graphs, torch.float64))
    least = padded_shape([one.graph for one in graphs])
    for shape in (least, Shape(7, least.atoms + 9, least.edges + 100)):
        padded = gradient(labelled_batch(graphs, torch.float64, shape=shape, cutoff=3.0))
        assert padded[0] == pytest.approx(loss, rel=1e-13)
        assert float((padded[1] - expected).abs().max()) < 1e-12 * float(expected.abs().max())


def test_launching_an_epoch_reads_nothing(mace):
    """Steps, columns, average and validation are launched; numbers are read when the epoch is finished."""
    fitter = fitter_of(parts_of(mace, settings_of("delta+pft with two columns")), fake_capture)
    fitter.begin()
    before = weights(fitter)
    with no_reading():
        fitter.launch_epoch()
    assert not torch.equal(weights(fitter), before)
    with pytest.raises(WaitingError), no_reading():
        fitter.finish_epoch()


def test_recording_leaves_the_start_as_it_was(mace):
    """Warm-up and recording take steps; weights, momenta, average, counts and columns are those before."""
    fitter = fitter_of(parts_of(mace, settings_of("delta+pft with two columns")), fake_capture)
    start = weights(fitter)
    fitter.begin()
    assert torch.equal(weights(fitter), start)
    states = fitter.optimizer.state.values()
    assert len(states) > 3
    assert not any(value.any() for state in states for value in state.values())
    assert all(torch.equal(one, two) for one, two in zip(fitter.state.ema, fitter.parameters, strict=True))
    assert (float(fitter.step.count), fitter.curvature.used) == (0, 0)


def test_recordings_go_when_their_training_does(mace):
    """They hold much of a GPU's memory, and the collector comes when it likes: nothing may hold them in a circle."""
    fitter = fitter_of(parts_of(mace, settings_of("delta+pft with two columns")), lambda action: action)
    gc.collect()
    gc.disable()
    try:
        fitter.begin()
        parts = [weakref.ref(one) for one in (fitter._recording, fitter.step, fitter.optimizer, fitter.parameters[0])]
        del fitter
        assert [one() for one in parts] == [None] * 4
    finally:
        gc.enable()


FROZEN = {
    "a number of Python": lambda x, box: x.mul_(box["rate"]),
    "another tensor": lambda x, box: x.mul_(box["tensor"]),
}


@pytest.mark.parametrize("what", FROZEN)
def test_the_stand_in_freezes_what_a_graph_freezes(what):
    x, box = torch.ones(2), {"rate": 2.0, "tensor": torch.tensor(2.0)}
    replay = fake_capture(lambda: FROZEN[what](x, box))
    x.fill_(1.0)
    box.update(rate=5.0, tensor=torch.tensor(5.0))
    replay()
    assert x.tolist() == [2.0, 2.0]


def test_the_stand_in_repeats_operations_on_the_same_memory():
    x, rate, total = torch.ones(3, requires_grad=True), torch.tensor(1.0), torch.zeros(())

    def action():
        (slope,) = torch.autograd.grad((x**3).sum() * rate, x)
        total.add_(slope.sum())

    replay = fake_capture(action)
    total.zero_()
    with torch.no_grad():
        x.fill_(2.0)
    rate.fill_(0.5)
    replay()
    replay()
    assert float(total) == 2 * 3 * 3 * 4 * 0.5


WAITS = {
    "a number read": lambda x: float(x.sum()),
    "a branch": lambda x: x.neg_() if x.sum() > 0 else x,
    "a mask": lambda x: x[x > 0],
    "where": lambda x: torch.where(x > 0),
    "a list of places": lambda x: x[:, [0, 2]],
    "a new tensor of numbers": lambda _: torch.tensor([1.0, 2.0]),
    "an array": lambda x: x.add_(torch.as_tensor(np.ones(3))),
    "a determinant": torch.linalg.det,
    "numpy": lambda x: x.numpy().sum(),
    "a list": lambda x: x.tolist(),
    "distinct values": torch.unique,
}


@pytest.mark.parametrize("what", WAITS)
def test_the_stand_in_refuses_what_waits(what):
    with pytest.raises(WaitingError):
        fake_capture(lambda: WAITS[what](torch.eye(3)))


@pytest.mark.parametrize(
    "case", ["phonosmith", *(pytest.param(one, marks=pytest.mark.slow) for one in ("transfer", "pft"))]
)
def test_resume_goes_on_where_it_was(mace, tmp_path, case):
    """A recorded training cut off goes on to the same bits; so does, to rounding, a plain one that is then recorded."""
    parts = parts_of(mace, settings_of(case))
    whole = fitter_of(parts, fake_capture)
    whole.run()
    ends = []
    for first in (fake_capture, None):
        folder = tmp_path / str(first is None)
        cut = fitter_of(parts, first, workdir=folder)
        cut.begin()
        for _ in range(3):
            cut.launch_epoch()
            cut.finish_epoch()
        cut.save()
        rest = fitter_of(parts, fake_capture, workdir=folder)
        rest.run()
        assert [line["epoch"] for line in rest.state.history] == list(range(EPOCHS + 1))
        ends.append(weights(rest))
        assert_same_training(whole, rest)
    assert torch.equal(ends[0], weights(whole))
    # and the other way round: a checkpoint of recorded steps is that of a plain training
    plain = fitter_of(parts, None, workdir=tmp_path / "False")
    plain.run()
    assert plain.state.finished
    assert torch.equal(weights(plain), weights(whole))


def test_walltime_and_target_end_a_recorded_training(mace, tmp_path):
    parts = parts_of(mace, settings_of("transfer"))
    cut = fitter_of(parts, fake_capture, workdir=tmp_path)
    state = cut.run(walltime=1e-6)
    assert (state.epoch, state.finished, state.reason) == (1, False, "walltime of 1e-06 s")
    rest = fitter_of(parts, fake_capture, workdir=tmp_path)
    assert rest.run().finished
    whole = fitter_of(parts, fake_capture)
    whole.run()
    assert torch.equal(weights(rest), weights(whole))
    errors = [line["valid_mae_forces_mev_per_angstrom"] for line in whole.state.history]
    reached = min(errors[1:])
    spec = parts.spec.model_copy(update={"target_forces_mae": reached / 1000})
    aimed = fitter_of(replace(parts, spec=spec), fake_capture)
    aimed.run()
    assert aimed.state.epoch == errors.index(reached)
    assert "force MAE" in aimed.state.reason


@pytest.mark.parametrize("capture", [None, fake_capture])
def test_number_that_is_not_finite_names_the_structure(mace, capture):
    """The same message from recorded steps, which notice at the end of the epoch, and from plain ones."""
    parts = parts_of(mace, settings_of("delta+pft"))
    parts.train[3] = replace(parts.train[3], energy=math.inf)
    with pytest.raises(TrainingError, match=r"The loss is not finite in epoch 1: train\[3\]"):
        fitter_of(parts, capture).run()


def test_coinciding_atoms_are_named(mace):
    parts = parts_of(mace, settings_of("transfer"))
    graph = parts.train[2].graph
    direct = int(np.flatnonzero(~graph.shifts.any(axis=1))[0])
    sender, receiver = graph.edges[:, direct]
    positions = graph.positions.copy()
    positions[receiver] = positions[sender]
    parts.train[2] = replace(parts.train[2], graph=replace(graph, positions=positions))
    found = []
    for capture in (None, fake_capture):
        with pytest.raises(TrainingError, match=r"not finite in epoch 1.*train\[2\]") as caught:
            fitter_of(parts, capture).run()
        found.append(str(caught.value))
    assert found[0] == found[1]


def test_trainings_taking_turns_are_those_alone(mace):
    """Epochs of several recorded trainings are launched before the first is finished; each ends as it does alone."""
    parts = parts_of(mace, settings_of("transfer"))
    alone, together = ([fitter_of(parts, fake_capture, seed=seed) for seed in (1, 2)] for _ in range(2))
    for fitter in alone:
        fitter.run()
    take_turns(together)
    for one, two in zip(alone, together, strict=True):
        assert torch.equal(weights(one), weights(two))
    assert not torch.equal(weights(alone[0]), weights(alone[1]))


def take_turns(fitters, streams=()):
    """Run fitters side by side, each on a stream of its own where there are streams."""
    streams = streams or [nullcontext() for _ in fitters]
    for fitter, stream in zip(fitters, streams, strict=True):
        with stream:
            fitter.begin()
    while not all(fitter.over for fitter in fitters):
        for turn in (Fitter.launch_epoch, Fitter.finish_epoch):
            for fitter, stream in zip(fitters, streams, strict=True):
                with stream:
                    turn(fitter)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("case", CASES)
def test_on_a_gpu(mace, case):
    """CUDA graphs against plain steps on the GPU.

    Its sums have no order, and a recorded learning rate is a float32 (2e-8 off): both stay far below 1e-6 in 21 steps.
    """
    parts = parts_of(mace, settings_of(case))
    plain, recorded = (
        fitter_of(replace(parts, spec=parts.spec.model_copy(update={"compile": how})), device="cuda")
        for how in ("off", "auto")
    )
    for fitter in (plain, recorded):
        fitter.run()
    assert recorded.notes == []
    assert_same_training(plain, recorded, 1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_many_at_once_on_a_gpu(mace):
    """Four recorded trainings alive at a time, each with its own memory pool and stream, are those alone."""
    parts = parts_of(mace, settings_of("transfer"))
    alone, together = ([fitter_of(parts, device="cuda", seed=seed) for seed in range(4)] for _ in range(2))
    for fitter in alone:
        fitter.run()
    take_turns(together, [torch.cuda.stream(torch.cuda.Stream()) for _ in together])
    for one, two in zip(alone, together, strict=True):
        assert two.notes == []
        assert_same_training(one, two, 1e-6)


class FullMemory:
    """A capture for which batches of more than so many edges, or all, do not fit into memory."""

    def __init__(self, allowed):
        self.allowed = allowed

    def __call__(self, action):
        if self.allowed <= 0:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        self.allowed -= 1
        return fake_capture(action)


@pytest.mark.parametrize("allowed", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_what_does_not_fit_runs_plainly(mace, allowed):
    """The smaller bucket is recorded, the larger one, or validation, is not: the same numbers and a note."""
    parts = parts_of(mace, settings_of("delta+pft with two columns" if allowed == 3 else "transfer"))
    plain, short = fitter_of(parts), fitter_of(parts, FullMemory(allowed))
    for fitter in (plain, short):
        fitter.run()
    assert_same_training(plain, short)
    assert any("does not fit into memory" in note for note in short.notes)


def refusing(action):
    action()
    raise RuntimeError("operation not permitted when stream is capturing\nmore")


def test_training_that_cannot_be_recorded_runs_plainly(mace):
    parts = parts_of(mace, settings_of("transfer"))
    plain, refused = fitter_of(parts), fitter_of(parts, refusing)
    for fitter in (plain, refused):
        fitter.run()
    assert_same_training(plain, refused)
    assert any(note.endswith("when stream is capturing") for note in refused.notes)
    assert refused.notes[-1] == "Nothing could be recorded: trained step by step"


def test_batch_beyond_every_bucket_runs_plainly(mace, monkeypatch):
    parts = parts_of(mace, settings_of("transfer"))
    plain = fitter_of(parts)
    plain.run()
    smallest = min(padded_shape([one.graph]) for one in parts.train)
    monkeypatch.setattr("phonosmith.training.loop.epoch_shapes", lambda *_: [smallest])
    other = fitter_of(parts, fake_capture)
    other.run()
    assert_same_training(plain, other)
    assert other.notes == ["Batches larger than those that were recorded run plainly"]


def test_batches_of_one_are_kept_on_the_device(mace, monkeypatch):
    """With one structure a step nothing is put together after the first epoch, and the numbers stay the same."""
    parts = parts_of(mace, settings_of("transfer").model_copy(update={"batch_size": 1}))
    plain, recorded = fitter_of(parts), fitter_of(parts, fake_capture)
    plain.run()
    recorded.begin()
    for epoch in range(EPOCHS):
        if epoch == 1:
            monkeypatch.setattr("phonosmith.training.capture.labelled_batch", None)
        recorded.launch_epoch()
        recorded.finish_epoch()
    assert_same_training(plain, recorded)


@pytest.mark.slow
def test_kinds_beyond_the_limit_run_plainly(mace, monkeypatch):
    monkeypatch.setattr("phonosmith.training.capture.MOST_RECORDINGS", 2)
    parts = parts_of(mace, settings_of("delta+pft with two columns"))
    plain, recorded = fitter_of(parts), fitter_of(parts, fake_capture)
    for fitter in (plain, recorded):
        fitter.run()
    assert_same_training(plain, recorded)
    assert any("are not recorded and run plainly" in note for note in recorded.notes)


@pytest.mark.slow
def test_curvature_in_blocks_is_not_recorded(mace, monkeypatch):
    """Blocks of atoms are found by looking at numbers: those steps run plainly between recorded ones."""
    monkeypatch.setattr(MaceBackend, "atoms_at_a_time", lambda *_: 1)
    parts = parts_of(mace, settings_of("pft"))
    plain, recorded = fitter_of(parts), fitter_of(parts, fake_capture)
    for fitter in (plain, recorded):
        fitter.run()
    assert_same_training(plain, recorded)
    assert any("its steps are not recorded" in note for note in recorded.notes)


class Failing:
    """A device that fails after so many replays."""

    def __init__(self, replays):
        self.left = replays

    def __call__(self, action):
        replay = fake_capture(action)

        def run():
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be ...")
            replay()

        return run


def test_gpu_that_vanishes_leaves_a_checkpoint(mace, tmp_path, monkeypatch):
    """The last epoch the host has copied is on disk although no checkpoint was due; the next attempt goes on there."""
    monkeypatch.setattr("phonosmith.training.loop.HOST_COPY_SECONDS", 0.0)
    parts = parts_of(mace, settings_of("transfer"))
    whole = fitter_of(parts, fake_capture)
    whole.run()
    fitter = fitter_of(parts, Failing(18), workdir=tmp_path)
    with pytest.raises(
        TrainingError, match=r"The GPU failed in epoch \d: CUDA error: unspecified launch failure"
    ) as lost:
        fitter.run()
    assert "goes on from its checkpoint" in str(lost.value)
    trained = fitter.state.epoch
    assert 0 < trained < EPOCHS
    rest = fitter_of(parts, fake_capture, workdir=tmp_path)
    rest.begin()
    assert rest.state.epoch == trained
    rest.run()
    assert torch.equal(weights(rest), weights(whole))


def test_memory_that_ends_is_explained(mace):
    def short(_):
        def run():
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

        return run

    with pytest.raises(TrainingError, match=r"memory of cpu is not enough.*smaller batch_size \(now 2\)"):
        fitter_of(parts_of(mace, settings_of("transfer")), short).run()


def test_setting_and_its_note(mace, tiny_frames):
    """compile=graph on a processor pads, says that it does not record, and trains the same model."""
    data = tiny_frames(4), tiny_frames(2, 9)
    results = [
        fine_tune(mace, *data, make_spec("delta", epochs=2, dtype="float64", device="cpu", compile=how), seed=1)
        for how in ("off", "graph", "auto")
    ]
    models = [torch.cat([p.detach().reshape(-1) for p in one.model.parameters()]) for one in results]
    assert torch.equal(models[0], models[2])
    assert float((models[0] - models[1]).abs().max()) < 1e-12
    notes = [one.document.notes for one in results]
    assert notes[0] == notes[2] == []
    assert notes[1] == ["compile=graph: a processor has no graphs; batches are padded, and steps run one by one"]
    gpu = torch.device("cuda")
    assert capture_for("off", gpu) == (None, "")
    assert isinstance(capture_for("auto", gpu)[0], CudaCapture)


def test_static_batch_takes_every_batch_of_its_shape(mace):
    parts = parts_of(mace, settings_of("transfer"))
    shape = padded_shape([one.graph for one in parts.train[:2]])
    first, other = (
        labelled_batch(some, torch.float64, shape=shape, cutoff=3.0) for some in (parts.train[:2], parts.train[2:3])
    )
    static = StaticBatch(first, torch.device("cpu"))
    addresses = {name: value.data_ptr() for name, value in static.batch.inputs.items()}
    for batch in (first, other):
        static.fill(packed(batch))
        for name, value in batch.inputs.items():
            assert torch.equal(static.batch.inputs[name], value)
            assert static.batch.inputs[name].data_ptr() == addresses[name]
        for name in ("sizes", "energy", "forces", "stress", "has_stress", "replay", "real_graphs", "real_atoms"):
            assert torch.equal(getattr(static.batch, name), getattr(batch, name))


def test_shapes_of_all_epochs(mace):
    parts = parts_of(mace, settings_of("transfer"))
    orders = [epoch_order(5, epoch, len(parts.train)) for epoch in range(1, 4)]
    shapes = epoch_shapes(parts.train, orders, 2)
    wanted = {
        padded_shape([parts.train[index].graph for index in order[start : start + 2]])
        for order in orders
        for start in (0, 2, 4)
    }
    assert set(shapes) == wanted
    assert len(shapes) == len(wanted)


def test_snapshot_puts_back_and_clears_what_is_new():
    old, new = torch.ones(2), torch.ones(2)
    snapshot = Snapshot([old])
    old.fill_(3.0)
    snapshot.restore([old, new])
    assert (old.tolist(), new.tolist()) == ([1.0, 1.0], [0.0, 0.0])
