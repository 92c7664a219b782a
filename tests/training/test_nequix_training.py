"""Fine-tuning of Nequix models: losses, gradients, the pull, and what comes out, on a small random model."""

import json

import numpy as np
import pytest
from ase.build import bulk

from phonosmith.core.errors import ConfigurationError, TrainingError
from phonosmith.core.hashing import digest_bytes
from phonosmith.potentials.nequix.backend import nequix_installed
from phonosmith.structures.labels import label_frame, labels_of
from phonosmith.testing.tiny_nequix import write_tiny_nequix
from phonosmith.training.losses import LossTerms
from phonosmith.training.spec import make_spec

pytestmark = pytest.mark.skipif(
    not nequix_installed(), reason="nequix's JAX backend is not installed (tools/install_nequix.sh)"
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_tiny_nequix(tmp_path_factory.mktemp("nequix") / "tiny.nqx")


def potential_of(path):
    from phonosmith.potentials.nequix.potential import load_nequix

    return load_nequix(path.read_bytes(), name="tiny")


@pytest.fixture
def foundation(file):
    return potential_of(file)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Return another random model of the same architecture: the truth to be learnt."""
    return potential_of(write_tiny_nequix(tmp_path_factory.mktemp("nequix") / "truth.nqx", seed=3))


def labelled(reference, count, first=0):
    """Return rattled two-atom silicon cells with the reference's labels."""
    frames = []
    for seed in range(first, first + count):
        atoms = bulk("Si")
        atoms.rattle(0.1, seed=seed)
        frames.append(atoms)
    return [
        label_frame(atoms, energy=one.energy, forces=one.forces, stress=one.stress)
        for atoms, one in zip(frames, reference.evaluate(frames), strict=True)
    ]


def target_of(reference):
    """Return the reference's force constants of a two-atom cell; every column counts alike."""
    from phonosmith.training.curvature import CurvatureTarget

    atoms = bulk("Si")
    hessian = reference.hessian_columns(atoms, range(6)).T
    return CurvatureTarget(atoms, hessian, (0, 4), (0.5, 1.5), "truth")


def loss_inputs(foundation, reference):
    from phonosmith.training.jax_data import common_shape, labelled_batch, labelled_graph

    frames = labelled(reference, 3)
    # cells of different sizes, one without stress, one from replay
    big = frames[1] * (2, 1, 1)
    found = reference.evaluate([big])[0]
    frames[1] = label_frame(big, energy=found.energy + 0.1, forces=found.forces)
    graphs = [
        labelled_graph(atoms, labels_of(atoms), foundation.row_of, foundation.r_max, str(index), replay=index == 2)
        for index, atoms in enumerate(frames)
    ]
    return frames, labelled_batch(graphs, common_shape([one.graph for one in graphs], 3), "float64")


@pytest.mark.parametrize("convention", ["per_atom", "per_cell"])
def test_loss_equals_its_formula(foundation, reference, convention):
    """The formula once more in plain numpy, structure by structure; 1e-12 relative in float64."""
    from phonosmith.potentials.nequix.backend import precision
    from phonosmith.training.jax_losses import efs_loss

    terms = LossTerms(energy=3.0, forces=50.0, stress=700.0, delta=0.02, convention=convention, replay=0.25)
    frames, batch = loss_inputs(foundation, reference)
    with precision("float64"):
        outputs = foundation.functions.evaluate(foundation._leaves, batch)
        found = float(efs_loss(outputs, batch, terms))

    def huber(x):
        x = np.abs(x)
        return np.where(x < 0.02, x * x / 2, 0.02 * (x - 0.01))

    energy, forces, stress, components, tensors = 0.0, 0.0, 0.0, 0, 0
    for place, (atoms, mine) in enumerate(zip(frames, foundation.evaluate(frames), strict=True)):
        labels, n, factor = labels_of(atoms), len(atoms), 0.25 if place == 2 else 1.0
        difference = mine.energy - labels.energy
        energy += factor * float(huber(difference / n) if convention == "per_atom" else huber(difference) / n)
        forces += factor * float(huber(mine.forces - labels.forces).sum())
        components += 3 * n
        if labels.stress is not None:
            error = huber(mine.stress - labels.stress)
            stress += factor * float(error[:3].sum() + 2 * error[3:].sum()) / 9
            tensors += 1
    expected = 3.0 * energy / 3 + 50.0 * forces / components + 700.0 * stress / tensors
    assert found == pytest.approx(expected, rel=1e-10)


def test_curvature_gradient_equals_finite_differences(foundation, reference):
    """The parameter gradient of the column loss along three random directions; h² error of 1e-4 steps."""
    from phonosmith.potentials.nequix.backend import architecture_key, precision
    from phonosmith.training.jax_data import column_batch, column_graphs, common_shape
    from phonosmith.training.jax_losses import curvature_gradient

    columns = column_graphs(target_of(reference), foundation.row_of, foundation.r_max)
    shape = common_shape([one.graph for one in columns], 2)
    function = curvature_gradient(architecture_key(foundation.weights.config), 100.0, 20.0, 5.0)
    random = np.random.default_rng(0)
    with precision("float64"):
        batch = column_batch(columns, shape, "float64")
        _, gradient = function(foundation._leaves, batch)
        assert all(np.isfinite(part).all() for part in gradient)
        for _ in range(3):
            way = [random.normal(size=leaf.shape) for leaf in foundation._leaves]
            slope = sum(float((part * step).sum()) for part, step in zip(gradient, way, strict=True))
            values = [
                float(function([leaf + sign * 1e-5 * step for leaf, step in zip(foundation._leaves, way, strict=True)],
                               batch)[0])
                for sign in (1, -1)
            ]  # fmt: skip
            assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=2e-5)


