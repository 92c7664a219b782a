"""Blocks of atoms give the derivatives of the whole cell, with less memory."""

import numpy as np
import pytest
import torch
from ase.build import bulk

from phonosmith.potentials.mace.blocks import block_size, in_blocks, step_bytes_per_atom
from phonosmith.training.curvature import CurvatureTerm, hessian_columns
from phonosmith.training.graphs import build_graph, collate, fresh


def batch_of(atoms, dtype=torch.float64):
    return collate([build_graph(atoms, None, numbers=[13, 29], cutoff=3.5, e0=np.zeros(2), dtype=dtype)])


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
        term = CurvatureTerm(
            batch, torch.zeros(2, 24, dtype=torch.float64), (0, 11), torch.ones(2, dtype=torch.float64), 100.0, 20.0,
            5.0, per_step=2, method="autograd",
        )  # fmt: skip
        with in_blocks(module, size):
            output = module(fresh(batch), training=True, compute_stress=True)
            columns = hessian_columns(module, batch, [0, 11])
            value = term.accumulate(module, parameters)
        gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters])
        found.append([output["energy"], output["forces"], output["stress"], columns, torch.tensor(value), gradient])
    for whole, blocked in zip(*found, strict=True):
        # the same operations, summed in another order
        assert torch.allclose(whole, blocked, rtol=1e-12, atol=1e-12 * float(whole.detach().abs().max()))
    assert float(found[0][-1].abs().max()) > 0.1
    assert [name for name, _ in module.named_parameters()] == names


def test_memory_decides_about_blocks(tiny_model, cell):
    module = tiny_model()
    batch = batch_of(cell)
    per_atom = step_bytes_per_atom(module, batch)
    assert per_atom == pytest.approx(2 * step_bytes_per_atom(module.float(), batch_of(cell, torch.float32)), rel=0.2)
    module.double()
    assert block_size(module, batch, 8.0) is None
    assert block_size(module, batch, 3.5 * per_atom / 1e9) == 3
    assert block_size(module, batch, 1e-9) == 1
    term = CurvatureTerm(
        batch, torch.zeros(1, 24, dtype=torch.float64), (0,), torch.ones(1, dtype=torch.float64), 100.0,
        memory_gb=3.5 * per_atom / 1e9,
    )  # fmt: skip
    parameters = [p for p in module.parameters() if p.numel()]
    value = term.accumulate(module, parameters)
    assert term.method == "autograd"
    assert "blocks of 3 of 8 atoms" in term.notes[0]
    whole = CurvatureTerm(term.batch, term.reference, (0,), term.column_weights, 100.0, method="autograd")
    assert value == pytest.approx(whole.accumulate(module, parameters), rel=1e-12)
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

    columns = batch["positions"].numel()
    term = CurvatureTerm(
        batch, torch.zeros(1, columns, dtype=torch.float64), (0,), torch.ones(1, dtype=torch.float64), 100.0,
        method="autograd",
    )  # fmt: skip
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
