"""What training has to do with every architecture: small models learn another one of their own kind."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk

from helpers.tiny_potentials import ARCHITECTURES, tiny_reference
from phonosmith.core.errors import ConfigurationError, TrainingError
from phonosmith.harmonic.curvature import CurvatureTarget
from phonosmith.potentials.backend import FreshStart
from phonosmith.potentials.graphs import collate, make_graph
from phonosmith.potentials.registry import load
from phonosmith.potentials.torch_potential import TorchPotential
from phonosmith.training.curvature import Columns, CurvatureCell, CurvatureTerm
from phonosmith.training.finetune import fine_tune
from phonosmith.training.replay import label_with
from phonosmith.training.spec import TrainSpec, make_spec

ABILITY = {"multihead": "heads"}
"""What a strategy needs of an architecture."""


@pytest.fixture(params=ARCHITECTURES)
def foundation(request):
    """Return a small potential in float64."""
    return load(tiny_reference(request.param), dtype="float64", device="cpu").prune(["Si", "Ge"])


@pytest.fixture
def truth(foundation):
    """Return the foundation with every trainable weight changed by about a twentieth."""
    backend, copy = foundation.backend, foundation.backend.cast(foundation.model, "float64")
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for name, parameter in copy.named_parameters():
            if parameter.numel() and backend.block_of(copy, name) is not None:
                parameter.mul_(1 + 0.05 * torch.randn_like(parameter))
    return TorchPotential(backend, copy, name="truth")


def labelled(potential, count, first=0):
    """Return rattled two-atom silicon cells with a potential's labels."""
    frames = []
    for seed in range(first, first + count):
        atoms = bulk("Si")
        atoms.rattle(0.1, seed=seed)
        frames.append(atoms)
    return label_with(potential.backend, potential.model, frames)


def target_of(potential, symbol="Si", repeat=(1, 1, 1), columns=(0, 4)):
    """Return a potential's force constants of a small cell; every column counts alike."""
    atoms = bulk("Si", a=5.2 if symbol == "Ge" else 5.43) * repeat
    atoms.symbols[0] = symbol
    hessian = potential.hessian_columns(atoms, range(3 * len(atoms))).T
    return CurvatureTarget(atoms, hessian, columns, (1.0,) * len(columns), symbol)


def weights(result):
    return torch.cat([value.detach().reshape(-1) for value in result.model.parameters()])


STRATEGIES = {
    "scratch": {"epochs": 30},
    "transfer": {"lr": 0.003},
    "freeze1": {"lr": 0.003},
    "multihead": {"lr": 0.003, "replay_size": 3, "head_start": "copy"},
    "delta": {"pull": 0.1, "lr": 0.003},
    "lora": {"lr": 0.003},
    "pft": {"lr": 0.001, "ema": 0.9, "replay_size": 3},
    "delta+pft": {"pull": 0.1, "lr": 0.001, "ema": 0.9},
}


@pytest.mark.parametrize(
    "strategy",
    [name if name in {"multihead", "lora"} else pytest.param(name, marks=pytest.mark.slow) for name in STRATEGIES],
)
def test_every_applicable_strategy_improves(foundation, truth, strategy, tmp_path):
    """And its model comes back from the store and from its plain file; others say what they are not possible with."""
    backend = foundation.backend
    spec = make_spec(strategy, **{"epochs": 12, "batch_size": 2, "dtype": "float64", **STRATEGIES[strategy]})
    train, valid = labelled(truth, 6), labelled(truth, 3, first=50)
    extra = {
        "replay": [atoms.copy() for atoms in labelled(truth, 3, first=90)] if spec.uses_replay else None,
        "curvature": target_of(truth) if spec.uses_curvature else None,
    }
    if ABILITY.get(strategy, "float64_training") not in backend.abilities:
        with pytest.raises(ConfigurationError, match=rf"{strategy}\) is not possible with a {backend.architecture}"):
            fine_tune(foundation, train, valid, spec, seed=0, **extra)
        return
    result = fine_tune(foundation, train, valid, spec, seed=0, name="si", **extra)
    document = result.register()
    errors = document.metrics["valid"]
    if strategy == "scratch":
        losses = [line["valid_loss"] for line in document.history]
        assert min(losses) < 0.5 * losses[0]
    else:
        assert document.checks.passed, document.checks.findings
        assert errors.after.mae_forces_mev_per_angstrom < errors.shifted.mae_forces_mev_per_angstrom
    if document.curvature is not None:
        assert document.curvature.mae_after_ev_per_angstrom2 < document.curvature.mae_before_ev_per_angstrom2
    frozen = backend.blocks(result.model)[: spec.freeze_blocks]
    assert sum(document.changed_by_block[name] for name in frozen) == 0
    assert document.n_changed > 0
    assert document.model.architecture == backend.architecture
    model_file, page = result.write(tmp_path / "out")
    assert model_file.name == f"model{backend.plain_suffix}"
    assert json.loads(page.read_text())["name"] == "si"
    own = result.potential.evaluate(valid)
    for kept in (load(document.model), load(str(model_file))):
        for mine, its in zip(own, kept.evaluate(valid), strict=True):
            # files of some architectures hold float32
            np.testing.assert_allclose(mine.forces, its.forces, atol=1e-5)