def test_columns_of_the_loss_are_those_of_the_potential(foundation, reference):
    from phonosmith.potentials.nequix.backend import architecture_key, precision
    from phonosmith.training.jax_data import column_batch, column_graphs, common_shape
    from phonosmith.training.jax_losses import column_error_function

    target = target_of(reference)
    columns = column_graphs(target, foundation.row_of, foundation.r_max)
    with precision("float64"):
        errors = np.asarray(
            column_error_function(architecture_key(foundation.weights.config))(
                foundation._leaves, column_batch(columns, common_shape([one.graph for one in columns], 2), "float64")
            )
        )
    mine = foundation.hessian_columns(target.atoms, target.columns)
    expected = np.abs(mine - target.hessian[:, list(target.columns)].T).mean(axis=1)
    np.testing.assert_allclose(errors[:2], expected, rtol=1e-9)
    assert errors[2] == 0


def test_pull_equals_adamw_on_the_difference(foundation):
    """40 steps against torch's AdamW decaying an additive update from zero; 1e-12 in float64, as for MACE."""
    import torch

    from phonosmith.potentials.nequix.backend import precision
    from phonosmith.training.jax_optimizer import Moved, make_update

    spec = make_spec("delta", dtype="float64", clip_norm=1.0)
    random = np.random.default_rng(1)
    start = [random.normal(size=(3, 4)), random.normal(size=5)]
    gradients = [[random.normal(size=part.shape) for part in start] for _ in range(40)]
    deltas = [torch.nn.Parameter(torch.zeros(part.shape, dtype=torch.float64)) for part in start]
    optimizer = torch.optim.AdamW(deltas, lr=0.01, weight_decay=10.0)
    with precision("float64"):
        update, state = make_update(spec, start, Moved((True, True), (True, False)), start)
        weights = list(start)
        for step, gradient in enumerate(gradients):
            rate = 0.01 if step < 20 else 0.003
            weights, state, _ = update(weights, state, gradient, rate, step + 1)
            for delta, part in zip(deltas, gradient, strict=True):
                delta.grad = torch.tensor(part)
            torch.nn.utils.clip_grad_norm_(deltas, 1.0)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
    for found, begin, delta in zip(weights, start, deltas, strict=True):
        np.testing.assert_allclose(np.asarray(found), begin + delta.detach().numpy(), atol=1e-12)


@pytest.mark.slow
def test_delta_with_curvature_learns_and_the_file_loads_in_nequix(foundation, reference, tmp_path):
    from nequix.calculator import NequixCalculator

    from phonosmith.potentials.registry import load
    from phonosmith.training.deliver import register, write
    from phonosmith.training.finetune import fine_tune

    train, valid = labelled(reference, 8), labelled(reference, 4, first=50)
    spec = make_spec("delta+pft", epochs=12, pull=0.1, batch_size=4)
    result = fine_tune(foundation, train, valid, spec, curvature=target_of(reference), seed=0, name="si-delta")
    document = register(result).document
    after, before = document.metrics["valid"].after, document.metrics["valid"].shifted
    assert document.improved
    assert document.checks.passed
    assert after.mae_forces_mev_per_angstrom < before.mae_forces_mev_per_angstrom
    assert document.curvature.mae_after_ev_per_angstrom2 < document.curvature.mae_before_ev_per_angstrom2
    assert document.curvature.steps == document.steps == 24
    assert document.model.architecture == "nequix"
    model, page = write(result, tmp_path / "out")
    assert model.name == "model.nqx"
    assert json.loads(page.read_text())["name"] == "si-delta"
    atoms = valid[0].copy()
    kept = load(document.model).evaluate([atoms])[0]
    atoms.calc = NequixCalculator(model_path=str(model), backend="jax", use_kernel=False)
    # nequix computes in float32
    np.testing.assert_allclose(kept.forces, atoms.get_forces(), atol=1e-5)


