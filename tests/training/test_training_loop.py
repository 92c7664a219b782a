"""Determinism, exact resume, early stopping, walltime, and what happens to bad numbers."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator

from phonosmith.core.errors import ArtefactError, ConfigurationError, TrainingError
from phonosmith.potentials.mace.potential import MacePotential
from phonosmith.training.finetune import fine_tune
from phonosmith.training.loop import FitState, Fitter, epoch_order
from phonosmith.training.spec import make_spec


class InterruptedByTestError(Exception):
    """Raised from the epoch callback to interrupt a training."""


def weights(result):
    return torch.cat([p.detach().reshape(-1) for p in result.model.parameters()])


def interrupt_at(monkeypatch, epoch):
    from contextlib import contextmanager

    @contextmanager
    def reporter(*_, **__):
        def report(record):
            if record.epoch == epoch:
                raise InterruptedByTestError

        yield report

    monkeypatch.setattr("phonosmith.training.finetune.epoch_reporter", reporter)


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        ("delta", {"scheduler_patience": 0}),
        pytest.param("transfer", {"ema": 0.9, "dtype": "float64"}, marks=pytest.mark.slow),
        pytest.param("pft", {"lr": 0.003, "cotrain_steps": 3, "replay": "none"}, marks=pytest.mark.slow),
    ],
)
def test_resume_is_exact(tiny_model, tiny_frames, copper_phonon, tmp_path, monkeypatch, strategy, settings):
    """Interrupted at a random epoch and resumed: the same weights to the last bit, the same log."""
    module = tiny_model(numbers=(29,))
    spec = make_spec(strategy, epochs=4, batch_size=3, **settings)
    extra = {"curvature": copper_phonon} if spec.uses_curvature else {}
    data = (tiny_frames(6), tiny_frames(2, 9))
    whole = fine_tune(MacePotential(module), *data, spec, seed=3, workdir=tmp_path / "whole", **extra)
    epoch = int(np.random.default_rng().integers(1, 4))
    with monkeypatch.context() as patch:
        interrupt_at(patch, epoch)
        with pytest.raises(InterruptedByTestError):
            fine_tune(MacePotential(module), *data, spec, seed=3, workdir=tmp_path / "cut", **extra)
    assert (tmp_path / "cut" / "checkpoint.pt").is_file()
    with pytest.raises(ConfigurationError, match="another unfinished training"):
        fine_tune(MacePotential(module), *data, spec, seed=4, workdir=tmp_path / "cut", **extra)
    resumed = fine_tune(MacePotential(module), *data, spec, seed=3, workdir=tmp_path / "cut", **extra)
    assert torch.equal(weights(whole), weights(resumed)), f"interrupted after epoch {epoch}"
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "cut")
    ]
    assert [one["epoch"] for one in lines[1]] == list(range(5))
    timing = {"seconds", "curvature_seconds"}
    for one, two in zip(*lines, strict=True):
        assert {k: v for k, v in one.items() if k not in timing} == {k: v for k, v in two.items() if k not in timing}
    # finished: asking again trains nothing and gives the same model
    again = fine_tune(MacePotential(module), *data, spec, seed=3, workdir=tmp_path / "cut", **extra)
    assert torch.equal(weights(again), weights(whole))


@pytest.mark.slow
@pytest.mark.parametrize("interrupted", [False, True])
def test_cotraining_is_counted_over_the_whole_training(tiny_model, tiny_frames, copper_phonon, tmp_path, interrupted):
    """Ten structures in batches of four make three steps an epoch: still one curvature step before every four."""
    spec = make_spec("pft", epochs=8, replay="none", e0="foundation")
    arguments = (MacePotential(tiny_model(numbers=(29,))), tiny_frames(10), tiny_frames(2, 9), spec)
    if interrupted:
        cut = fine_tune(*arguments, curvature=copper_phonon, seed=1, workdir=tmp_path, walltime=0.001).document
        assert cut.epochs_run == 1
    document = fine_tune(*arguments, curvature=copper_phonon, seed=1, workdir=tmp_path).document
    curvature = [line["curvature_steps"] for line in document.history]
    labelled = [line["steps"] - line["curvature_steps"] for line in document.history]
    assert labelled == [3 * epoch for epoch in range(9)]
    assert curvature == [-(-count // 4) for count in labelled]


@pytest.mark.slow
def test_training_on_curvature_alone(tiny_model, tiny_frames, copper_phonon):
    """Without co-training no step is on structures; the energy of the perfect cell is held where it is not known."""
    spec = make_spec(
        "pft", epochs=16, lr=3e-3, ema=None, replay="none", curvature_mode="alone", curvature_energy_weight=20.0,
        e0="foundation",
    )  # fmt: skip
    arguments = (MacePotential(tiny_model(numbers=(29,))), tiny_frames(10), tiny_frames(2, 9), spec)
    document = fine_tune(*arguments, curvature=copper_phonon, seed=1).document
    assert [line["steps"] for line in document.history] == [3 * epoch for epoch in range(17)]
    assert document.curvature.steps == document.steps == 48
    losses = [line["train_loss"] for line in document.history[1:]]
    # columns are drawn at random, three an epoch: single epochs scatter
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4]), losses
    assert any("The energies of 1 perfect cells are not known" in note for note in document.notes)


def test_damaged_checkpoint_is_named(tiny_model, tiny_frames, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"half a file")
    with pytest.raises(ArtefactError, match=r"checkpoint\.pt"):
        fine_tune(
            MacePotential(tiny_model(numbers=(29,))),
            tiny_frames(2),
            tiny_frames(1),
            make_spec("delta", epochs=1),
            seed=0,
            workdir=tmp_path,
        )


@pytest.mark.slow
def test_walltime_leaves_a_resumable_state(tiny_model, tiny_frames, tmp_path):
    module = tiny_model(numbers=(29,))
    spec = make_spec("delta", epochs=4)
    data = (tiny_frames(6), tiny_frames(2, 9))
    cut = fine_tune(MacePotential(module), *data, spec, seed=1, workdir=tmp_path, walltime=0.001).document
    assert not cut.finished
    assert "walltime" in cut.stop_reason
    assert cut.epochs_run == 1
    rest = fine_tune(MacePotential(module), *data, spec, seed=1, workdir=tmp_path)
    assert rest.document.finished
    assert rest.document.epochs_run == 4
    whole = fine_tune(MacePotential(module), *data, spec, seed=1)
    assert torch.equal(weights(rest), weights(whole))


def test_start_is_kept_when_nothing_is_better(tiny_model, tiny_frames):
    """A learning rate that ruins the model: epoch 0 wins, the weights are the foundation's, and it is said loudly."""
    module = tiny_model(numbers=(29,))
    spec = make_spec("transfer", lr=0.01, epochs=40, patience=3, dtype="float64", e0="foundation")
    valid = tiny_frames(2, 9)
    # validation labelled by the model itself: nothing can be better than the start
    from phonosmith.potentials.mace.backend import MaceBackend
    from phonosmith.training.replay import label_with

    exact = label_with(MaceBackend(), module, valid)
    result = fine_tune(MacePotential(module), tiny_frames(6, 4, rattle=0.3), exact, spec, seed=1)
    document = result.document
    assert document.best_epoch == 0
    assert document.epochs_run == 3
    assert document.stop_reason == "no improvement for 3 epochs"
    assert not document.improved
    assert document.checks.not_improved
    assert document.n_changed == 0
    assert torch.equal(weights(result), torch.cat([p.detach().reshape(-1) for p in module.parameters()]))