def test_curvature_gradient_equals_finite_differences(foundation, truth):
    """Columns of the term are those of the potential; its gradient along two random directions of the parameters."""
    backend, model, target = foundation.backend, foundation.model, target_of(truth)
    batch = collate([make_graph(target.atoms, foundation.z_table, foundation.r_max)], torch.float64, "cpu")
    reference = torch.tensor(target.hessian[:, list(target.columns)].T.copy())
    columns = Columns(torch.tensor(target.columns), reference, torch.ones(2, dtype=torch.float64))
    cell = CurvatureCell(batch, (columns,))
    weights = {"curvature_weight": 100.0, "curvature_forces_weight": 20.0, "curvature_stress_weight": 5.0}
    term = CurvatureTerm(backend, [cell], TrainSpec(**weights, curvature_columns=2))
    columns = foundation.hessian_columns(target.atoms, target.columns)
    assert term.mae(model) == pytest.approx(float(np.abs(columns - reference.numpy()).mean()), rel=1e-9)
    parameters = [
        value for name, value in model.named_parameters() if backend.block_of(model, name) is not None and value.numel()
    ]
    for value in parameters:
        value.requires_grad_(True)
    term.accumulate(model, parameters)
    assert term.method == "autograd"
    gradient = [torch.zeros_like(value) if value.grad is None else value.grad.clone() for value in parameters]
    torch.manual_seed(0)
    for _ in range(2):
        way = [torch.randn_like(value) for value in parameters]
        values = []
        for sign in (1e-5, -1e-5):
            with torch.no_grad():
                torch._foreach_add_(parameters, way, alpha=sign)
            values.append(float(term.accumulate(model, parameters)))
            with torch.no_grad():
                torch._foreach_sub_(parameters, way, alpha=sign)
        slope = sum(float((one * step).sum()) for one, step in zip(gradient, way, strict=True))
        assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)


@pytest.mark.slow
def test_interrupted_training_ends_with_the_same_weights(foundation, truth, tmp_path):
    train, valid, target = labelled(truth, 4), labelled(truth, 2, 50), target_of(truth)
    spec = make_spec("pft", epochs=4, batch_size=2, e0="foundation", replay="none")

    def run(folder, **settings):
        return fine_tune(foundation, train, valid, spec, curvature=target, seed=2, workdir=folder, **settings)

    whole = run(tmp_path / "whole")
    part = run(tmp_path / "parts", walltime=1e-6)
    assert not part.document.finished
    assert part.document.epochs_run == 1
    rest = run(tmp_path / "parts")
    assert rest.document.finished
    assert rest.document.epochs_run == 4
    assert torch.equal(weights(whole), weights(rest))


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2])
def test_many_materials(foundation, truth, batch):
    """Columns of two cells of different sizes are learnt, in turn or together; the best epoch is chosen on a third."""
    settings = {"curvature_columns": 2, "curvature_batch": batch, "cotrain_steps": 1, "replay": "none"}
    spec = make_spec("pft", epochs=6, lr=3e-4, ema=None, e0="foundation", **settings)
    result = fine_tune(
        foundation,
        labelled(foundation, 8),
        labelled(foundation, 2, 50),
        spec,
        curvature=[target_of(truth), target_of(truth, "Ge", (2, 1, 1))],
        valid_curvature=[target_of(truth, "Ge")],
        seed=0,
    )
    curvature = result.document.curvature
    # in turn an epoch has a step for each of the two, together it is a pass over two batches of structures
    assert (curvature.n_columns, curvature.source, curvature.steps) == (4, "Si, Ge", 12)
    assert (curvature.judged_source, curvature.n_columns_judged) == ("Ge", 2)
    judged = [line["curvature_mae_ev_per_angstrom2"] for line in result.document.history]
    # the third cell is judged, not the two that are learnt
    assert judged[0] != pytest.approx(curvature.mae_before_ev_per_angstrom2, rel=1e-3)
    assert result.document.best_epoch > 0
    assert judged[result.document.best_epoch] < judged[0]


def test_loss_that_is_not_finite_stops(foundation, truth):
    spec = make_spec("transfer", lr=1e30, epochs=3, clip_norm=None, e0="foundation")
    with pytest.raises(TrainingError, match="not finite"):
        fine_tune(foundation, labelled(truth, 4), labelled(truth, 2, 50), spec, seed=0)


def test_a_fresh_model_takes_the_statistics_of_the_data(foundation):
    """Twice the force scale, twice the forces: nothing else of the start depends on it."""
    frames = labelled(foundation, 2)
    start = FreshStart(seed=1, neighbours=4.0, force_scale=0.5)
    made = [
        TorchPotential(foundation.backend, foundation.backend.fresh(foundation.model, one)).evaluate(frames)
        for one in (start, replace(start, force_scale=1.0))
    ]
    for one, two in zip(*made, strict=True):
        assert np.abs(one.forces).max() > 0
        np.testing.assert_allclose(2 * one.forces, two.forces, rtol=1e-8, atol=1e-12)


@pytest.mark.slow
def test_train_command(foundation, truth, tmp_path):
    """``phonosmith train`` takes a plain file of the architecture as foundation and writes one."""
    from ase.io import write
    from typer.testing import CliRunner

    from phonosmith.cli.main import app

    file = tmp_path / f"tiny{foundation.backend.plain_suffix}"
    foundation.save_plain(file)
    write(tmp_path / "train.xyz", labelled(truth, 6))
    write(tmp_path / "valid.xyz", labelled(truth, 2, 50))
    arguments = ["train", "--foundation", str(file), "--train", str(tmp_path / "train.xyz"), "--json", "--trust"]
    arguments += ["--valid", str(tmp_path / "valid.xyz"), "--strategy", "transfer", "--set", "epochs=12"]
    done = CliRunner().invoke(
        app, [*arguments, "--set", "lr=0.003", "--set", "batch_size=2", "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["model"]["architecture"] == foundation.architecture
    assert answer["model_file"].endswith(f"model{foundation.backend.plain_suffix}")
    assert answer["improved"]
