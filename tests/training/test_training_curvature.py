"""Hessian columns against finite differences and mace's own Hessian; the gradient of the curvature loss."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from phonosmith.harmonic.curvature import CurvatureTarget, curvature_target, hold_out
from phonosmith.potentials.graphs import collate, make_graph
from phonosmith.potentials.hessian import reverse_columns
from phonosmith.potentials.mace.backend import MaceBackend
from phonosmith.potentials.mace.inputs import model_inputs
from phonosmith.training import curvature
from phonosmith.training.curvature import Columns, CurvatureCell, CurvatureTerm, difference_column
from phonosmith.training.spec import TrainSpec

BACKEND = MaceBackend()


def batch_of(atoms, module, margin=0.0):
    graph = make_graph(atoms, BACKEND.atomic_numbers(module), BACKEND.cutoff(module) + margin)
    return collate([graph], torch.float64, "cpu")


def cell_of(module, target):
    columns = list(target.columns)
    reference = torch.as_tensor(target.hessian[:, columns].T.copy())
    weights = torch.tensor(target.weights, dtype=torch.float64)
    return CurvatureCell(
        batch_of(target.atoms, module, margin=0.1), (Columns(torch.tensor(columns), reference, weights),)
    )


def term_of(module, target, backend=BACKEND, **settings):
    weights = {"weight": 100.0, "forces_weight": 20.0, "stress_weight": 5.0}
    return CurvatureTerm(backend, [cell_of(module, target)], spec_of(**weights | settings))


def spec_of(**settings):
    settings = {"sampling": "irreducible"} | settings
    return TrainSpec(**{f"curvature_{name}": value for name, value in settings.items()})


@pytest.fixture(scope="module")
def setting(tiny_model):
    module = tiny_model()
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[0] = "Al"
    atoms.rattle(0.05, seed=1)
    return module, atoms


def test_columns_equal_differences_and_mace(setting):
    module, atoms = setting
    columns = [0, 4, 11]
    output = BACKEND.predict(module, batch_of(atoms, module), stress=False, create_graph=True)
    exact = reverse_columns(output.forces, output.positions, columns, create_graph=False).detach()
    scale = float(exact.abs().max())
    # the error of a central difference falls as step squared: 1e-4 Å leaves a few 1e-8
    wide = batch_of(atoms, module, 0.1)
    difference = torch.stack([difference_column(BACKEND, module, wide, column, 1e-4) for column in columns])
    assert float((exact - difference).abs().max()) < 1e-6 * scale
    inputs = model_inputs(module, batch_of(atoms, module))
    full = module(inputs, training=False, compute_hessian=True)["hessian"].detach()
    full = full.reshape(3 * len(atoms), 3 * len(atoms))
    assert torch.allclose(exact, full[:, columns].T, rtol=0, atol=1e-12 * scale)


def test_parameter_gradient_of_the_curvature_loss(tiny_model, copper_phonon):
    module = tiny_model(numbers=(29,))
    target = curvature_target(copper_phonon)
    parameters = [p for p in module.parameters() if p.numel()]
    for parameter in parameters:
        parameter.grad = None
    term = term_of(module, target)
    value = float(term.accumulate(module, parameters))
    assert term.method == "autograd"
    rng = np.random.default_rng(0)
    direction = [torch.as_tensor(rng.normal(size=tuple(p.shape))) for p in parameters]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(parameters, direction, strict=True) if p.grad is not None)
    step, values = 1e-6, []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=sign * step)
        term.used = 0
        for p in parameters:
            p.grad = None
        values.append(float(term.accumulate(module, parameters)))
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(d, alpha=sign * step)
    assert value > 1
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


def test_difference_mode_gives_the_same_loss_and_gradient(tiny_model, copper_phonon):
    module = tiny_model(numbers=(29,))
    target = curvature_target(copper_phonon)
    parameters = [p for p in module.parameters() if p.numel()]
    found = {}
    for method in ("autograd", "fd"):
        for parameter in parameters:
            parameter.grad = None
        term = term_of(module, target, method=method, step=1e-3)
        value = float(term.accumulate(module, parameters))
        gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters])
        found[method] = value, gradient, term.mae(module)
    # central difference of step 1e-3 Å: relative error about 1e-6; signs of near-zero differences add a little
    assert found["fd"][0] == pytest.approx(found["autograd"][0], rel=1e-4)
    assert found["fd"][2] == pytest.approx(found["autograd"][2], rel=1e-4)
    scale = float(found["autograd"][1].abs().max())
    assert float((found["fd"][1] - found["autograd"][1]).abs().max()) < 1e-3 * scale


class NoThirdDerivative(MaceBackend):
    """An architecture whose force graph cannot be differentiated twice more, as with a fused kernel."""

    def predict(self, model, batch, *, stress, create_graph):
        output = super().predict(model, batch, stress=stress, create_graph=create_graph)
        return replace(output, forces=self._cut(output.forces))

    @staticmethod
    def _cut(forces):
        class Cut(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.clone()

            @staticmethod
            def backward(ctx, g):
                # grad mode is on in a backward pass only when a graph of it is asked for
                if torch.is_grad_enabled():
                    raise RuntimeError("no double backward in this kernel")
                return g

        return Cut.apply(forces)


def test_falls_back_to_differences(tiny_model, copper_phonon, monkeypatch):
    own = curvature.difference_column

    def column(*given):
        assert sys.exc_info()[0] is None, "a handled error holds the memory of what failed"
        return own(*given)

    monkeypatch.setattr(curvature, "difference_column", column)
    module = tiny_model(numbers=(29,))
    target = curvature_target(copper_phonon)
    parameters = [p for p in module.parameters() if p.numel()]
    term = term_of(module, target, NoThirdDerivative())
    value = float(term.accumulate(module, parameters))
    assert term.method == "fd"
    assert any("finite differences" in note for note in term.notes)
    whole = term_of(module, target, method="fd")
    assert value == pytest.approx(float(whole.accumulate(module, parameters)), rel=1e-9)


def test_columns_are_cycled(copper_phonon, tiny_model):
    """Those of one cell in order; those of several cells in turn."""
    target, module = curvature_target(copper_phonon), tiny_model(numbers=(29,))
    five, two = (
        cell_of(module, replace(target, columns=columns, weights=(1.0,) * len(columns)))
        for columns in ((0, 1, 2, 3, 4), (0, 4))
    )
    term = CurvatureTerm(BACKEND, [five], spec_of(weight=1.0, columns=2))
    assert [term.next_rows() for _ in range(3)] == [{0: [[0], [1]]}, {0: [[2], [3]]}, {0: [[4], [0]]}]
    term = CurvatureTerm(BACKEND, [two, five], spec_of(weight=1.0, columns=3))
    assert [term.next_rows() for _ in range(2)] == [{0: [[0], [1]], 1: [[0]]}, {1: [[1], [2], [3]]}]


def test_columns_are_drawn_uniformly(copper_phonon, tiny_model):
    """Every column of every crystal equally often, every cell once a turn; what comes next follows from the count."""
    target, module = curvature_target(copper_phonon), tiny_model(numbers=(29,))
    columns = target.equivalent_columns
    assert columns == tuple(range(96))  # all 3N of the 32 equivalent atoms
    small = cell_of(module, replace(target, columns=columns[:6], weights=(1.0,) * 6))
    joint = replace(small, members=(small.members[0], cell_of(module, target).members[0], small.members[0]))
    spec = spec_of(weight=1.0, sampling="uniform")
    term = CurvatureTerm(BACKEND, [small, joint], spec, seed=3)
    drawn = [term.next_rows() for _ in range(2400)]
    assert all({*drawn[k], *drawn[k + 1]} == {0, 1} for k in range(0, 2400, 2))
    assert {tuple(step) for step in drawn[::2]} == {(0,), (1,)}
    rows = {c: np.array([step[c][0] for step in drawn if c in step]) for c in (0, 1)}
    assert rows[1].shape == (1200, 3)
    for counts in (np.bincount(rows[0][:, 0]), np.bincount(rows[1][:, 0]), np.bincount(rows[1][:, 2])):
        # 200 expected of 1200: five standard deviations of a binomial are 65
        assert len(counts) == 6
        assert np.abs(counts - 200).max() < 65
    assert not rows[1][:, 1].any()
    again = CurvatureTerm(BACKEND, [small, joint], spec, used=700, seed=3)
    assert [again.next_rows() for _ in range(5)] == drawn[700:705]
    other = CurvatureTerm(BACKEND, [small, joint], spec, seed=4)
    assert [other.next_rows() for _ in range(20)] != drawn[:20]


@pytest.mark.parametrize("method", ["autograd", "fd"])
def test_crystals_that_share_a_step(copper_phonon, tiny_model, method):
    """One column of each of two crystals in one batch: loss and gradient are those of each alone, by their sizes."""
    module = tiny_model(numbers=(29,))
    parameters = [p for p in module.parameters() if p.numel()]
    target = curvature_target(copper_phonon)
    small = bulk("Cu", cubic=True)
    small.rattle(0.05, seed=2)
    hessian = np.random.default_rng(3).normal(size=(12, 12))
    alone = [cell_of(module, CurvatureTarget(small, hessian, (0, 4), (1.0, 1.0))), cell_of(module, target)]
    graphs = [
        make_graph(atoms, BACKEND.atomic_numbers(module), BACKEND.cutoff(module) + 0.1)
        for atoms in (small, target.atoms)
    ]
    second = alone[1].members[0]
    members = (alone[0].members[0], replace(second, numbers=second.numbers + 12))
    energies = torch.tensor([-1.0, 3.0], dtype=torch.float64)
    joint = CurvatureCell(collate(graphs, torch.float64, "cpu"), members, energies)

    def step(cell, rows, **weights):
        for p in parameters:
            p.grad = None
        spec = spec_of(**weights, method=method, sampling="uniform")
        term = CurvatureTerm(BACKEND, [cell], spec)
        value = float(term.accumulate(module, parameters, term.choice({0: rows})))
        return value, torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters])

    # means over coordinates and atoms: 4 of 36 atoms are the first crystal's; stresses are means over crystals
    for weights, shares in (({"weight": 100.0, "forces_weight": 20.0}, (4 / 36, 32 / 36)),):
        parts = [step(cell, [[row]], **weights) for cell, row in zip(alone, (1, 0), strict=True)]
        together = step(joint, [[1, 0]], **weights)
        assert together[0] == pytest.approx(sum(s * one for s, (one, _) in zip(shares, parts, strict=True)), rel=1e-10)
        expected = sum(s * gradient for s, (_, gradient) in zip(shares, parts, strict=True))
        assert torch.allclose(together[1], expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    plain = step(joint, [[1, 0]], weight=100.0)
    more = step(joint, [[1, 0]], weight=100.0, energy_weight=20.0, stress_weight=5.0)
    found = BACKEND.predict(module, joint.batch, stress=True, create_graph=True)
    expected = 20.0 * np.mean([abs(float(found.interaction[0]) + 1) / 4, abs(float(found.interaction[1]) - 3) / 32])
    expected += 5.0 * float(found.stress.abs().mean())
    assert more[0] - plain[0] == pytest.approx(expected, rel=1e-8)


def test_columns_held_out_are_not_taught_by_symmetry():
    """Of five kinds of atoms one is held out; no column drawn for training is a symmetric image of its columns."""
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    cell = Atoms("Cu5", [[0.3 * k, 0.2 * k * k, 2.1 * k] for k in range(5)], cell=[4.0, 4.4, 11.0], pbc=True)
    phonon = Phonopy(
        PhonopyAtoms(numbers=cell.numbers, cell=cell.cell.array, positions=cell.positions),
        supercell_matrix=np.diag([2, 1, 1]),
    )
    n = len(phonon.supercell)
    phonon.force_constants = np.random.default_rng(0).normal(size=(n, n, 3, 3))
    target = curvature_target(phonon)
    taught, judged = hold_out(target, 0.2, np.random.default_rng(1))
    assert sorted([*taught.columns, *judged.columns]) == sorted(target.columns)
    assert len({column // 3 for column in judged.columns}) == 1
    assert np.mean(taught.weights) == pytest.approx(1.0)
    assert not set(taught.equivalent_columns) & set(judged.equivalent_columns)
    assert len(judged.equivalent_columns) == 6  # the atom and its image by the translation
    assert sorted([*taught.equivalent_columns, *judged.equivalent_columns]) == list(range(3 * n))
    assert hold_out(target, 0.19, np.random.default_rng(1)) == (target, None)


@pytest.mark.parametrize("method", ["autograd", "fd"])
def test_step_over_several_cells_is_the_mean_over_its_columns(copper_phonon, tiny_model, method):
    """Loss and gradient of three columns of two cells are those of the three alone, averaged."""
    module = tiny_model(numbers=(29,))
    parameters = [p for p in module.parameters() if p.numel()]
    target = curvature_target(copper_phonon)
    small = target.atoms[:4]
    small.set_cell(bulk("Cu", cubic=True).cell)
    small.rattle(0.05, seed=2)
    hessian = np.random.default_rng(3).normal(size=(12, 12))
    targets = [CurvatureTarget(small, hessian, (0, 4), (0.5, 1.5)), target]
    cells = [cell_of(module, one) for one in targets]

    def step(*some, columns=1, **settings):
        for p in parameters:
            p.grad = None
        spec = spec_of(weight=100.0, forces_weight=20.0, stress_weight=5.0, method=method, columns=columns)
        term = CurvatureTerm(BACKEND, some, spec, **settings)
        value = float(term.accumulate(module, parameters))
        return value, torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters])

    together = step(*cells, columns=3)
    alone = [step(cells[0], used=0), step(cells[0], used=1), step(cells[1])]
    assert together[0] == pytest.approx(np.mean([value for value, _ in alone]), rel=1e-12)
    assert torch.allclose(together[1], sum(gradient for _, gradient in alone) / 3, rtol=1e-10, atol=1e-10)
    spec = spec_of(weight=100.0, method=method)
    both = CurvatureTerm(BACKEND, cells, spec)
    single = [CurvatureTerm(BACKEND, [cell], spec).mae(module) for cell in cells]
    assert both.mae(module) == pytest.approx((2 * single[0] + single[1]) / 3, rel=1e-12)
