"""Hessian columns against finite differences and mace's own Hessian; the gradient of the curvature loss."""

import numpy as np
import pytest
import torch
from ase.build import bulk
from phonosmith.training.models import model_e0, model_numbers

from phonosmith.harmonic.curvature import curvature_target
from phonosmith.training.curvature import CurvatureTerm, hessian_columns
from phonosmith.training.graphs import build_graph, collate, fresh


def batch_of(atoms, module, margin=0.0):
    graph = build_graph(
        atoms,
        None,
        numbers=model_numbers(module),
        cutoff=float(module.r_max) + margin,
        e0=model_e0(module)[0],
        dtype=torch.float64,
    )
    return collate([graph])


def term_of(module, target, **settings):
    columns = list(target.columns)
    return CurvatureTerm(
        batch=batch_of(target.atoms, module, margin=0.1),
        reference=torch.as_tensor(target.hessian[:, columns].T.copy()),
        columns=target.columns,
        column_weights=torch.tensor(target.weights, dtype=torch.float64),
        **{"weight": 100.0, "forces_weight": 20.0, "stress_weight": 5.0, **settings},
    )


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
    exact = hessian_columns(module, batch_of(atoms, module), columns).detach()
    scale = float(exact.abs().max())
    # the error of a central difference falls as step squared: 1e-4 Å leaves a few 1e-8
    difference = hessian_columns(module, batch_of(atoms, module, 0.1), columns, method="fd", step=1e-4).detach()
    assert float((exact - difference).abs().max()) < 1e-6 * scale
    full = module(fresh(batch_of(atoms, module)), training=False, compute_hessian=True)["hessian"].detach()
    full = full.reshape(3 * len(atoms), 3 * len(atoms))
    assert torch.allclose(exact, full[:, columns].T, rtol=0, atol=1e-12 * scale)


def test_parameter_gradient_of_the_curvature_loss(tiny_model, copper_phonon):
    module = tiny_model(numbers=(29,))
    target = curvature_target(copper_phonon)
    parameters = [p for p in module.parameters() if p.numel()]
    for parameter in parameters:
        parameter.grad = None
    term = term_of(module, target)
    value = term.accumulate(module, parameters)
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
        values.append(term.accumulate(module, parameters))
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
        value = term.accumulate(module, parameters)
        gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters])
        found[method] = value, gradient, term.mae(module)
    # central difference of step 1e-3 Å: relative error about 1e-6; signs of near-zero differences add a little
    assert found["fd"][0] == pytest.approx(found["autograd"][0], rel=1e-4)
    assert found["fd"][2] == pytest.approx(found["autograd"][2], rel=1e-4)
    scale = float(found["autograd"][1].abs().max())
    assert float((found["fd"][1] - found["autograd"][1]).abs().max()) < 1e-3 * scale


class NoThirdDerivative(torch.nn.Module):
    """A model whose force graph cannot be differentiated twice more, as with a fused kernel."""

    def __init__(self, model):
        super().__init__()
        self.inner = model

    def forward(self, data, training=False, compute_stress=False, **_):
        output = self.inner(data, training=training, compute_stress=compute_stress)
        return {key: self._cut(value) if key == "forces" else value for key, value in output.items()}

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


def test_falls_back_to_differences(tiny_model, copper_phonon):
    inner = tiny_model(numbers=(29,))
    module = NoThirdDerivative(inner)
    target = curvature_target(copper_phonon)
    parameters = [p for p in module.parameters() if p.numel()]
    term = term_of(inner, target)
    value = term.accumulate(module, parameters)
    assert term.method == "fd"
    assert any("finite differences" in note for note in term.notes)
    whole = term_of(inner, target, method="fd")
    assert value == pytest.approx(whole.accumulate(inner, parameters), rel=1e-9)


def test_columns_are_cycled(copper_phonon, tiny_model):
    term = term_of(tiny_model(numbers=(29,)), curvature_target(copper_phonon))
    term.columns, term.per_step = (0, 1, 2, 3, 4), 2
    assert [term.next_columns() for _ in range(3)] == [[0, 1], [2, 3], [4, 0]]