def test_target_stops_early(tiny_model, tiny_frames):
    module = tiny_model(numbers=(29,))
    document = fine_tune(
        MacePotential(module),
        tiny_frames(6),
        tiny_frames(2, 9),
        make_spec("transfer", epochs=30, target_forces_mae=0.4),
        seed=1,
    ).document
    assert document.epochs_run < 30
    assert "force MAE" in document.stop_reason
    assert (
        document.history[-1]["valid_mae_forces_mev_per_angstrom"]
        <= 400
        < document.history[-2]["valid_mae_forces_mev_per_angstrom"]
    )


def test_loss_that_is_not_finite_names_the_structure(tiny_model, tiny_frames):
    module = tiny_model(numbers=(29,))
    frames = tiny_frames(6)
    huge = frames[3]
    # finite as a label, infinite in the float32 loss
    huge.calc = SinglePointCalculator(huge, **{**huge.calc.results, "energy": 1e39})
    with pytest.raises(TrainingError, match=r"train\[3\]"):
        fine_tune(
            MacePotential(module), frames, tiny_frames(2, 9), make_spec("transfer", epochs=2, e0="foundation"), seed=1
        )


def test_metrics_do_not_depend_on_training_precision(tiny_model, tiny_frames):
    """Errors of the foundation are evaluated in float64 whatever the training precision."""
    module = tiny_model(numbers=(29,))
    found = [
        fine_tune(
            MacePotential(module), tiny_frames(4), tiny_frames(2, 9), make_spec("delta", epochs=1, dtype=dtype), seed=1
        )
        for dtype in ("float32", "float64")
    ]
    before = [one.document.metrics["valid"].before for one in found]
    assert before[0] == before[1]
    after = [one.document.metrics["valid"].after.mae_forces_mev_per_angstrom for one in found]
    assert after[0] == pytest.approx(after[1], rel=1e-3)
    assert math.isfinite(after[0])


def test_order_is_a_function_of_seed_and_epoch():
    assert np.array_equal(epoch_order(1, 5, 20), epoch_order(1, 5, 20))
    assert not np.array_equal(epoch_order(1, 5, 20), epoch_order(1, 6, 20))
    assert sorted(epoch_order(2, 3, 20)) == list(range(20))


def test_global_precision_is_left_alone(tiny_model, tiny_frames, capsys):
    before = torch.get_default_dtype()
    spec = make_spec("scratch", epochs=1)
    fine_tune(MacePotential(tiny_model(numbers=(29,))), tiny_frames(2), tiny_frames(1), spec, seed=0, progress=True)
    assert torch.get_default_dtype() == before
    captured = capsys.readouterr()
    assert "train" in captured.err
    assert "train" not in captured.out


@pytest.mark.parametrize(
    ("mode", "crystals"), [("alternate", 1), ("alternate", 3), ("joint", 1), ("alone", 2), ("none", 0)]
)
def test_visits_of_replay_are_those_of_the_steps_taken(mode, crystals):
    """With many crystals an epoch is no whole pass over the structures."""
    fitter = object.__new__(Fitter)
    fitter.seed, fitter.train, fitter.state = 3, list(range(11)), FitState()
    fitter.curvature = SimpleNamespace(cells=[None] * crystals) if crystals else None
    chosen = {"curvature_mode": mode} if crystals else {}
    fitter.spec = make_spec("pft", replay="none", batch_size=4, **chosen) if crystals else make_spec("transfer")
    counted = 0
    for _ in range(5):
        for places, columns in list(fitter._steps()):
            counted += sum(place >= 7 for place in places)
            fitter.state.steps += 1
            fitter.state.curvature_steps += columns
        assert fitter.visits(7) == counted
    assert (counted == 0) == (mode == "alone")
