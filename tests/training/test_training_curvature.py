"""Hessian columns against finite differences and mace's own Hessian; the gradient of the curvature loss."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk

from phonosmith.harmonic.curvature import CurvatureTarget, curvature_target
from phonosmith.potentials.graphs import collate, make_graph
from phonosmith.potentials.hessian import reverse_columns
from phonosmith.potentials.mace.backend import MaceBackend
from phonosmith.potentials.mace.inputs import model_inputs
from phonosmith.training import curvature
from phonosmith.training.curvature import CurvatureCell, CurvatureTerm, difference_column
from phonosmith.training.spec import TrainSpec

BACKEND = MaceBackend()


def batch_of(atoms, module, margin=0.0):
    graph = make_graph(atoms, BACKEND.atomic_numbers(module), BACKEND.cutoff(module) + margin)
    return collate([graph], torch.float64, "cpu")


def cell_of(module, target):
    columns = list(target.columns)
    return CurvatureCell(
        batch=batch_of(target.atoms, module, margin=0.1),
        columns=target.columns,
        reference=torch.as_tensor(target.hessian[:, columns].T.copy()),
        weights=torch.tensor(target.weights, dtype=torch.float64),
    )


def term_of(module, target, backend=BACKEND, **settings):
    weights = {"weight": 100.0, "forces_weight": 20.0, "stress_weight": 5.0}
    return CurvatureTerm(backend, [cell_of(module, target)], spec_of(**weights | settings))


def spec_of(**settings):
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
    cell = cell_of(tiny_model(numbers=(29,)), curvature_target(copper_phonon))
    five, two = replace(cell, columns=(0, 1, 2, 3, 4)), replace(cell, columns=(0, 4))
    term = CurvatureTerm(BACKEND, [five], spec_of(weight=1.0, columns=2))
    assert [[k for _, k in term.next_columns()] for _ in range(3)] == [[0, 1], [2, 3], [4, 0]]
    term = CurvatureTerm(BACKEND, [two, five], spec_of(weight=1.0, columns=3))
    assert [term.next_columns() for _ in range(2)] == [[(0, 0), (1, 0), (0, 1)], [(1, 1), (1, 2), (1, 3)]]


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
