"""Blocks of atoms give the derivatives of the whole cell, with less memory."""

import gc
from contextlib import suppress

import pytest
import torch
from ase.build import bulk

from phonosmith.potentials.graphs import collate, make_graph
from phonosmith.potentials.hessian import reverse_columns
from phonosmith.potentials.mace.backend import MaceBackend
from phonosmith.potentials.mace.blocks import in_blocks, step_bytes_per_atom
from phonosmith.potentials.mace.inputs import model_inputs
from phonosmith.training.curvature import Columns, CurvatureCell, CurvatureTerm
from phonosmith.training.spec import TrainSpec

BACKEND = MaceBackend()


def batch_of(atoms, dtype=torch.float64):
    return collate([make_graph(atoms, [13, 29], 3.5)], dtype, "cpu")


def term_of(batch, numbers=(0,), equilibrium=(0.0, 0.0), **settings):
    size = batch["positions"].numel()
    zeros, ones = torch.zeros(len(numbers), size, dtype=torch.float64), torch.ones(len(numbers), dtype=torch.float64)
    cell = CurvatureCell(batch, (Columns(torch.tensor(numbers), zeros, ones),))
    weights = {
        "weight": 100.0,
        "forces_weight": equilibrium[0],
        "stress_weight": equilibrium[1],
        "sampling": "irreducible",
    }
    spec = TrainSpec(**{f"curvature_{name}": value for name, value in (weights | settings).items()})
    return CurvatureTerm(BACKEND, [cell], spec)


@pytest.fixture(scope="module")
def cell():
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.symbols[:3] = "Al"
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.mark.parametrize("first", ["RealAgnosticInteractionBlock", "RealAgnosticDensityInteractionBlock"])
def test_every_derivative_is_that_of_the_whole_cell(tiny_model, cell, first):
    """Energy, forces, stress, Hessian columns and the parameter gradient of a curvature step, in blocks of 3 of 8."""
    settings = {"distance_transform": "Agnesi"} if "Density" in first else {}
    module = tiny_model(first=first, **settings)
    batch = batch_of(cell)
    parameters = [p for p in module.parameters() if p.numel()]
    names = [name for name, _ in module.named_parameters()]
    found = []
    for size in (None, 3):
        for p in parameters:
            p.grad = None
        term = term_of(batch, (0, 11), (20.0, 5.0), columns=2, method="autograd")
        with in_blocks(module, size):
            output = BACKEND.predict(module, batch, stress=True, create_graph=True)
            columns = reverse_columns(output.forces, output.positions, [0, 11], create_graph=True)
            value = float(term.accumulate(module, parameters))
        gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters])
        found.append([output.energy, output.forces, output.stress, columns, torch.tensor(value), gradient])
    for whole, blocked in zip(*found, strict=True):
        # the same operations, summed in another order
        assert torch.allclose(whole, blocked, rtol=1e-12, atol=1e-12 * float(whole.detach().abs().max()))
    assert float(found[0][-1].abs().max()) > 0.1
    assert [name for name, _ in module.named_parameters()] == names


def test_memory_decides_about_blocks(tiny_model, cell):
    module = tiny_model()
    batch = batch_of(cell)
    per_atom = step_bytes_per_atom(module, model_inputs(module, batch))
    half = model_inputs(module.float(), batch_of(cell, torch.float32))
    assert per_atom == pytest.approx(2 * step_bytes_per_atom(module, half), rel=0.2)
    module.double()
    assert BACKEND.atoms_at_a_time(module, batch, 8.0) is None
    assert BACKEND.atoms_at_a_time(module, batch, 3.5 * per_atom / 1e9) == 3
    assert BACKEND.atoms_at_a_time(module, batch, 1e-9) == 1
    term = term_of(batch, memory_gb=3.5 * per_atom / 1e9)
    parameters = [p for p in module.parameters() if p.numel()]
    value = float(term.accumulate(module, parameters))
    assert term.method == "autograd"
    assert "blocks of 3 of 8 atoms" in term.notes[0]
    whole = term_of(batch, method="autograd")
    assert value == pytest.approx(float(whole.accumulate(module, parameters)), rel=1e-12)
    assert term.mae(module) == pytest.approx(whole.mae(module), rel=1e-12)


def saved_at_once(module, batch, size):
    """Largest number of bytes autograd keeps at a time in one curvature step."""
    kept, most = {}, 0

    class Held:
        def __init__(self, tensor):
            self.tensor = tensor
            self.key = tensor.untyped_storage().data_ptr()
            kept.setdefault(self.key, [0, tensor.untyped_storage().nbytes()])[0] += 1
            nonlocal most
            most = max(most, sum(nbytes for _, nbytes in kept.values()))

        def __del__(self):
            kept[self.key][0] -= 1
            if not kept[self.key][0]:
                del kept[self.key]

    term = term_of(batch, method="autograd")
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor), in_blocks(module, size):
        term.accumulate(module, [p for p in module.parameters() if p.numel()])
    return most


def test_blocks_keep_less(tiny_model, cell):
    """Twice the cell needs twice the memory at once as a whole, much less in blocks of the same size."""
    module = tiny_model()
    small, large = batch_of(cell), batch_of(cell * (1, 2, 1))
    whole = saved_at_once(module, large, None)
    assert whole > 1.7 * saved_at_once(module, small, None)
    assert saved_at_once(module, large, 2) < 0.6 * whole


def test_the_estimate_leaves_no_graph_behind(tiny_model, cell):
    """One that is left ties the parameters to the stream it was made on; the collector comes when it likes."""
    module = tiny_model()
    inputs = model_inputs(module, batch_of(cell))
    gc.collect()
    gc.disable()
    try:
        before = graphs_alive()
        step_bytes_per_atom(module, inputs)
        assert graphs_alive() == before
    finally:
        gc.enable()


def graphs_alive():
    found = 0
    for one in gc.get_objects():
        with suppress(RuntimeError):  # of views that other tests have left
            found += type(one) is torch.Tensor and one.grad_fn is not None
    return found