@pytest.mark.slow
def test_frozen_layers_stay_and_cotraining_with_own_labels(foundation, reference):
    from phonosmith.training.finetune import fine_tune

    spec = make_spec("freeze1", replay="cotrain", replay_size=3, epochs=2, ema=0.9, e0_final_shift=False)
    pool = [atoms.copy() for atoms in labelled(reference, 4, first=90)]
    result = fine_tune(foundation, labelled(reference, 4), labelled(reference, 2, 50), spec, replay=pool, seed=1)
    document = result.document
    assert document.changed_by_block["layers[0]"] == 0
    assert document.changed_by_block["layers[1]"] > 0
    assert document.replay.labels == "foundation"
    assert document.replay.visits == 6
    assert document.replay.before.mae_forces_mev_per_angstrom == pytest.approx(0.0, abs=1e-3)
    old, new = foundation.weights.leaves, result.model.weights.leaves
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(old[1:], new[1:], strict=True)]
    assert document.n_changed == sum(int((a != b).sum()) for a, b in pairs)


@pytest.mark.slow
def test_interrupted_training_ends_with_the_same_weights(foundation, reference, tmp_path):
    from phonosmith.training.jax_finetune import fine_tune_nequix

    train, valid = labelled(reference, 4), labelled(reference, 2, 50)
    spec = make_spec("pft", epochs=4, batch_size=2, e0="foundation")
    target = target_of(reference)

    def run(folder, **settings):
        return fine_tune_nequix(foundation, train, valid, spec, curvature=target, seed=2, workdir=folder, **settings)

    whole = run(tmp_path / "whole")
    part = run(tmp_path / "parts", walltime=1e-6)
    assert not part.document.finished
    assert part.document.epochs_run == 1
    rest = run(tmp_path / "parts")
    assert rest.document.finished
    assert rest.document.epochs_run == 4
    for one, other in zip(whole.model.weights.leaves, rest.model.weights.leaves, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize(
    ("strategy", "settings", "text"),
    [
        ("scratch", {}, "scratch"),
        ("lora", {}, "lora"),
        ("multihead", {}, "multihead"),
        ("freeze3", {}, "Freezing 3 blocks leaves nothing to train: this model has 3"),
    ],
)
def test_strategies_without_a_nequix_counterpart_are_refused(foundation, reference, strategy, settings, text):
    from phonosmith.training.finetune import fine_tune

    spec = make_spec(strategy, **settings)
    replay = labelled(reference, 2) if spec.uses_replay else None
    with pytest.raises(ConfigurationError, match=text):
        fine_tune(foundation, labelled(reference, 2), labelled(reference, 1), spec, replay=replay, seed=0)


@pytest.mark.slow
def test_many_materials_take_turns(foundation, reference):
    """Columns of two cells of different sizes share one shape; the best epoch is chosen on a third."""
    from phonosmith.training.curvature import CurvatureTarget
    from phonosmith.training.jax_finetune import fine_tune_nequix

    def target(symbol, repeat):
        atoms = bulk("Si", a=5.2 if symbol == "Ge" else 5.43) * repeat
        atoms.symbols[0] = symbol
        hessian = reference.hessian_columns(atoms, range(3 * len(atoms))).T
        return CurvatureTarget(atoms, hessian, (0, 4), (1.0, 1.0), symbol)

    spec = make_spec("pft", epochs=8, lr=3e-4, ema=None, curvature_columns=2, e0="foundation", cotrain_steps=1)
    frames = labelled(foundation, 8)
    result = fine_tune_nequix(
        foundation,
        frames,
        labelled(foundation, 2, 50),
        spec,
        curvature=[target("Si", (1, 1, 1)), target("Ge", (2, 1, 1))],
        valid_curvature=[target("Ge", (1, 1, 1))],
        seed=0,
    )
    curvature = result.document.curvature
    assert (curvature.n_columns, curvature.source, curvature.steps) == (4, "Si, Ge", 16)
    judged = [line["curvature_mae_ev_per_angstrom2"] for line in result.document.history]
    # the third cell is judged, not the two that are learnt
    assert judged[0] != pytest.approx(curvature.mae_before_ev_per_angstrom2, rel=1e-3)
    assert result.document.best_epoch > 0
    assert judged[result.document.best_epoch] < judged[0]


def test_loss_that_is_not_finite_stops(foundation, reference, monkeypatch):
    from phonosmith.training.jax_finetune import fine_tune_nequix

    spec = make_spec("transfer", lr=1e30, epochs=3, clip_norm=None, e0="foundation")
    with pytest.raises(TrainingError, match="not finite"):
        fine_tune_nequix(foundation, labelled(reference, 4), labelled(reference, 2, 50), spec, seed=0)


@pytest.mark.slow
def test_train_command(file, reference, tmp_path):
    """``phonosmith train`` takes a .nqx foundation and writes model.nqx and training.json."""
    from ase.io import write
    from typer.testing import CliRunner

    from phonosmith.cli.main import app

    write(tmp_path / "train.xyz", labelled(reference, 4))
    write(tmp_path / "valid.xyz", labelled(reference, 2, 50))
    arguments = ["train", "--foundation", str(file), "--train", str(tmp_path / "train.xyz"), "--json"]
    arguments += ["--valid", str(tmp_path / "valid.xyz"), "--strategy", "transfer", "--set", "epochs=3"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["model"]["architecture"] == "nequix"
    assert found["model_file"].endswith("model.nqx")
    assert found["improved"]
    assert found["model"]["parents"][0] == digest_bytes(file.read_bytes())
